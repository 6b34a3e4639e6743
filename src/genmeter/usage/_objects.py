"""Any object as a dict of its values, without running more of its code than must be.

A missing attribute of a pydantic object costs microseconds, as its class builds an error; so what
lies in an object's own dict is read there. A class is examined once, and what was found is kept.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from enum import Enum
from numbers import Integral, Real
from typing import Any, Final

from genmeter.events.values import UNREADABLE
from genmeter.usage._names import KNOWN

__all__ = [
    "count_of",
    "fields_of",
    "is_delta",
    "is_plain_model",
    "is_stream",
    "items_of",
    "money_of",
    "text_of",
]

_LANGCHAIN_CHUNK = "AIMessageChunk"
_MAX_FIELDS = 256
"""An object of more fields is asked for the known names alone, since it may hold anything."""
_MAX_ITEMS = 100_000
_MAX_BODY = 4 * 1024 * 1024
_MAX_TYPES = 4_096


class _Kind:
    """How the objects of a class are read."""

    NOTHING: Final = 0  # has no fields: a text, a number, a list, a function
    DICT: Final = 1
    MODEL: Final = 2  # pydantic's
    INSTANCE: Final = 3
    MAPPING: Final = 4
    MOCK: Final = 5
    BODY: Final = 6  # a response of HTTP
    ATTRIBUTES: Final = 7
    PRIVATE_MODEL: Final = 8  # with private attributes that matter: LiteLLM's


_Plan = tuple[int, tuple[str, ...]]
_NOTHING: Final[_Plan] = (_Kind.NOTHING, ())
_plans: dict[type, _Plan] = {}
_LEAVES: Final = (
    *(str, bytes, bytearray, memoryview, int, float, complex),
    *(list, set, frozenset, range, type, type(None), type(Ellipsis), type(NotImplemented)),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType),
    *(types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, types.CodeType),
)
_PLAIN_ACCESS: Final[frozenset[Any]] = frozenset(
    each.__getattribute__
    for each in (object, dict, tuple, BaseException, types.SimpleNamespace, types.GenericAlias)
)
_REPEATED: Final = "Repeated"
"""What the names of the list-likes of protobuf and proto-plus start with."""
_RESULT_NAMES: Final = ("Result", "RunResultStreaming")


def fields_of(obj: Any) -> dict[str, Any] | None:
    """Return an object's values by name; None if it has none that may be read.

    The dict may be the object's own, so it must not be changed.
    """
    kind = type(obj)
    if kind is dict:
        return obj if len(obj) <= _MAX_FIELDS else _known_of_dict(obj)
    how, names = _plans.get(kind) or _plan_of(kind)
    if how == _Kind.MODEL:
        return _model_fields(obj, names)
    if how == _Kind.NOTHING:
        return None
    return _READERS[how](obj, names)


def is_plain_model(kind: type) -> bool:
    """Return whether it is a class of pydantic whose objects have all known names in their dict."""
    return (_plans.get(kind) or _plan_of(kind)) in _PLAIN_MODELS


def is_delta(obj: Any) -> bool:
    """Return whether it is a chunk whose counts are added to those before: LangChain's.

    Its ``__add__`` sums them. Alone, or with its metadata beside it, as LangGraph's
    ``stream_mode="messages"`` has it.
    """
    if type(obj) is tuple and obj:
        obj = obj[0]
    try:
        if type(obj) is dict:
            return bool(obj.get("type") == _LANGCHAIN_CHUNK)
        return type(obj).__name__ == _LANGCHAIN_CHUNK
    except UNREADABLE:
        return False


def items_of(value: Any) -> list[Any] | tuple[Any, ...]:
    """Return the items of a list or a tuple, also of a list-like of protobuf; else nothing."""
    kind = type(value)
    if kind is list or kind is tuple:
        return value[:_MAX_ITEMS] if len(value) > _MAX_ITEMS else value  # type: ignore[no-any-return]
    try:
        if issubclass(kind, list):
            return list.__getitem__(value, slice(0, _MAX_ITEMS))
        if issubclass(kind, tuple):
            return tuple.__getitem__(value, slice(0, _MAX_ITEMS))
        if kind.__name__.startswith(_REPEATED):
            return [value[index] for index in range(min(len(value), _MAX_ITEMS))]
    except UNREADABLE:
        pass
    return ()


def count_of(value: Any) -> int | None:
    """Return a count: a whole number of at least 0, also as a float; None for anything else."""
    kind = type(value)
    if kind is int:
        return value if value >= 0 else None
    if kind is bool or value is None or kind is str:
        return None
    try:
        # By type: a mock with a spec passes isinstance().
        if issubclass(kind, Integral):
            number = int(value)
        elif issubclass(kind, Real):
            as_float = float(value)
            if not as_float.is_integer():
                return None
            number = int(as_float)
        else:
            return None
    except UNREADABLE:
        return None
    return number if number >= 0 else None


def money_of(value: Any) -> float | None:
    """Return an amount of at least 0; None for anything else, such as a text or NaN."""
    kind = type(value)
    if kind is bool or value is None:
        return None
    try:
        if not (issubclass(kind, Real) or kind.__name__ == "Decimal"):
            return None
        amount = float(value)
    except UNREADABLE:
        return None
    return amount if 0 <= amount < float("inf") else None


def text_of(value: Any) -> str | None:
    """Return a text without the spaces around it, an Enum's as its value; None if there is none."""
    kind = type(value)
    if kind is not str:
        try:
            if issubclass(kind, Enum):
                value = value.value if isinstance(value.value, str) else value.name
            if not issubclass(type(value), str):
                return None
            value = str.__str__(value)
        except UNREADABLE:
            return None
    return value.strip() or None


