"""Base of configurations: dataclass fields with a check, default, variable and help."""

from __future__ import annotations

from dataclasses import MISSING, field, fields
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from genmeter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from dataclasses import Field

    from genmeter.config.checks import Check

__all__ = ["Declared", "build", "declare", "variables"]

_T = TypeVar("_T", bound="Declared")

if TYPE_CHECKING:
    _Given_contra = TypeVar("_Given_contra", contravariant=True)
    _Kept_co = TypeVar("_Kept_co", covariant=True)

    class Accepts(Generic[_Given_contra, _Kept_co]):
        """The annotation of a field that its check converts: what may be passed, what is kept.

        For type checkers only, which take the argument's type from the ``__set__`` of a descriptor
        and the attribute's from its ``__get__``.
        """

        @overload
        def __get__(self, instance: None, owner: type, /) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: type, /) -> _Kept_co: ...
        def __get__(self, instance: object, owner: type, /) -> Any: ...
        def __set__(self, instance: Any, value: _Given_contra, /) -> None: ...


def declare(
    default: Any = MISSING, help_: str = "", env: str | None = None, *, check: Check
) -> Any:
    """Declare a field of a configuration.

    Args:
        default: The default; a class is called for a default.
        help_: The help, for the documentation.
        env: The environment variable.
        check: Checks the value, and reads it from the variable's text.
    """
    metadata = {"help": help_, "env": env, "check": check}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, repr=not check.is_secret, metadata=metadata)


class Declared:
    """Base of the configurations: checks and converts every field."""

    __slots__ = ()
    _PREFIX: str | None = None  # of field names in errors; None means the class's name

    def __post_init__(self) -> None:
        """Check every field, then the fields together."""
        prefix = f"{type(self).__name__}." if self._PREFIX is None else self._PREFIX
        for each in fields(self):  # type: ignore[arg-type]
            value = each.metadata["check"](prefix + each.name, getattr(self, each.name))
            object.__setattr__(self, each.name, value)
        self._check_together()

    def _check_together(self) -> None:
        """Check rules on several fields."""


def build(kind: type[_T], environ: Mapping[str, str], overrides: Mapping[str, Any]) -> _T:
    """Create a configuration, and those in its fields, from environment variables.

    Args:
        kind: The class.
        environ: The variables; an empty one counts as unset.
        overrides: Fields that win over the variables.

    Raises:
        ConfigError: A variable is invalid; the message names it.
    """
    values: dict[str, Any] = {}
    read: dict[str, str] = {}
    for each in fields(kind):  # type: ignore[arg-type]
        variable = each.metadata["env"] or ""
        if each.name in overrides:
            continue
        if part := _part_of(each):
            values[each.name] = build(part, environ, {})
        elif text := environ.get(variable, "").strip():
            check: Check = each.metadata["check"]
            values[each.name] = check(variable, check.read(text))
            read[each.name] = variable
    try:
        return kind(**values, **overrides)
    except ConfigError as error:
        # Each field is valid, so the error is about two of them.
        for name, variable in read.items():
            if f".{name}" in str(error):
                raise ConfigError(f"{error} (set by {variable})") from error
        raise


def variables(kind: type[Declared]) -> Iterator[tuple[str, str, str]]:
    """Yield name, default and help of every variable, in the order of the fields."""
    for each in fields(kind):  # type: ignore[arg-type]
        if part := _part_of(each):
            yield from variables(part)
        elif variable := each.metadata["env"]:
            default = "" if each.default in (None, ()) else str(each.default)
            yield variable, default, each.metadata["help"]


def _part_of(declared: Field[Any]) -> type[Declared] | None:
    """Return the class of a field that is a configuration."""
    factory = declared.default_factory
    return factory if isinstance(factory, type) and issubclass(factory, Declared) else None
