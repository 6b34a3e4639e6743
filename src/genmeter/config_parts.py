"""The parts of a monitor's configuration: the endpoint, the history, the journal, the limits."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field, fields
from typing import Any

from genmeter.errors import ConfigError

__all__ = [
    "METADATA_BYTES",
    "EndpointConfig",
    "HistoryConfig",
    "JournalConfig",
    "LabelLimits",
    "declare",
    "require_count",
]

METADATA_BYTES = 64 * 2**20
"""Bytes of free metadata that a history keeps unless told otherwise."""
_MAX_PORT = 65_535
# The sums of a window are 64-bit: 2**21 events of at most 2**41 tokens (a total of two parts of
# 2**40 each) stay below 2**63.
_MAX_CAPACITY = 2**21
# The history numbers the values of all labels with 16 bits.
_MAX_LABEL_VALUES = 5_000


def declare(default: Any, help_: str, env: str | None = None) -> Any:
    """Declare a field of a configuration.

    Args:
        default: What it is unless told otherwise.
        help_: What it does, for the documentation.
        env: The environment variable that sets it.
    """
    return field(default=default, metadata={"help": help_, "env": env})


def require_count(owner: object, name: str, *, least: int, most: int | None = None) -> None:
    """Check a field that is a whole number.

    Args:
        owner: The configuration.
        name: The field.
        least: Its lowest value.
        most: Its highest value; None for no limit.

    Raises:
        ConfigError: It is none, or out of range.
    """
    value = getattr(owner, name)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{type(owner).__name__}.{name} is {value!r}; give a whole number {span}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """The scrape endpoint.

    It is on by default (``OTEL_METRICS_EXPORTER`` has ``prometheus`` unless it is set to
    something else), listens on 127.0.0.1:9464 and is bound at the first event, in the main
    process only. With ``enabled=True``, a ``host`` or a ``port`` given in code it is bound at
    construction, and an address that is taken is an error there.

    Raises:
        ConfigError: A value that cannot be used.
    """

    enabled: bool | None = declare(None, "listen; None leaves it to OTEL_METRICS_EXPORTER")
    host: str | None = declare(
        None, "interface; None leaves it to OTEL_EXPORTER_PROMETHEUS_HOST, else 127.0.0.1"
    )
    port: int | None = declare(
        None,
        "TCP port, 0 for any free one; None leaves it to OTEL_EXPORTER_PROMETHEUS_PORT, else 9464",
    )
    certfile: str | None = declare(
        None, "PEM file of the TLS certificate chain", "GENMETER_ENDPOINT_CERTFILE"
    )
    keyfile: str | None = declare(
        None,
        "PEM file of the TLS private key, where certfile does not hold it",
        "GENMETER_ENDPOINT_KEYFILE",
    )
    client_ca_file: str | None = declare(
        None,
        "PEM file of the authorities; a scrape then needs a certificate of one of them",
        "GENMETER_ENDPOINT_CLIENT_CA_FILE",
    )
    username: str | None = declare(
        None, "user name that a scrape must give", "GENMETER_ENDPOINT_USERNAME"
    )
    password: str | None = field(
        default=None,
        repr=False,
        metadata={
            "help": "password that a scrape must give",
            "env": "GENMETER_ENDPOINT_PASSWORD",
        },
    )
    created_series: bool | None = declare(
        None,
        "expose when each counter and histogram began, as _created; None leaves it to "
        "PROMETHEUS_DISABLE_CREATED_SERIES, else True",
    )
    linger: float = declare(
        0.0, "seconds to wait at shutdown for one more whole scrape", "GENMETER_ENDPOINT_LINGER"
    )

    def __post_init__(self) -> None:
        """Check every field."""
        if self.port is not None:
            require_count(self, "port", least=0, most=_MAX_PORT)
        is_number = isinstance(self.linger, int | float) and not isinstance(self.linger, bool)
        if not (is_number and 0 <= self.linger <= threading.TIMEOUT_MAX):
            raise ConfigError(f"EndpointConfig.linger is {self.linger!r}; give seconds, 0 or more")
        for name in ("enabled", "created_series"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, bool)):
                raise ConfigError(f"EndpointConfig.{name} is {value!r}; give True, False or None")
        self._check_texts()
        for given, needed in (
            ("keyfile", "certfile"),
            ("client_ca_file", "certfile"),
            ("username", "password"),
            ("password", "username"),
        ):
            value = getattr(self, given)
            if value is not None and getattr(self, needed) is None:
                shown = "set" if given == "password" else repr(value)
                raise ConfigError(
                    f"EndpointConfig.{given} is {shown} but {needed} is not set; "
                    "give both or neither"
                )

    def _check_texts(self) -> None:
        for name in ("host", "certfile", "keyfile", "client_ca_file", "username", "password"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str | os.PathLike) and str(value)):
                shown = "empty or not a text" if name == "password" else repr(value)
                raise ConfigError(
                    f"EndpointConfig.{name} is {shown}; give a text that is not empty, or None"
                )
        if ":" in (self.username or ""):
            raise ConfigError(
                f"EndpointConfig.username is {self.username!r}; give one without a colon, which "
                "ends the name in HTTP's basic authentication"
            )

    @property
    def asked_for_in_code(self) -> bool:
        """Whether a taken address is the caller's error rather than a warning."""
        return self.enabled is not False and (
            self.enabled is True or self.host is not None or self.port is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryConfig:
    """The local, bounded history.

    Raises:
        ConfigError: A value that cannot be used.
    """

    capacity: int = declare(
        100_000,
        "calls, as many scores and custom values, and as many samples, that are kept (90 bytes a "
        "call, 98 with prices)",
        "GENMETER_HISTORY_CAPACITY",
    )
    metadata_bytes: int = declare(
        METADATA_BYTES,
        "most bytes of free metadata and feedback that are kept with them",
        "GENMETER_HISTORY_METADATA_BYTES",
    )

    def __post_init__(self) -> None:
        """Check every field."""
        require_count(self, "capacity", least=1, most=_MAX_CAPACITY)
        require_count(self, "metadata_bytes", least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalConfig:
    """The files that a monitor with a ``log_dir`` writes: ``metrics.jsonl``, ``afterimage.log``.

    Raises:
        ConfigError: A value that cannot be used.
    """

    max_bytes: int | None = declare(
        None,
        "bytes after which a file is put aside as metrics.1.jsonl, and so on, between writes of up "
        "to 512 events; None for never",
        "GENMETER_JOURNAL_MAX_BYTES",
    )
    keep: int = declare(5, "files put aside that are kept", "GENMETER_JOURNAL_KEEP")

    def __post_init__(self) -> None:
        """Check every field."""
        if self.max_bytes is not None:
            require_count(self, "max_bytes", least=1)
        require_count(self, "keep", least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLimits:
    """How many values each label may take in a process; further ones become ``other``.

    Raises:
        ConfigError: A value that cannot be used.
    """

    models: int = declare(100, "most different models", "GENMETER_MAX_MODELS")
    steps: int = declare(50, "most different pipeline steps", "GENMETER_MAX_STEPS")
    error_types: int = declare(50, "most different error types", "GENMETER_MAX_ERROR_TYPES")
    finish_reasons: int = declare(
        50, "most different finish reasons", "GENMETER_MAX_FINISH_REASONS"
    )
    evaluators: int = declare(100, "most different evaluators", "GENMETER_MAX_EVALUATORS")
    scores: int = declare(100, "most different score names", "GENMETER_MAX_SCORES")
    custom_metrics: int = declare(
        100, "most different custom metrics", "GENMETER_MAX_CUSTOM_METRICS"
    )
    providers: int = declare(50, "most different providers", "GENMETER_MAX_PROVIDERS")
    operations: int = declare(50, "most different operations", "GENMETER_MAX_OPERATIONS")
    sample_reasons: int = declare(
        50, "most different reasons of rejected samples", "GENMETER_MAX_SAMPLE_REASONS"
    )
    modalities: int = declare(10, "most different token modalities", "GENMETER_MAX_MODALITIES")
    combinations: int = declare(
        2_000, "most label sets of one instrument", "GENMETER_MAX_COMBINATIONS"
    )

    def __post_init__(self) -> None:
        """Check every field."""
        for each in fields(self):
            most = 1_000_000 if each.name == "combinations" else _MAX_LABEL_VALUES
            require_count(self, each.name, least=1, most=most)
