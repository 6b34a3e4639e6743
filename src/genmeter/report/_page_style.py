"""The frame of a page: its head with the style, which has light, dark and printed colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.files.page_plots import COLOUR_PREFIX
from genmeter.tables.markup import Markup, element

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["document"]

# A page loads nothing and runs nothing, even if a browser is made to believe otherwise.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_PAGE_LIGHT = {
    "text": "#1f2328",
    "quiet": "#59636e",
    "ground": "#ffffff",
    "raised": "#f6f8fa",
    "line": "#d1d9e0",
    "good": "#00664b",
    "bad": "#a33f00",
    "warn": "#fff8e5",
    "warn-line": "#d4a72c",
    "bar": "#0072b2",
}
_PAGE_DARK = {
    "text": "#e6edf3",
    "quiet": "#9aa4af",
    "ground": "#15191e",
    "raised": "#1e242b",
    "line": "#39424d",
    "good": "#4fd1a5",
    "bad": "#ff9d5c",
    "warn": "#2f2814",
    "warn-line": "#a07d1c",
    "bar": "#58a9dc",
}
# The colours of plots by their names in the style; the light ones are those of a plot in a file.
_PLOT_LIGHT = {
    "ink": "#222222",
    "muted": "#5f6368",
    "grid": "#e4e4e4",
    "ground": "#ffffff",
    "main": "#0072b2",
    "second": "#56b4e9",
    "pale": "#b3d4e8",
    "neutral": "#b8b8b8",
    "good": "#009e73",
    "bad": "#d55e00",
    "group-0": "#332288",
    "group-1": "#44aa99",
    "group-2": "#cc6677",
    "group-3": "#88ccee",
    "group-4": "#999933",
    "group-5": "#882255",
    "group-6": "#ddcc77",
    "group-7": "#aa4499",
}
_PLOT_DARK = {
    "ink": "#e6edf3",
    "muted": "#9aa4af",
    "grid": "#343c46",
    "ground": "#15191e",
    "main": "#4aa8e0",
    "second": "#8fd0f5",
    "pale": "#245069",
    "neutral": "#6f7680",
    "good": "#2fc296",
    "bad": "#f0803c",
    "group-0": "#8f83e6",
    "group-1": "#55c0ae",
    "group-2": "#dc7f8e",
    "group-3": "#88ccee",
    "group-4": "#b3b34d",
    "group-5": "#d0689c",
    "group-6": "#ddcc77",
    "group-7": "#c56fb6",
}


def _colours(page: Mapping[str, str], plots: Mapping[str, str]) -> str:
    properties = {f"--{name}": colour for name, colour in page.items()}
    properties |= {f"{COLOUR_PREFIX}{name}": colour for name, colour in plots.items()}
    return "".join(f"{name}:{colour};" for name, colour in properties.items())


_LIGHT = _colours(_PAGE_LIGHT, _PLOT_LIGHT)
_DARK = _colours(_PAGE_DARK, _PLOT_DARK)

_STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1500px; padding: 20px 24px 40px; color: var(--text);
  background: var(--ground); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6em; line-height: 1.25; margin: 0 0 4px; }}
h2 {{ font-size: 1.2em; margin: 34px 0 10px; padding-bottom: 4px; border-bottom: 1px solid var(--line); }}
h3 {{ font-size: 1em; margin: 20px 0 6px; }}
p {{ margin: 6px 0; max-width: 80em; }}
ul {{ margin: 6px 0; padding-left: 20px; }}
.quiet, figcaption, footer {{ color: var(--quiet); }}
footer {{ margin-top: 40px; font-size: .87em; }}
.good {{ color: var(--good); }}
.bad {{ color: var(--bad); }}
.cards {{ display: grid; grid-template-columns: repeat(6, 1fr); gap: 10px;
  margin: 18px 0; }}
.card {{ background: var(--raised); border: 1px solid var(--line); border-radius: 6px;
  padding: 10px 12px; }}
.card b {{ display: block; font-size: 1.45em; line-height: 1.3; font-weight: 600; }}
.card small {{ display: block; color: var(--quiet); }}
.notes {{ background: var(--warn); border-left: 4px solid var(--warn-line); border-radius: 4px;
  padding: 8px 14px; margin: 14px 0; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 8px 0; }}
dt {{ color: var(--quiet); }}
dd {{ margin: 0; min-width: 0; }}
.meter {{ height: 10px; border-radius: 5px; background: var(--line); overflow: hidden; margin: 4px 0; }}
.meter div {{ height: 100%; background: var(--bar); }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(380px, 100%), 1fr));
  gap: 16px 28px; margin: 12px 0; align-items: start; }}
figure {{ margin: 0; min-width: 0; max-width: 560px; break-inside: avoid; }}
figcaption {{ font-size: .87em; margin-bottom: 4px; }}
figcaption b {{ display: block; color: var(--text); font-size: 1.1em; }}
figure svg {{ display: block; width: 100%; height: auto; }}
figure svg * {{ stroke-linejoin: round; stroke-linecap: butt; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 2px 14px; list-style: none; padding: 0; font-size: .87em; }}
.legend i {{ display: inline-block; width: 11px; height: 11px; margin-right: 6px; border-radius: 2px;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 10px 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: baseline;
  text-align: right; white-space: nowrap; min-width: 3.6em; }}
th {{ font-weight: 600; }}
th.name, td.name {{ text-align: left; white-space: normal; min-width: 9.5em; max-width: 24em; }}
thead th {{ color: var(--quiet); font-weight: 500; border-bottom-width: 2px; white-space: normal;
  overflow-wrap: normal; vertical-align: bottom; }}
tfoot th {{ border-bottom: 0; border-top: 2px solid var(--line); }}
td small {{ display: block; color: var(--quiet); }}
@media screen and (max-width: 1000px) {{ .cards {{ grid-template-columns: repeat(3, 1fr); }} table {{ font-size: .9em; }}
  th, td {{ padding-right: 9px; }} th.name, td.name {{ min-width: 7.5em; }} }}
@media screen and (max-width: 640px) {{
  body {{ padding: 14px 14px 30px; }}
  dl {{ grid-template-columns: 1fr; gap: 0; }}
  dd {{ margin-bottom: 6px; }}
  .cards {{ grid-template-columns: 1fr 1fr; }}
  table, tbody, tfoot, tr, td, tfoot th {{ display: block; }}
  thead {{ display: none; }}
  tr {{ border: 1px solid var(--line); border-radius: 6px; padding: 6px 10px; margin: 8px 0; }}
  td, tfoot th, tfoot th.name, td.name {{ display: flex; justify-content: space-between; gap: 14px;
    max-width: none; padding: 1px 0; border: 0; white-space: normal; text-align: right; }}
  td.name, tfoot th.name {{ font-weight: 600; }}
  td::before, tfoot th::before {{ content: attr(data-label); color: var(--quiet); font-weight: 400;
    text-align: left; flex: none; max-width: 45%; }}
  td:empty, tfoot th:empty {{ display: none; }}
}}
@media print {{
  @page {{ margin: 14mm; }}
  body {{ padding: 0; font-size: 10pt; max-width: none; }}
  h2, h3 {{ break-after: avoid; }}
  tr, .card, .notes li {{ break-inside: avoid; }}
  .scroll {{ overflow: visible; }}
  table {{ font-size: 7.5pt; }}
  th, td {{ padding-right: 7px; }}
  th.name, td.name {{ min-width: 0; max-width: 15em; }}
  .cards {{ grid-template-columns: repeat(3, 1fr); }}
  .plots {{ grid-template-columns: 1fr 1fr; }}
  .part {{ break-inside: avoid; }}
  .card, .notes, .meter, .meter div {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
}}
"""


def document(title: str, body: str) -> Markup:
    """Return a page.

    Args:
        title: Its title.
        body: Its content.
    """
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(_STYLE)),
    ]
    page = element("html", element("head", *head), element("body", body), lang="en")
    return Markup(f"<!DOCTYPE html>\n{page}\n")
