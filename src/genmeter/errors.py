"""What genmeter raises, and when.

Recording never raises: ``track_*``, ``record_metric`` and ``log_*`` count what they cannot keep.
Building, rendering, exporting and budgets do, with one of::

    GenmeterError
    ├── ConfigError (ValueError)          an argument, variable or file that cannot be used
    │   └── EndpointError (OSError)       the scrape endpoint cannot listen where it was asked to
    ├── ExportError (ValueError)          a report or file that cannot be written
    ├── BudgetError                       no further call may begin, because of a budget:
    │   ├── BudgetExceededError           it is spent, or what is left is too little
    │   │   └── BudgetTimeoutError (TimeoutError)   too much was reserved by others for too long
    │   ├── UsageUnreadError              too many calls in a row without known usage
    │   ├── UnpricedModelError            its USD are not known, since a model has no price
    │   └── BudgetUnavailableError        what the job's other processes use is not known
    └── MissingExtraError (ImportError)   an optional package is absent; the message is the remedy

Each message names the argument, the value and what to do.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "BudgetAmount",
    "BudgetError",
    "BudgetExceededError",
    "BudgetLimit",
    "BudgetTimeoutError",
    "BudgetUnavailableError",
    "ConfigError",
    "EndpointError",
    "ExportError",
    "GenmeterError",
    "MissingExtraError",
    "UnpricedModelError",
    "UsageUnreadError",
    "unpicklable",
]


_MAX_SHOWN = 2_000


class GenmeterError(Exception):
    """The root of everything that genmeter raises on purpose.

    Args:
        args: The message. A long one is cut in its middle: the argument's name is at its beginning,
            the remedy at its end.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(_shortened(each) if isinstance(each, str) else each for each in args))


class ConfigError(GenmeterError, ValueError):
    """An argument, an environment variable or a file that cannot be used."""


class EndpointError(ConfigError, OSError):
    """The scrape endpoint cannot listen on the address that it was asked to use."""


class ExportError(GenmeterError, ValueError):
    """A report or an export that cannot be written."""


class MissingExtraError(GenmeterError, ImportError):
    """An optional package is not installed.

    Args:
        package: The distribution that is missing, as pip knows it.
        extra: The extra of genmeter that brings it.
        purpose: What the caller wanted, to start the sentence with.
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}; install it with: "
            f'pip install "genmeter[{extra}]"'
        )
        self.package = package
        self.extra = extra


# --- budgets -----------------------------------------------------------------------------------


class BudgetAmount(NamedTuple):
    """What was spent from a budget, or is reserved in it.

    Attributes:
        tokens: Total tokens.
        usd: USD.
    """

    tokens: int
    usd: float

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens, {_usd_text(self.usd)} USD"


class BudgetLimit(NamedTuple):
    """The limits of a budget, or what is left of them; None for a limit that is not set.

    Attributes:
        tokens: Total tokens.
        usd: USD.
    """

    tokens: int | None
    usd: float | None

    def __str__(self) -> str:
        tokens = None if self.tokens is None else f"{self.tokens:,} tokens"
        usd = None if self.usd is None else f"{_usd_text(self.usd)} USD"
        return " and ".join(text for text in (tokens, usd) if text) or "no limit"


class BudgetError(GenmeterError):
    """No further call may begin, because of a budget.

    Args:
        message: Which budget, and why.
        spent: What was spent from it.
        reserved: What is reserved in it.
        limit: Its limits.
    """

    def __init__(
        self, message: str, spent: BudgetAmount, reserved: BudgetAmount, limit: BudgetLimit
    ) -> None:
        super().__init__(message)
        self.args = (message, spent, reserved, limit)  # all of them, for pickle
        self.spent = spent
        self.reserved = reserved
        self.limit = limit

    def __str__(self) -> str:
        return str(self.args[0])


class BudgetExceededError(BudgetError):
    """A budget is spent, or what is left is less than a reservation."""


class BudgetTimeoutError(BudgetExceededError, TimeoutError):
    """A reservation found no room in time, because of other reservations."""


class BudgetUnavailableError(BudgetError):
    """A budget of the job cannot be kept, because its other processes cannot be reached.

    The message says why. The amounts are those that were known last; 0 if none were.
    """


class UsageUnreadError(BudgetError):
    """The usage of too many calls in a row is unknown, so a budget cannot be kept.

    Args:
        message: Which budget, and why.
        spent: What was spent from it, without those calls.
        reserved: What is reserved in it.
        limit: Its limits.
        calls: Number of calls in a row whose usage is unknown.
        reason: Why the usage of the last one is unknown, such as ``no_usage``.
        model: The model of the last one.
    """

    def __init__(
        self,
        message: str,
        spent: BudgetAmount,
        reserved: BudgetAmount,
        limit: BudgetLimit,
        calls: int = 0,
        reason: str = "",
        model: str = "",
    ) -> None:
        super().__init__(message, spent, reserved, limit)
        self.args += (calls, reason, model)
        self.calls = calls
        self.reason = reason
        self.model = model


class UnpricedModelError(BudgetError):
    """A budget of USD cannot be kept, because usage has no price.

    Args:
        message: Which budget, and why.
        spent: What was spent from it, without what has no price.
        reserved: What is reserved in it.
        limit: Its limits.
        models: The models without a price.
    """

    def __init__(
        self,
        message: str,
        spent: BudgetAmount,
        reserved: BudgetAmount,
        limit: BudgetLimit,
        models: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, spent, reserved, limit)
        self.args += (models,)
        self.models = models


def _shortened(text: str) -> str:
    if len(text) <= _MAX_SHOWN:
        return text
    half = _MAX_SHOWN // 2 - 50  # a pickled error is made again of what is left
    return f"{text[:half]} [{len(text) - 2 * half:,} characters are not shown] {text[-half:]}"


def _usd_text(usd: float) -> str:
    """Return USD with two to six decimals."""
    whole, _, decimals = f"{usd:,.6f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"


def unpicklable(what: str, remedy: str) -> TypeError:
    """Return the error of an object that belongs to one process, for its ``__reduce__``.

    It is a TypeError, as that of Python's own locks and files.

    Args:
        what: The object, such as ``a Budget``.
        remedy: What to do instead.
    """
    return TypeError(f"cannot pickle {what}: it belongs to the process that made it; {remedy}")
