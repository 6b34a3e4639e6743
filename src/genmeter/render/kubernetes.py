"""What the rendered files need to be resources of Kubernetes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genmeter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Metadata"]

# Of Kubernetes' documentation, "Object Names and IDs" and "Labels and Selectors".
_MAX = 63
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_WORD = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Namespace and labels of rendered resources.

    Args:
        namespace: None leaves it to who applies them.
        labels: Labels besides genmeter's own, such as those by which the Prometheus Operator selects
            rules.

    Raises:
        ConfigError: A name is invalid on Kubernetes.
    """

    namespace: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the names."""
        namespace = self.namespace
        if namespace is not None and not (
            len(namespace) <= _MAX and _NAMESPACE.fullmatch(namespace)
        ):
            raise ConfigError(
                f"namespace must be lower-case letters, digits and hyphens, got {namespace!r}"
            )
        for key, value in self.labels.items():
            prefix, slash, name = key.rpartition("/")
            is_valid = (not slash or _PREFIX.fullmatch(prefix)) and _is_word(name)
            if not is_valid or not (value == "" or _is_word(value)):
                raise ConfigError(
                    f"labels must be names and values of Kubernetes, got {key!r} with {value!r}"
                )

    def of(self, name: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the metadata of a resource; ``labels`` are its own, which yield to ours."""
        own = {"app.kubernetes.io/name": "genmeter", **(labels or {})}
        place = {} if self.namespace is None else {"namespace": self.namespace}
        return {"name": name, **place, "labels": {**own, **self.labels}}


def _is_word(text: str) -> bool:
    return len(text) <= _MAX and re.fullmatch(_WORD, text, re.ASCII) is not None
