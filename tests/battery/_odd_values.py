"""Values whose methods raise, lie, block, change or never end, made at random."""

from __future__ import annotations

import asyncio
from collections import UserDict
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd
from _hostile import VALUES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

__all__ = ["METHODS", "calling", "changing", "ends", "odd_value", "values_by_name"]

METHODS = (
    *("__str__", "__repr__", "__format__", "__bytes__", "__eq__", "__ne__", "__hash__", "__lt__"),
    *("__le__", "__gt__", "__ge__", "__bool__", "__len__", "__iter__", "__next__", "__contains__"),
    *("__getitem__", "__reversed__", "__missing__", "__index__", "__int__", "__float__"),
    *("__complex__", "__round__", "__abs__", "__add__", "__mul__", "__neg__", "__enter__"),
    *("__exit__", "__aiter__", "__anext__", "__await__", "__call__", "__copy__", "__deepcopy__"),
    *("__reduce_ex__", "__sizeof__", "__dir__", "__del__", "__getattr__", "__fspath__"),
    *("__length_hint__", "__array__", "__instancecheck__", "keys", "items", "values", "get"),
    *("copy", "encode", "lower", "strip", "translate", "isascii", "timestamp", "total_seconds"),
    *("model_dump", "to_dict", "dict", "usage", "choices", "model", "send", "close", "throw"),
)
"""What genmeter, or the standard library on its behalf, may call of a value."""

BASES: tuple[tuple[type, tuple[Any, ...]], ...] = (
    (object, ()),
    (str, ("text",)),
    (int, (5,)),
    (float, (0.5,)),
    (complex, (1, 2)),
    (bytes, (b"12",)),
    (list, ([1, "a"],)),
    (tuple, ((1, "a"),)),
    (set, ({1},)),
    (dict, ({"operation": "step", "score": 0.5, "usage": {"input_tokens": 1}},)),
    (UserDict, ({"score": 1},)),
    (Exception, ("text",)),
    (TimeoutError, ("text",)),
    (datetime, (2026, 1, 1)),
    (timedelta, (0, 1)),
    (Decimal, ("1.5",)),
    (Fraction, (1, 3)),
    (PurePosixPath, ("a/b",)),
    (np.float64, (0.5,)),
    (np.int64, (3,)) if issubclass(np.int64, np.generic) else (object, ()),
    (pd.Timestamp, ("2026-01-01",)),
)
"""Classes that a value may derive from, with the arguments of an instance."""


