"""The rows of `peers.py`, and their tables for docs/performance.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from _peers_load import BURST, LOADS
from _peers_specs import GROUPS, SUBJECTS, first_of
from _table import formatted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ROWS", "TABLES", "TableRow", "tables_of"]

Result = dict[str, Any]


class TableRow(NamedTuple):
    """A row of a table: its table's title and its subject's."""

    table: str
    subject: str


BURSTS = f"CPU of a call in bursts of {BURST}"
KEPT = "Memory, a page, a report"
STARTS = "Import, construction, size"
ALONE = "`import genmeter` alone"
TABLES = (*(f"A call: {each.title}" for each in LOADS.values()), BURSTS, KEPT, STARTS)
_COMPARED = {name: each for name, each in SUBJECTS.items() if not each.is_baseline}


def _rows() -> Iterator[TableRow]:
    for table in TABLES:
        if table == STARTS:
            yield TableRow(table, ALONE)
        for name, spec in SUBJECTS.items():
            if table.startswith("A call") or table == BURSTS or name in _COMPARED:
                yield TableRow(table, spec.title)


ROWS = tuple(_rows())
"""Each row of the tables, in their order."""


def tables_of(result: Result) -> str:
    """Return the tables of a result, as Markdown."""
    lines = [_about(result), ""]
    for name, load in LOADS.items():
        lines += [f"**A call: {load.title}**", "", *_load(result["loads"][name]), ""]
    lines += [f"**{BURSTS}**", "", *_bursts(result["bursts"]), ""]
    lines += [f"**{KEPT}**", "", *_kept(result), ""]
    lines += [f"**{STARTS}**", "", *_starts(result), ""]
    return "\n".join(lines)


def _about(result: Result) -> str:
    about = result["about"]
    versions = ", ".join(f"{name} {each}" for name, each in about["versions"].items())
    return (
        f"{about['date']}, {about['machine']}, {about['rounds']} rounds, the load of the machine "
        f"{about['busy'][0]:.1f} before and {about['busy'][1]:.1f} after. The trace is {about['trace']}. {versions}."
    )


def _load(found: Result) -> Iterator[str]:
    yield "| | median | | 99 % | 99.9 % | CPU | | calls a second |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for spec, each in _in_groups(found):
        yield _line(
            spec,
            *(_time(each["median"]), _ratio(each["ratio"])),
            *(_time(each["p99"]), _time(each["p999"])),
            *(_time(each["cpu"]), _ratio(each["cpu_ratio"])),
            f"{each['rate']:,.0f}",
        )


def _bursts(found: Result) -> Iterator[str]:
    yield "| | CPU | |"
    yield "| --- | ---: | ---: |"
    for spec, each in _in_groups(found):
        yield _line(spec, _time(each["cpu"]), _ratio(each["ratio"]))


def _kept(result: Result) -> Iterator[str]:
    calls = f"{result['about']['kept']:,}"
    yield f"| | growth for each of {calls} calls | a page | lines | for 1,000 lines | report of tokens |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for spec, each in _in_groups(result["kept"]):
        page = each["page"]
        lines = f"{page['lines']:,.0f}" if page else "none"
        took = page["seconds"] if page else None
        yield _line(
            spec,
            f"{each['memory']:,.0f} B",
            _time(took),
            lines,
            _time(took and took / page["lines"] * 1_000),
            _time(each["report"]),
        )


def _starts(result: Result) -> Iterator[str]:
    yield "| | import, CPU | | construction, CPU | wheel | installed, all | packages |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    alone = _time(result["import_alone"])
    yield f"| {ALONE} | {alone} | | | | | |"
    for spec, each in _in_groups(result["starts"]):
        yield _line(
            spec,
            *(_time(each["import"]), _ratio(each["ratio"]), _time(each["construct"])),
            *(_size(each["wheel"]), _size(each["installed"])),
            f"{each['packages']}" if each["packages"] else "",
        )


def _in_groups(found: Result) -> Iterator[tuple[Any, Result]]:
    """Yield subjects by group, those that others are compared with first; none that was not measured."""
    for group in GROUPS:
        names = [name for name, each in SUBJECTS.items() if each.group == group and name in found]
        names.sort(key=lambda name: (not SUBJECTS[name].is_baseline, name != first_of(group)))
        for name in names:
            yield SUBJECTS[name], found[name]


def _line(spec: Any, *cells: str) -> str:
    return f"| {spec.title} | {' | '.join(cells)} |"


def _shown(form: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda figure: "none" if figure is None else form(figure)


_time = _shown(lambda figure: formatted(figure, "s"))
_ratio_of = _shown(lambda figure: f"{figure:.2g}x" if figure < 10 else f"{figure:.0f}x")


def _ratio(figure: float | None) -> str:
    return "" if figure is None else _ratio_of(figure)


def _size(figure: float | None) -> str:
    return "" if figure is None else formatted(figure, "B")
