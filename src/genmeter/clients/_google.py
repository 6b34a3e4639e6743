"""Google's ``genai.Client``: the methods of ``client.models`` and ``client.aio.models``.

``generate_content`` may ask the model several times, to call functions or to continue an answer, and
returns the usage of the last answer only. So the methods that send one request each are replaced; they
are private. Where they are missing the public ones are, and a call that called functions says that it
is partial.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from typing import TYPE_CHECKING, Any

from genmeter.clients._calls import new_call, recorded
from genmeter.clients._patches import Replacement, own_method
from genmeter.clients._registry import once, watch_of
from genmeter.events.capture import class_name
from genmeter.events.values import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from genmeter.clients._calls import Begun

__all__ = ["PACKAGE", "classes_in", "is_client_class", "model_parts", "replacements_of"]

PACKAGE = "google.genai"
_METHODS = {
    "generate_content": "generate_content",
    "generate_content_stream": "generate_content",
    "embed_content": "embeddings",
}
_CLIENTS = ("Client", "AsyncClient")
_PARTS = ("Models", "AsyncModels")


def is_client_class(kind: type) -> bool:
    """Return whether objects of a class are such clients, or their asynchronous halves."""
    return _has_base(kind, _CLIENTS)


def model_parts(client: Any) -> list[Any]:
    """Return the objects of a client whose methods call models."""
    found = [client.models]
    other = getattr(client, "aio", None)
    if other is not None:
        found.append(other.models)
    return found


def classes_in(module: ModuleType) -> list[type]:
    """Return the classes of these objects."""
    models = getattr(module, "models", None)
    found = [getattr(models, name, None) for name in _PARTS]
    return [each for each in found if isinstance(each, type)]


def replacements_of(kind: type) -> list[Replacement]:
    """Return the methods to replace for the objects of a class."""
    found = []
    for name, operation in _METHODS.items():
        owner = _sender(kind, f"_{name}")
        is_whole = owner is None
        if owner is None:
            owner = own_method(kind, name)
        if owner is not None:
            make = functools.partial(_method, operation=operation, is_whole=is_whole)
            found.append(Replacement(owner, name if is_whole else f"_{name}", make))
    return found


def _has_base(kind: type, names: tuple[str, ...]) -> bool:
    return any(
        class_name(each) in names and f"{each.__module__}.".startswith(f"{PACKAGE}.")
        for each in kind.__mro__
    )


def _sender(kind: type, name: str) -> type | None:
    """Return the class of the method that sends one request; None if it is not what it was."""
    owner = own_method(kind, name)
    if owner is None:
        return None
    try:
        parameters = inspect.signature(vars(owner)[name]).parameters
    except UNREADABLE:
        return None
    return owner if "model" in parameters else None


def _method(original: Callable[..., Any], *, operation: str, is_whole: bool) -> Callable[..., Any]:
    return recorded(original, functools.partial(_begin, operation, is_whole))


def _begin(
    operation: str, is_whole: bool, part: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Begun:
    """Return the call that is about to begin, and its arguments. Never raises."""
    watch = watch_of(part, PACKAGE)
    if watch is None:
        return None, args, kwargs
    try:
        call = new_call(
            watch,
            part,
            source=f"genmeter.{PACKAGE}",
            model=kwargs.get("model"),
            provider="gcp.vertex_ai" if part.vertexai else "gcp.gemini",
            operation=operation,
            answer_of=_answer_of_whole if is_whole else _answer_of,
        )
    except UNREADABLE as error:
        once.warn(
            f"begin:{PACKAGE}:{class_name(type(error))}",
            "genmeter does not understand %s %s (%s), so calls of its clients are not recorded; update "
            "genmeter, or use `with monitor.generation(...)`",
            PACKAGE,
            getattr(sys.modules.get(PACKAGE), "__version__", "of unknown version"),
            class_name(type(error)),
        )
        return None, args, kwargs
    return call, args, kwargs


def _answer_of_whole(result: Any) -> Any:
    """Return what is read of a result of the public method."""
    if getattr(result, "automatic_function_calling_history", None):
        once.warn(
            "google_functions",
            "this version of %s calls functions where genmeter cannot see it, so calls with automatic "
            "function calling have only the tokens of their last answer; update genmeter",
            PACKAGE,
        )
    return _answer_of(result)


def _answer_of(result: Any) -> Any:
    """Return a response, or its JSON if it was asked for as the HTTP response."""
    try:
        if getattr(result, "usage_metadata", None) is None:
            body = result.sdk_http_response.body
            if type(body) is str and body:
                return json.loads(body)
    except UNREADABLE:
        pass
    return result
