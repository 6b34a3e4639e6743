"""Addresses of endpoints and servers, with a login or without."""

from __future__ import annotations

import base64
import re
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from genmeter.errors import ConfigError

__all__ = ["Address", "split_address"]

_LOGIN = re.compile(r"//.*@")  # also of a password that contains a slash


class Address(NamedTuple):
    """An address.

    Attributes:
        parts: Its parts, without the login.
        shown: The address without its password, for messages.
        authorization: The header ``Authorization`` of its login; None without one.
    """

    parts: SplitResult
    shown: str
    authorization: str | None


def split_address(name: str, url: str, examples: str, *, has_query: bool = True) -> Address:
    """Return an address in its parts.

    Args:
        name: The argument's name.
        url: The address; the scheme ``http`` and a login are optional.
        examples: Valid addresses, for the error.
        has_query: Whether it may have a query and a fragment.

    Raises:
        ConfigError: It is not an address.
    """
    full = url if "://" in url else f"http://{url}"
    shown = _LOGIN.sub("//", full)
    try:
        parts = urlsplit(full)
        is_usable = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and " " not in parts.netloc
            and "@" not in parts.path  # a password with an unescaped slash
            and (has_query or not (parts.query or parts.fragment))
        )
    except ValueError:  # such as a port past 65535
        is_usable = False
    if not is_usable:
        raise ConfigError(
            f"{name} must be an address such as {examples} (with %2F for a slash in a password), "
            f"got {shown!r}"
        )
    authorization = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = f"Basic {base64.b64encode(login).decode()}"
    host = parts.netloc.rpartition("@")[2]
    return Address(parts._replace(netloc=host), shown, authorization)
