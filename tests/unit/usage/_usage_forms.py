"""JSON as objects of several kinds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

__all__ = ["FORMS", "as_extra", "as_model", "as_namespace"]


def as_namespace(value: Any) -> Any:
    """Return objects whose values lie in their own dict."""
    if isinstance(value, dict):
        return SimpleNamespace(**{key: as_namespace(item) for key, item in value.items()})
    return [as_namespace(item) for item in value] if isinstance(value, list) else value


def as_class(value: Any) -> Any:
    """Return objects whose values are attributes of their class."""
    if isinstance(value, dict):
        return type("Answer", (), {key: as_class(item) for key, item in value.items()})()
    return [as_class(item) for item in value] if isinstance(value, list) else value


def as_slots(value: Any) -> Any:
    """Return objects without a dict."""
    if isinstance(value, dict):
        made = type("Answer", (), {"__slots__": tuple(value)})()
        for key, item in value.items():
            setattr(made, key, as_slots(item))
        return made
    return tuple(as_slots(item) for item in value) if isinstance(value, list) else value


def as_dynamic(value: Any) -> Any:
    """Return objects that compute each attribute."""
    if isinstance(value, dict):
        return _Dynamic({key: as_dynamic(item) for key, item in value.items()})
    return [as_dynamic(item) for item in value] if isinstance(value, list) else value


def as_mapping(value: Any) -> Any:
    """Return mappings that are no dicts."""
    if isinstance(value, dict):
        return _Mapping({key: as_mapping(item) for key, item in value.items()})
    return [as_mapping(item) for item in value] if isinstance(value, list) else value


def as_model(value: Any) -> Any:
    """Return objects like pydantic's: fields in their dict."""
    if isinstance(value, dict):
        values = {key: as_model(item) for key, item in value.items()}
        private = {"_hidden_params": values.pop("_hidden_params", None)}
        base = _PrivateModel if any(private.values()) else _Model
        # A class always has the same fields.
        kind = _models.setdefault((base, *values), type("Model", (base,), {}))
        return kind(values, {}, private)
    return [as_model(item) for item in value] if isinstance(value, list) else value


def as_extra(value: Any) -> Any:
    """Return objects like pydantic's for fields that their class does not have."""
    if isinstance(value, dict):
        return _Model({}, {key: as_extra(item) for key, item in value.items()}, None)
    return [as_extra(item) for item in value] if isinstance(value, list) else value


def as_protobuf(value: Any) -> Any:
    """Return objects like protobuf's: their descriptor names the fields."""
    if isinstance(value, dict):
        values = {key: as_protobuf(item) for key, item in value.items()}
        descriptor = SimpleNamespace(fields_by_name=dict.fromkeys(values))
        return type("Message", (_Dynamic,), {"DESCRIPTOR": descriptor})(values)
    if isinstance(value, list):
        return RepeatedComposite(as_protobuf(item) for item in value)
    return value


class RepeatedComposite:
    """A list as protobuf has them, which is no ``list``."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = list(items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index]


class _Model:
    __slots__ = ("__dict__", "__pydantic_extra__", "__pydantic_private__")
    __private_attributes__: Mapping[str, Any] = {}

    def __init__(self, values: Any, extra: Any, private: Any) -> None:
        self.__dict__ = values
        self.__pydantic_extra__ = extra
        self.__pydantic_private__ = private

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("slow")


class _PrivateModel(_Model):
    __slots__ = ()
    __private_attributes__: Mapping[str, Any] = {"_hidden_params": None}


_models: dict[tuple[Any, ...], type[_Model]] = {}


class _Dynamic:
    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(name) from None


class _Mapping(Mapping[str, Any]):
    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("this mapping has no end")

    def __len__(self) -> int:
        return len(self._values)


FORMS = {
    "json": lambda value: value,
    "namespace": as_namespace,
    "class": as_class,
    "slots": as_slots,
    "dynamic": as_dynamic,
    "mapping": as_mapping,
    "model": as_model,
    "extra": as_extra,
    "protobuf": as_protobuf,
}
