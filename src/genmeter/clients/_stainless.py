"""The clients of OpenAI and Anthropic, and others of the same generator, such as Groq's.

All their resources, helpers and tool runners send a call by one public method of the client,
``request``, once a call: the client's own retries are inside of it.
"""

from __future__ import annotations

import copy
import functools
import sys
from typing import TYPE_CHECKING, Any

from genmeter.clients._calls import bound, call_within, new_call, recorded
from genmeter.clients._patches import Replacement, own_method
from genmeter.clients._registry import adopt, once, watch_of, watch_of_object
from genmeter.events.capture import class_name
from genmeter.events.values import UNREADABLE
from genmeter.schema.providers import well_known

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from genmeter.clients._calls import Begun

__all__ = ["classes_in", "is_client_class", "package_of", "replacements_of"]

_BASES = ("SyncAPIClient", "AsyncAPIClient")
_PATHS = {
    "/chat/completions": "chat",
    "/responses": "chat",
    "/responses/compact": "chat",
    "/v1/messages": "chat",
    "/embeddings": "embeddings",
    "/completions": "text_completion",
    "/v1/complete": "text_completion",
}
_MAX_CACHED = 256
# A part of the client's class name says who serves the model, whatever the address.
_CLASSES = (
    ("Azure", "azure.ai.openai"),
    ("Bedrock", "aws.bedrock"),
    ("Vertex", "gcp.vertex_ai"),
    ("GoogleCloud", "gcp.vertex_ai"),
    ("Foundry", "azure.ai.inference"),
)
# A part of the address says it for clients of OpenAI's that are used with other servers.
_HOSTS = (
    ("openai.azure.com", "azure.ai.openai"),
    ("services.ai.azure.com", "azure.ai.inference"),
    ("amazonaws.com", "aws.bedrock"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("api.anthropic.com", "anthropic"),
    ("api.cohere.", "cohere"),
    ("api.deepseek.com", "deepseek"),
    ("api.fireworks.ai", "fireworks_ai"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.openai.com", "openai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.together.", "together_ai"),
    ("api.x.ai", "x_ai"),
    ("openrouter.ai", "openrouter"),
)
# What a client's waiting before another attempt says of the cause.
_CAUSES = {408: "RequestTimeoutError", 409: "ConflictError", 429: "RateLimitError"}
_SERVER_ERROR = 500

_operations: dict[str, str | None] = {}


def is_client_class(kind: type) -> bool:
    """Return whether objects of a class are such clients: by its bases and their ``request``."""
    return (
        any(class_name(each) in _BASES for each in kind.__mro__)
        and own_method(kind, "request") is not None
    )


def package_of(kind: type) -> str:
    """Return the package of the client's base class, such as ``openai``."""
    base = next((each for each in kind.__mro__ if class_name(each) in _BASES), kind)
    return base.__module__.partition(".")[0]


def classes_in(module: ModuleType) -> list[type]:
    """Return the client classes that a package exports."""
    found = [each for each in vars(module).values() if issubclass(type(each), type)]
    return [each for each in found if is_client_class(each)]


def replacements_of(kind: type) -> list[Replacement]:
    """Return the methods to replace for the clients of a class."""
    package = package_of(kind)
    makers: dict[str, Callable[..., Callable[..., Any]]] = {
        "request": functools.partial(_request, package=package),
        "_sleep_for_retry": functools.partial(_sleep_for_retry, package=package),
        "copy": _copy,
        "with_options": _copy,
    }
    found = []
    for name, make in makers.items():
        owner = own_method(kind, name)
        # Without the one that waits only the causes of retries are not known.
        if owner is not None and owner is not object:
            found.append(Replacement(owner, name, make))
    return found


# --- the methods in the place of the clients' ----------------------------------------------------


def _request(original: Callable[..., Any], *, package: str) -> Callable[..., Any]:
    return recorded(original, functools.partial(_begin, package))


def _sleep_for_retry(original: Callable[..., Any], *, package: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def sleep(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            if watch_of(self, package) is not None and (call := call_within(self)) is not None:
                call.retry(_cause(kwargs.get("response")))
        except UNREADABLE:
            pass
        return bound(original, self)(*args, **kwargs)

    return sleep


def _copy(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def copy_client(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = bound(original, self)(*args, **kwargs)
        try:
            watch = watch_of_object(self)
            if watch is not None and watch_of_object(made) is None:
                adopt(made, watch, is_copy=True)
        except UNREADABLE:
            pass
        return made

    return copy_client


# --- what a request says -------------------------------------------------------------------------


def _begin(package: str, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Begun:
    """Return the call that a request is, None if it is none, and its arguments. Never raises."""
    watch = watch_of(client, package)
    if watch is None:
        return None, args, kwargs
    try:
        options = args[1] if len(args) > 1 else kwargs["options"]
        operation = _operation(options.method, options.url)
        if operation is None:
            return None, args, kwargs
        body = options.json_data
        model = body.get("model") if type(body) is dict else None
        call = new_call(
            watch,
            client,
            source=f"genmeter.{package}",
            model=model,
            provider=_provider(client, package),
            operation=operation,
        )
        if call is not None and watch.options.include_usage and operation != "embeddings":
            args, kwargs = _with_usage(args, kwargs, options)
    except UNREADABLE as error:
        once.warn(
            f"begin:{package}:{class_name(type(error))}",
            "genmeter does not understand the requests of %s %s (%s), so calls of its clients are not "
            "recorded; update genmeter, or use `with monitor.generation(...)`",
            package,
            getattr(sys.modules.get(package), "__version__", "of unknown version"),
            class_name(type(error)),
        )
        return None, args, kwargs
    return call, args, kwargs


def _operation(method: Any, url: Any) -> str | None:
    """Return the operation of a request; None if it is no call of a model."""
    if type(method) is not str or method.lower() != "post" or type(url) is not str:
        return None
    try:
        return _operations[url]
    except KeyError:
        path = url.partition("?")[0].rstrip("/")
        found = next((name for end, name in _PATHS.items() if path.endswith(end)), None)
        if len(_operations) < _MAX_CACHED:
            _operations[url] = found
        return found


def _with_usage(
    args: tuple[Any, ...], kwargs: dict[str, Any], options: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a chat stream with ``include_usage``, unless the caller set the options."""
    body = options.json_data
    path = options.url.partition("?")[0].rstrip("/")
    extra = getattr(options, "extra_json", None)
    if (
        type(body) is not dict
        or body.get("stream") is not True
        or not path.endswith("/completions")
        or "stream_options" in body
        or (type(extra) is dict and "stream_options" in extra)
    ):
        return args, kwargs
    changed = copy.copy(options)
    changed.json_data = {**body, "stream_options": {"include_usage": True}}
    if len(args) > 1:
        return (args[0], changed, *args[2:]), kwargs
    return args, {**kwargs, "options": changed}


def _provider(client: Any, package: str) -> str:
    kind: Any = type(client)
    provider = _provider_of_class(kind)
    if provider is not None:
        return provider
    return _provider_at(package, str(client.base_url) if package == "openai" else "")


@functools.lru_cache(_MAX_CACHED)
def _provider_of_class(kind: Any) -> str | None:
    for each in kind.__mro__:
        for part, provider in _CLASSES:
            if part in class_name(each):
                return provider
    return None


@functools.lru_cache(_MAX_CACHED)
def _provider_at(package: str, address: str) -> str:
    return next((provider for part, provider in _HOSTS if part in address), well_known(package))


def _cause(response: Any) -> Any:
    """Return the cause of another attempt: the status, or the error that is being handled."""
    if response is None:
        return sys.exc_info()[1]
    status = response.status_code
    if status in _CAUSES:
        return _CAUSES[status]
    return "InternalServerError" if status >= _SERVER_ERROR else f"HTTP{status}"