class TextError(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


ERRORS: tuple[Callable[[], BaseException], ...] = (
    lambda: RuntimeError("from the value"),
    lambda: ValueError("from the value"),
    lambda: TypeError("from the value"),
    lambda: KeyError("from the value"),
    lambda: AttributeError("from the value"),
    lambda: RecursionError("from the value"),
    lambda: MemoryError("from the value"),
    lambda: OSError(5, "from the value"),
    lambda: TimeoutError("from the value"),
    lambda: StopIteration("from the value"),
    lambda: UnicodeError("from the value"),
    lambda: ZeroDivisionError("from the value"),
    TextError,
    lambda: SystemExit(3),
    GeneratorExit,
    asyncio.CancelledError,
)

LIES: tuple[Any, ...] = (None, -1, "lie", b"lie", 0.5, float("nan"), 2**70, (), [], {}, object)
"""What a method returns, whatever it should."""


def _raising(make: Callable[[], BaseException]) -> Callable[..., NoReturn]:
    def method(*_: Any, **__: Any) -> NoReturn:
        raise make()

    return method


def _returning(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _endless(*_: Any, **__: Any) -> Iterator[tuple[str, int]]:
    number = 0
    while True:
        number += 1
        yield f"key-{number}", number


def made(
    base: type, arguments: tuple[Any, ...], methods: dict[str, Any], class_: Any = None
) -> Any:
    """Return an instance of a new class with these methods; ``class_`` is what it says it is."""
    body = dict(methods)
    if class_ is not None:
        body["__class__"] = property(class_)
    try:
        return type("Odd", (base,), body)(*arguments)
    except BaseException:  # its own methods kept it from being made
        return type("Odd", (object,), body)()


def calling(function: Callable[[], object], base: type = object, *arguments: Any) -> Any:
    """Return a value that calls a function whenever anything is asked of it."""

    def method_of(name: str) -> Callable[..., Any]:
        own = getattr(base, name, None)

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            function()
            if own is None:
                raise AttributeError(name)
            return own(self, *args, **kwargs)

        return method

    names = [name for name in METHODS if name not in ("__del__", "__getattr__")]
    body = {name: method_of(name) for name in names if hasattr(base, name)}
    return type("Calling", (base,), body)(*arguments)


def changing() -> Any:
    """Return a value that answers differently each time it is asked."""
    count = iter(range(10**9))

    class Changing(dict[str, Any]):
        def __str__(self) -> str:
            return f"text {next(count)}"

        def __float__(self) -> float:
            return float(next(count))

        def __index__(self) -> int:
            return next(count)

        def __bool__(self) -> bool:
            return bool(next(count) % 2)

        def __len__(self) -> int:
            return next(count)

        def __getitem__(self, name: str) -> Any:
            self[f"new {next(count)}"] = 1
            return next(count)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return changing() if next(count) % 3 else next(count)

    return Changing(operation="step", score=1, usage={"input_tokens": 3})


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def _cyclic() -> list[Any]:
    cyclic: list[Any] = [{}]
    cyclic[0]["up"] = cyclic
    cyclic.append(cyclic)
    return cyclic


class OddMeta(type):
    """A class of classes whose answers raise."""

    def __instancecheck__(cls, _: object) -> bool:
        raise RuntimeError("of the class")

    __subclasscheck__ = __eq__ = __str__ = __repr__ = __instancecheck__  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class OfOddMeta(metaclass=OddMeta):
    """An instance of such a class."""


class OddEnum(Enum):
    """A member whose value raises when it is shown."""

    MEMBER = made(object, (), {"__str__": _raising(ERRORS[0]), "__repr__": _raising(ERRORS[0])})

    def __repr__(self) -> str:
        raise RuntimeError("of the member")


SIMPLE: dict[str, Callable[[], Any]] = {
    "changing": changing,
    "deep list": _deep,
    "cyclic list": _cyclic,
    "of an odd class": OfOddMeta,
    "an odd class": lambda: OfOddMeta,
    "an odd member": lambda: OddEnum.MEMBER,
    "long text": lambda: "x" * 2_000_000,
    "long bytes": lambda: b"x" * 2_000_000,
    "surrogates": lambda: "\ud800\udfff" * 50,
    "text of controls": lambda: "a\x00\n\r\x85\u2028\u202e\x1b[31mb",
    "quotes": lambda: 'a"b\\c\n{le="1"} 1\n# EOF\n',
    "wide dict": lambda: {f"key {number}": number for number in range(20_000)},
    "generator": lambda: (each for each in range(3)),
    "raising generator": lambda: (1 // each for each in (1, 0)),
    "coroutine": lambda: made(object, (), {"__await__": _raising(ERRORS[0])}),
    "odd frame": lambda: pd.DataFrame({"a": [made(object, (), {})], "b": [pd.NA]}),
    "array of objects": lambda: np.array([None, changing()], dtype=object),
    "huge decimal": lambda: Decimal(10) ** 100_000,
    "huge fraction": lambda: Fraction(10**5_000, 3),
    "int of 10,000 digits": lambda: 10**10_000,
    "negative int of 10,000 digits": lambda: -(10**10_000),
    "endless": lambda: made(object, (), {"__iter__": _endless, "keys": _endless}),
    "own attributes": lambda: made(object, (), {"__getattr__": lambda self, name: self}),
    "in a list": lambda: [made(object, (), {"__str__": _raising(ERRORS[0])})],
    "in a dict": lambda: {"usage": made(object, (), {"__getattr__": _raising(ERRORS[12])})},
}


def values_by_name() -> dict[str, Callable[[], Any]]:
    """Return what makes each of the values that are not random."""
    listed = {name: _returning(value) for name, value in VALUES.items()}
    raising = {
        f"{base.__name__} that raises": lambda base=base, arguments=arguments: made(
            base, arguments, {name: _raising(ERRORS[0]) for name in METHODS if name != "__del__"}
        )
        for base, arguments in BASES
    }
    return {**listed, **SIMPLE, **raising}


def odd_value(random: Random, depth: int = 0) -> Any:
    """Return a value of any kind; hypothesis itself would fall over some of them."""
    kind = random.randrange(10)
    if kind < 5:
        return _instance(random)
    if kind < 7:
        return SIMPLE[random.choice(sorted(SIMPLE))]()
    if kind < 8 or depth > 3:
        return random.choice(
            (None, True, -random.getrandbits(80), random.uniform(-1e9, 1e9), float("inf"), "text")
        )
    items = [odd_value(random, depth + 1) for _ in range(random.randrange(4))]
    if kind < 9:
        return random.choice((list, tuple))(items)
    names = ("usage", "operation", "score", "input_tokens", "error_type", "choices", "timestamp")
    return dict(zip(random.sample(names, len(names)), items, strict=False))


def _instance(random: Random) -> Any:
    base, arguments = random.choice(BASES)
    methods: dict[str, Any] = {}
    for name in random.sample(METHODS, random.randrange(12)):
        kind = random.randrange(10)
        if kind < 6:
            methods[name] = _raising(random.choice(ERRORS))
        elif kind < 9:
            methods[name] = _returning(random.choice(LIES))
        elif (base, name) != (
            set,
            "__iter__",
        ):  # its text has no end then, as if `__str__` had none
            methods[name] = _endless
    lie = random.choice([None, None, None, str, int, dict, datetime, Exception, "raises"])
    class_ = None if lie is None else _raising(ERRORS[0]) if lie == "raises" else _returning(lie)
    return made(base, arguments, methods, class_)


class Interrupt(BaseException):
    """Neither an error nor one of Python's own ends."""


ends: dict[str, Callable[[], BaseException]] = {
    "keyboard": KeyboardInterrupt,
    "own": Interrupt,
}
"""Interrupts, which are the job's: recording lets them pass."""
