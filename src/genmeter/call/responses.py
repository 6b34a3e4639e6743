"""The HTTP response of a stream, whose ``close()`` leaves the stream.

The helpers of OpenAI's client close the response of the stream that they read, not the stream itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["closing_response"]


def closing_response(response: Any, leave: Callable[[], object]) -> Any:
    """Return a response that says when it is closed; an object that cannot be closed as it is.

    Args:
        response: The ``response`` of a client's stream.
        leave: Called before it is closed; never raises.
    """
    kind = type(response)
    if hasattr(kind, "status_code") or hasattr(kind, "iter_bytes"):
        return _Response(response, leave)
    return response


class _Response:
    """A response in the place of an HTTP library's, with its attributes and, for ``isinstance``, its class."""

    __slots__ = ("__weakref__", "_self_leave", "_self_response")

    def __init__(self, response: Any, leave: Callable[[], object]) -> None:
        object.__setattr__(self, "_self_response", response)
        object.__setattr__(self, "_self_leave", leave)

    def __getattr__(self, name: str) -> Any:
        """Return the response's attribute."""
        return getattr(self._self_response, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the response's attribute."""
        setattr(self._self_response, name, value)

    def __delattr__(self, name: str) -> None:
        """Delete the response's attribute."""
        delattr(self._self_response, name)

    def __dir__(self) -> list[str]:
        """Return the names of the response's attributes."""
        return dir(self._self_response)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy the response itself."""
        return self._self_response.__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return repr(self._self_response)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The response's class."""
        return self._self_response.__class__

    def close(self) -> Any:
        """Leave the stream and close the response."""
        self._self_leave()
        return self._self_response.close()

    async def aclose(self) -> None:
        """Leave the stream and close the response."""
        self._self_leave()
        await self._self_response.aclose()
