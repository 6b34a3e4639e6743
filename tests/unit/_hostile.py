"""Values that a caller should never pass but may, by name."""

from __future__ import annotations

import asyncio
import types
from collections import OrderedDict, UserDict
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NoReturn
from unittest.mock import MagicMock

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["VALUES", "Raising", "StrKey"]


class Plain(Enum):
    """An Enum whose value is a text."""

    MEMBER = "plain"


class Odd(Enum):
    """An Enum whose value is neither a text nor a number."""

    MEMBER = (1, 2)


class Word(StrEnum):
    """An Enum that is a text."""

    MEMBER = "word"


class Number(IntEnum):
    """An Enum that is a number."""

    MEMBER = 3


def _fail(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("asked of what cannot answer")


class Raising:
    """An object whose attributes and methods raise."""

    __str__ = __repr__ = __float__ = __int__ = __index__ = __bool__ = __len__ = _fail
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _fail
    __hash__ = _fail  # type: ignore[assignment]
    __iter__ = __getitem__ = __contains__ = keys = items = get = _fail
    __enter__ = __exit__ = __call__ = __copy__ = __deepcopy__ = __format__ = _fail

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("__class__")


class RaisingError(Exception):
    """An exception whose text, code and status raise."""

    __str__ = __repr__ = _fail  # type: ignore[assignment]

    @property
    def code(self) -> int:
        """Raise."""
        raise RuntimeError("code")

    @property
    def status_code(self) -> int:
        """Raise."""
        raise RuntimeError("status_code")


class LyingStr(str):
    """A text whose methods return other types."""

    __slots__ = ()

    def __str__(self) -> str:
        return "lie"

    def encode(self, *_: Any) -> bytes:
        """Raise."""
        raise RuntimeError("encode")

    lower = strip = translate = isascii = __len__ = __getitem__ = _fail  # type: ignore[assignment]


class StrKey(str):
    """A text that can be a key of a dict, but raises when compared."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")


class LyingInt(int):
    """A number whose methods return different numbers."""

    def __int__(self) -> int:
        raise RuntimeError("int")

    __float__ = __index__ = __lt__ = __le__ = __gt__ = __ge__ = _fail  # type: ignore[assignment]


class LyingList(list[Any]):
    """A list whose methods raise."""

    __iter__ = __getitem__ = __len__ = _fail  # type: ignore[assignment]


class LyingDict(dict[str, Any]):
    """A dict whose methods raise."""

    keys = items = get = copy = __iter__ = __getitem__ = _fail  # type: ignore[assignment]


class LyingTime(datetime):
    """A datetime whose timestamp is a text."""

    def timestamp(self) -> float:
        """Return a text."""
        return "now"  # type: ignore[return-value]


def _circular() -> dict[str, Any]:
    circular: dict[str, Any] = {"operation": "step"}
    circular["self"] = circular
    circular["list"] = [circular]
    return circular


def _pairs_without_end() -> Iterator[tuple[str, int]]:
    number = 0
    while True:
        number += 1
        yield f"key-{number}", number


VALUES: dict[str, Any] = {
    "none": None,
    "enum of text": Plain.MEMBER,
    "enum of tuple": Odd.MEMBER,
    "str enum": Word.MEMBER,
    "int enum": Number.MEMBER,
    "enum class": Word,
    "true": True,
    "false": False,
    "zero": 0,
    "minus zero": -0.0,
    "negative": -5,
    "negative float": -0.5,
    "fraction of one": 2.5,
    "2**63": 2**63,
    "2**64": 2**64,
    "5,000 digits": 10**5_000,
    "1e308": 1e308,
    "5e-324": 5e-324,
    "nan": float("nan"),
    "inf": float("inf"),
    "minus inf": float("-inf"),
    "complex": 1 + 2j,
    "decimal": Decimal(12),
    "decimal nan": Decimal("NaN"),
    "decimal snan": Decimal("sNaN"),
    "decimal huge": Decimal("1e999999"),
    "fraction": Fraction(1, 3),
    "numpy int": np.int64(4),
    "numpy uint64": np.uint64(2**64 - 1),
    "numpy float": np.float32(0.5),
    "numpy nan": np.float64("nan"),
    "numpy bool": np.True_,
    "numpy str": np.str_("text"),
    "numpy time": np.datetime64("2026-01-01"),
    "numpy nat": np.datetime64("NaT"),
    "numpy array": np.array([1, 2, 3]),
    "numpy array of one": np.array([7]),
    "numpy array of none": np.array([]),
    "numpy scalar array": np.array(7),
    "pandas na": pd.NA,
    "pandas nat": pd.NaT,
    "pandas time": pd.Timestamp("2026-01-01"),
    "pandas series": pd.Series([1, 2]),
    "pandas frame": pd.DataFrame({"a": [1]}),
    "time": datetime(2026, 1, 1, tzinfo=UTC),
    "time without zone": datetime.max,  # noqa: DTZ901 - a time that no zone has is the point
    "lying time": LyingTime(2026, 1, 1, tzinfo=UTC),
    "empty text": "",
    "blank text": " \t\r\n ",
    "number as text": "12",
    "control characters": "a\0b\x1b[31m\nc\rd\x7f",
    "line ends": "a\x85b\u2028c\u2029d\x0be\x0cf",
    "lone surrogate": "a\ud800b",
    "surrogates": "\udfff" * 300,
    "quotes": 'a"b\\c\nd{e="f"}#',
    "right to left": "\u202e\u0627\u0644",
    "longer in lower case": "\u0130" * 128,
    "10 MB": "x" * 10_000_000,
    "10 MB of surrogates": "\ud800" * 10_000_000,
    "overflow label": "otel_metric_overflow",
    "format": "%s %d {0} %(name)s",
    "lying text": LyingStr("truth"),
    "lying number": LyingInt(5),
    "lying list": LyingList([1]),
    "lying dict": LyingDict(operation="step"),
    "bytes": b"\xff\x00",
    "bytearray": bytearray(b"12"),
    "memoryview": memoryview(b"12"),
    "list": [1, "a", None],
    "empty list": [],
    "set": {1, 2},
    "empty dict": {},
    "dict": {"operation": "step", "score": 0.5},
    "dict with a key that cannot be compared": {
        StrKey("operation"): 1,
        StrKey("error_type"): 1,
        StrKey("timestamp"): 1,
        StrKey("score"): 1,
        StrKey("key"): 1,
    },
    "dict of odd keys": {None: 1, (1, 2): 2, 3: 3},
    "ordered dict": OrderedDict(operation="step"),
    "user dict": UserDict(operation="step"),
    "mapping proxy": types.MappingProxyType({"operation": "step"}),
    "circular": _circular(),
    "pairs": [("operation", "step")],
    "pairs without end": _pairs_without_end(),
    "generator": (each for each in "abc"),
    "range": range(3),
    "class": int,
    "lambda": lambda: None,
    "module": types,
    "mock": MagicMock(),
    "object": object(),
    "ellipsis": ...,
    "not implemented": NotImplemented,
    "raising": Raising(),
    "exception": ValueError("text \ud800"),
    "exception that raises": RaisingError(),
    "exception class": TimeoutError,
    "cancelled": asyncio.CancelledError(),
}
"""Values that every argument of every call is given."""