def is_stream(obj: Any) -> bool:
    """Return whether an object is a stream, which reading would consume.

    Such as a generator, an iterator, an asynchronous one, and the stream of a vendor's client. By
    the class alone: neither the object nor its attributes are touched.
    """
    kind = type(obj)
    try:
        names = {name for each in kind.__mro__ for name in each.__dict__}
        if issubclass(kind, _CONTAINERS) or _is_mock(kind):
            return False
        if "__next__" in names or "__anext__" in names or "__aiter__" in names:
            return True
        is_named = any("Stream" in each.__name__ for each in kind.__mro__)
        return "__iter__" in names and is_named and "__pydantic_extra__" not in names
    except UNREADABLE:
        return False


_CONTAINERS: Final = (str, bytes, bytearray, dict, list, tuple, set, frozenset, type, Mapping)


def _plan_of(kind: type) -> _Plan:
    try:
        plan = _examine(kind)
    except UNREADABLE:
        plan = _NOTHING
    if len(_plans) >= _MAX_TYPES:
        _plans.clear()  # classes made without end must not fill it
    _plans[kind] = plan
    return plan


def _examine(kind: type) -> _Plan:
    if issubclass(kind, dict):
        return _Kind.DICT, ()
    if issubclass(kind, tuple):
        named = tuple(each for each in getattr(kind, "_fields", ()) if each in KNOWN)
        return (_Kind.ATTRIBUTES, named) if named else _NOTHING
    if issubclass(kind, (*_LEAVES, Enum)) or kind.__name__.startswith(_REPEATED):
        return _NOTHING
    if _is_mock(kind):
        return _Kind.MOCK, ()
    bases = [each for each in kind.__mro__ if each is not object]
    return _examine_class(kind, bases, {name for each in bases for name in each.__dict__})


def _examine_class(kind: type, bases: list[type], names: set[str]) -> _Plan:
    if "__pydantic_extra__" in names and "__pydantic_private__" in names:
        own = [each for each in bases if each.__module__.partition(".")[0] != "pydantic"]
        known = tuple(each for each in _known_names(own) if each not in _PRIVATE)
        private = getattr(kind, "__private_attributes__", {})
        return (_Kind.MODEL if _PRIVATE.isdisjoint(private) else _Kind.PRIVATE_MODEL), known
    if issubclass(kind, Mapping):
        return _Kind.MAPPING, ()
    if kind.__name__ == "Response" and not names.isdisjoint({"iter_bytes", "iter_content"}):
        return _Kind.BODY, ()
    return _examine_attributes(kind, bases, names)


def _examine_attributes(kind: type, bases: list[type], names: set[str]) -> _Plan:
    if "DESCRIPTOR" in names:  # protobuf's
        by_name = getattr(getattr(kind, "DESCRIPTOR", None), "fields_by_name", {})
        return _Kind.ATTRIBUTES, tuple(each for each in KNOWN if each in by_name)
    if "__getattr__" in names or kind.__getattribute__ not in _PLAIN_ACCESS:
        return _Kind.ATTRIBUTES, tuple(KNOWN)
    if kind.__dictoffset__ == 0:
        return _Kind.ATTRIBUTES, _known_names(bases)
    return _Kind.INSTANCE, _known_names(bases)


def _known_names(classes: list[type]) -> tuple[str, ...]:
    """Return the known names that the classes define: properties, slots and plain values."""
    defined = {name for each in classes for name in each.__dict__}
    return tuple(name for name in KNOWN if name in defined)


def _is_mock(kind: type) -> bool:
    return any(
        each.__name__ == "NonCallableMock" and each.__module__ in {"unittest.mock", "mock.mock"}
        for each in kind.__mro__
    )


