"""What the demo's job does, one thing at a time: what the simulator gives and the job tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Action", "Begin", "End", "Told"]


@dataclass(frozen=True, slots=True)
class Told:
    """One call of a method of the monitor.

    Args:
        at: Seconds since the job began.
        method: The method's name.
        args: Its positional arguments.
        kwargs: Its keywords.
    """

    at: float
    method: Literal[
        "track_generation",
        "track_evaluation",
        "record_sample",
        "record_metric",
        "log_info",
        "log_warning",
        "log_error",
    ]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Begin:
    """The begin of a call that is made through ``monitor.generation(...)``.

    Args:
        at: Seconds since the job began.
        number: What its end is known by.
        kwargs: The keywords of ``monitor.generation``.
    """

    at: float
    number: int
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """The end of a call that began with :class:`Begin`.

    Args:
        at: Seconds since the job began.
        number: That of its begin.
        model: The model that was asked.
        duration: Seconds between the two.
        tokens: The keywords of the handle's ``usage``; empty where the call failed.
        error: Why it failed; None where it did not.
    """

    at: float
    number: int
    model: str
    duration: float
    tokens: Mapping[str, int]
    error: Exception | None


Action: TypeAlias = Told | Begin | End
