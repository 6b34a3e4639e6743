"""Readable YAML."""

from __future__ import annotations

import math
from typing import Any

from genmeter.errors import MissingExtraError

__all__ = ["to_yaml"]


def to_yaml(document: Any) -> str:
    """Return readable YAML: keys in their order, texts of several lines as blocks.

    Raises:
        MissingExtraError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", extra="render", purpose="Writing YAML") from None

    class Dumper(yaml.SafeDumper):
        """A subclass, since representers are registered with the class."""

    def text(dumper: Dumper, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    written: str = yaml.dump(
        document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return written