def _known_of_dict(obj: dict[str, Any]) -> dict[str, Any]:
    return {name: dict.__getitem__(obj, name) for name in KNOWN if dict.__contains__(obj, name)}


def _model_fields(obj: Any, names: tuple[str, ...]) -> dict[str, Any] | None:
    try:
        values: dict[str, Any] = obj.__dict__
        extra = obj.__pydantic_extra__
        if extra:
            values = {**values, **extra}
        return values if not names else _with_class_values(obj, values, names)
    except UNREADABLE:
        return None


def _private_model_fields(obj: Any, names: tuple[str, ...]) -> dict[str, Any] | None:
    values = _model_fields(obj, names)
    try:
        private = obj.__pydantic_private__
    except UNREADABLE:
        return values
    if values is None or not private:
        return values
    return {**values, **{name: private[name] for name in _PRIVATE if name in private}}


_PLAIN_MODELS: Final = ((_Kind.MODEL, ()), (_Kind.PRIVATE_MODEL, ()))
_PRIVATE: Final = frozenset({"_hidden_params", "_raw_response"})


def _dict_fields(obj: Any, _: tuple[str, ...]) -> dict[str, Any] | None:
    # By dict's own methods: a subclass may override them.
    if len_ := dict.__len__(obj):
        return _known_of_dict(obj) if len_ > _MAX_FIELDS else dict(dict.items(obj))
    try:
        values = object.__getattribute__(obj, "__dict__")  # Hugging Face's are dataclasses as well
    except UNREADABLE:
        return {}
    return values if type(values) is dict else {}


def _instance_fields(obj: Any, names: tuple[str, ...]) -> dict[str, Any] | None:
    try:
        values = obj.__dict__
        if type(values) is not dict:
            return None
        if len(values) > _MAX_FIELDS:
            values = _known_of_dict(values)
    except UNREADABLE:
        return None
    return values if not names else _with_class_values(obj, values, names)


def _with_class_values(obj: Any, values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    missing = [name for name in names if values.get(name) is None]
    return {**values, **_attributes(obj, tuple(missing))} if missing else values


def _attributes(obj: Any, names: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        try:
            value = getattr(obj, name, None)
        except UNREADABLE:
            continue
        if value is None:
            continue
        if type(value) is types.MethodType:
            value = _called(value, name)
        found[name] = value
    return found


def _called(method: types.MethodType, name: str) -> Any:
    """Return what ``result.usage()`` returns, if it is known to do nothing but that.

    A plain function of pydantic-ai's classes, or of a class that is named as a result, which needs
    no arguments.
    """
    try:
        function, kind = method.__func__, type(method.__self__)
        if name != "usage" or type(function) is not types.FunctionType:
            return None
        is_result = kind.__name__.endswith(_RESULT_NAMES)
        if not is_result and kind.__module__.partition(".")[0] != "pydantic_ai":
            return None
        code = function.__code__
        needed = code.co_argcount - len(function.__defaults__ or ())
        needed += code.co_kwonlyargcount - len(function.__kwdefaults__ or {})
        # A generator's or a coroutine's function returns what has not run yet.
        if needed != 1 or code.co_flags & (0x20 | 0x80 | 0x200):
            return None
        return method()
    except UNREADABLE:
        return None


def _mapping_fields(obj: Any, _: tuple[str, ...]) -> dict[str, Any] | None:
    # By name: a mapping may be endless.
    found: dict[str, Any] = {}
    for name in KNOWN:
        try:
            value = obj.get(name)
        except UNREADABLE:
            return found or None
        if value is not None:
            found[name] = value
    return found


def _mock_fields(obj: Any, _: tuple[str, ...]) -> dict[str, Any] | None:
    # Only what was set: asking a mock for an attribute makes one.
    try:
        values = object.__getattribute__(obj, "__dict__")
        children = values.get("_mock_children")
        return {**children, **values} if type(children) is dict else values
    except UNREADABLE:
        return None


def _body_fields(obj: Any, _: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the JSON of a response of httpx or requests whose body is there already."""
    try:
        body = obj.__dict__.get("_content")
        if type(body) is not bytes or len(body) > _MAX_BODY:
            return None
        values = json.loads(body)
    except UNREADABLE:
        return None
    return values if type(values) is dict else None


def _attribute_fields(obj: Any, names: tuple[str, ...]) -> dict[str, Any] | None:
    return _attributes(obj, names)


_READERS: Final = {
    _Kind.DICT: _dict_fields,
    _Kind.INSTANCE: _instance_fields,
    _Kind.MAPPING: _mapping_fields,
    _Kind.MOCK: _mock_fields,
    _Kind.BODY: _body_fields,
    _Kind.ATTRIBUTES: _attribute_fields,
    _Kind.PRIVATE_MODEL: _private_model_fields,
}
