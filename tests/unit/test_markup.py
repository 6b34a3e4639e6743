"""HTML that is escaped by construction."""

from __future__ import annotations

from genmeter.tables.markup import Markup, element, join


def test_text_is_escaped_and_markup_is_not() -> None:
    """Only what is markup already stays as it is."""
    inner = element("b", "<i>&\"'")
    assert inner == "<b>&lt;i&gt;&amp;&quot;&#x27;</b>"
    assert element("p", inner, " < ", None) == f"<p>{inner} &lt; </p>"


def test_attributes_are_escaped_and_may_be_absent() -> None:
    """A quote cannot end an attribute."""
    found = element("td", class_='a" onclick="x', data_label="<n>", title=None)
    assert found == '<td class="a&quot; onclick=&quot;x" data-label="&lt;n&gt;"></td>'


def test_an_element_without_content_has_no_end() -> None:
    """Such as a meta element."""
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_pieces_are_joined_and_escaped() -> None:
    """The text between them too."""
    assert join([Markup("<b>"), "<", None], "&") == "<b>&amp;&lt;&amp;"
    assert isinstance(join([]), Markup)


def test_control_characters_are_replaced() -> None:
    """Those that turn the direction of text, and halves of characters, too."""
    assert element("p", "a\x00\u202e\ud800\nb", title="\x1b") == '<p title="?">a???\nb</p>'
