"""Documents the fields of settings, which are declared with their text and variable, in the reference."""

from __future__ import annotations

import ast
from typing import Any

from griffe import Attribute, Docstring, ExprCall, ExprKeyword, Extension


class Declared(Extension):
    """Reads ``name: type = declare(default, text, variable, check=...)``."""

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """Give a declared field its default, and what its declaration says of it."""
        value = attr.value
        if not isinstance(value, ExprCall) or str(value.function) != "declare":
            return
        given = [str(each) for each in value.arguments if not isinstance(each, ExprKeyword)]
        attr.value = given[0] if given else None
        said = [ast.literal_eval(each) for each in given[1:]]
        if said:
            variable = f" Variable: `{said[1]}`." if len(said) > 1 else ""
            text = f"{said[0][:1].upper()}{said[0][1:]}.{variable}"
            attr.docstring = Docstring(text, parent=attr)
