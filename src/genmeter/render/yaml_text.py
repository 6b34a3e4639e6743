"""YAML for people: keys in their order, queries as blocks."""

from __future__ import annotations

import math
from typing import Any

from genmeter.errors import MissingExtraError

__all__ = ["to_yaml"]


def to_yaml(document: Any) -> str:
    """Write a document; texts of several lines become literal blocks.

    Args:
        document: Of dicts, lists, texts and numbers.

    Raises:
        MissingExtraError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", extra="render", purpose="Writing YAML") from None

    class Dumper(yaml.SafeDumper):
        """A dumper of our own: representers are kept by the class."""

        def ignore_aliases(self, _data: Any) -> bool:
            """Write a value that is there twice, twice."""
            return True

    def text(dumper: Dumper, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    written: str = yaml.dump(
        document,
        Dumper=Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=math.inf,
        default_flow_style=False,
    )
    return written
