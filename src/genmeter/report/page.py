"""A report as one page to pass around: no scripts, no links, and nothing to load."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from genmeter._version import __version__
from genmeter.report import _page_plots as plots
from genmeter.report._page_parts import (
    card,
    figures,
    items,
    listed,
    paragraph,
    section,
    shown,
    table,
)
from genmeter.report._page_style import document
from genmeter.report.formats import (
    all_notes,
    headline,
    nothing_text,
    percent,
    seconds,
    table_columns,
    usd,
)
from genmeter.tables.html import Column
from genmeter.tables.markup import Markup, element

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from genmeter.files.page_plots import PagePlots
    from genmeter.report.comparison import Run
    from genmeter.report.details import Details, Samples
    from genmeter.report.distribution import Distribution
    from genmeter.report.usage_table import UsageRow, UsageTable

__all__ = ["Limit", "footer", "missing_parts", "run_notes", "usage_page"]

_MAX_ROWS = 200
_MAX_LISTED = 20
_MAX_NOTE = 2_000  # characters; its names may be long
_NO_VALUE = "-"

_KINDS = {
    "journal": "journals",
    "export": "exports",
    "afterimage": "files of AfterImage's monitor",
    "endpoint": "endpoints",
    "prometheus": "Prometheus",
}
_FILES = frozenset({"journal", "export", "afterimage"})
# Which kinds of sources have a part, and what to say of the others.
_PARTS: dict[str, tuple[frozenset[str], str]] = {
    "progress": (frozenset({"endpoint"}), "the samples produced, and how many were expected"),
    "times": (_FILES, "the time of each call"),
    "errors": (frozenset(_KINDS) - {"afterimage"}, "the types of errors"),
    "first chunks": (
        frozenset({"journal", "endpoint"}),
        "the times to the first chunk of a stream",
    ),
    "scores": (frozenset(_KINDS) - {"prometheus"}, "the scores of evaluations"),
    "alerts": (frozenset({"endpoint", "prometheus"}), "the alerts that fired"),
}


class Limit(NamedTuple):
    """A limit that the report checked.

    Attributes:
        name: The option.
        limit: Its value as text.
        used: The sum as text.
        share: The part of the limit that was used; None of a limit of 0.
        is_over: Whether the sum is over it.
        doubt: What is wrong with the sum; may be empty.
    """

    name: str
    limit: str
    used: str
    share: float | None
    is_over: bool
    doubt: str = ""


def usage_page(
    run: Run, by: Sequence[str], *, limits: Sequence[Limit] = (), at: datetime | None = None
) -> str:
    """Return a page.

    Args:
        run: What it shows.
        by: The keys to group its tables by.
        limits: The limits that were checked.
        at: When it is written; None is now.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from genmeter.files.page_plots import PagePlots

    draw = PagePlots()
    jobs = _names(run.table, "job")
    title = f"Usage report: {listed(jobs, 3)}" if jobs else "Usage report"
    parts = [
        element("h1", title),
        paragraph(
            nothing_text(run.table) if run.table.is_empty() else headline(run.table), "quiet"
        ),
        _cards(run.table),
        _partial(run),
        _job(run),
        _progress(run, draw),
        _usage(run, by, draw),
        _outcomes(run, by, draw),
        _durations(run, draw),
        _scores(run, draw),
        _budgets(limits),
        _alerts(run),
        footer(at, "A dash is unknown."),
    ]
    return document(title, element("main", *parts))


def footer(at: datetime | None, legend: str = "") -> Markup:
    """Return the last line of a page, written at a time or now."""
    when = (at or datetime.now(UTC)).astimezone()
    text = f"Written by genmeter {__version__} on {when:%Y-%m-%d %H:%M:%S %z}. {legend}"
    return element("footer", text)


def run_notes(run: Run) -> list[str]:
    """Return sentences on what is partial or unknown in the numbers of a run; long ones are cut."""
    details = run.details
    notes = all_notes(run.table)
    if run.table.is_estimated and run.table.rows:
        notes.append("Quantiles of durations are estimated from histograms.")
    if details.invalid_scores:
        notes.append(f"Scores that are not numbers, and missing: {details.invalid_scores:,}.")
    if details.dropped:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in details.dropped.most_common())
        notes.append(f"Values that monitors rejected: {details.dropped.total():,} ({reasons}).")
    return [note if len(note) <= _MAX_NOTE else f"{note[:_MAX_NOTE]}…" for note in notes]


def missing_parts(details: Details, *parts: str) -> list[str]:
    """Return a sentence for each part that some of the sources do not have."""
    found = []
    for part in parts:
        having, what = _PARTS[part]
        without = [_KINDS[kind] for kind in _KINDS if kind in details.kinds - having]
        if without:
            with_it = [_KINDS[kind] for kind in _KINDS if kind in having - {"afterimage"}]
            found.append(f"Not in {_all_of(without)}: {what}. These are in {_all_of(with_it)}.")
    return found


# --- the head ----------------------------------------------------------------------------------


def _cards(usage: UsageTable) -> Markup:
    total = usage.total()
    without = total.calls_without_usage
    partial = "" if usage.is_complete and not usage.is_repeated else "partial: see below"
    estimated = "estimated from a histogram" if total.buckets else ""
    tokens_note = f"without {without:,} calls of unknown usage" if without else partial
    cost_notes = [
        f"without {len(usage.unpriced):,} models that have no price" if usage.unpriced else "",
        "estimated" if usage.estimated else "",
        tokens_note,
    ]
    cost = "unknown" if total.cost is None else usd(total.cost)
    if total.cost is None and not total.total_tokens:
        cost = _NO_VALUE
    failed = f"{total.failures:,} failed, {total.cancelled:,} cancelled"
    numbers = [
        card("Calls", f"{total.calls:,}", partial),
        card("Succeeded", percent(total.success_share()), failed),
        card("Tokens", f"{total.total_tokens:,}", tokens_note),
        card("Cost in USD", cost, "; ".join(each for each in cost_notes if each)),
        card("Median duration", _seconds(total.quantile(0.5)), estimated),
        card("95th percentile", _seconds(total.quantile(0.95)), estimated),
    ]
    return element("div", *numbers, class_="cards")


def _partial(run: Run) -> Markup:
    notes = run_notes(run)
    text = items(notes) if notes else paragraph("Nothing is known to be missing.")
    state = (
        "The numbers are partial, or counted twice."
        if not run.table.is_complete or run.table.is_repeated
        else ""
    )
    content = [paragraph(state)] if state else []
    box = element("div", *content, text, class_="notes" if notes else "quiet")
    return section("What is partial or unknown", box)


def _job(run: Run) -> Markup:
    usage = run.table
    processes = _names(usage, "process")
    answered = sorted(
        {key.response_model for key in usage.rows if key.response_model not in (None, key.model)}
        - {None},
        key=str,
    )
    window = "" if usage.window is None else f"; the last {usage.window}"
    facts = {
        "Job": listed(_names(usage, "job")) or "no name is known",
        "Sources": listed(run.sources, _MAX_LISTED),
        "Time": f"{headline(usage)}{window}",
        "Processes": f"{len(processes):,}: {listed(processes, 5)}" if processes else "unknown",
        "Models": listed(_names(usage, "model")) or "none",
        "Answered by": listed(str(name) for name in answered),
        "Steps": listed(_names(usage, "step")) or "none recorded",
        "Conversations": _counted(usage.conversations.count, usage.conversations.failures),
        "Evaluations": _counted(usage.evaluations.count, usage.evaluations.failures),
    }
    terms = [
        part
        for name, text in facts.items()
        if text
        for part in (element("dt", name), element("dd", text))
    ]
    return section("The job", element("dl", *terms), _processes(usage))


def _processes(usage: UsageTable) -> Markup:
    """Return a table of processes, if there are several."""
    if len(_names(usage, "process")) < 2:  # noqa: PLR2004 - one is the whole job
        return Markup()
    return _grouped(usage, ("job", "process"), ("outcomes",))


# --- sections ----------------------------------------------------------------------------------


def _progress(run: Run, draw: PagePlots) -> Markup:
    details = run.details
    parts: list[Markup] = []
    for samples in details.samples:
        parts += _samples(samples)
    parts.append(figures([plots.calls_over_time(draw, details)]))
    return section(
        "Progress", *parts, *_missing(details, "progress", *(["times"] if run.table.rows else []))
    )


def _samples(samples: Samples) -> list[Markup]:
    done = samples.accepted + samples.rejected.total()
    state = "finished" if samples.is_finished else "running"
    source = shown(samples.source)
    if not done and samples.expected is None:
        return [paragraph(f"{source}: {state}; it records no samples.")]
    reasons = ", ".join(f"{shown(each)} {n:,}" for each, n in samples.rejected.most_common(10))
    rejected = f"{samples.rejected.total():,} rejected{f' ({reasons})' if reasons else ''}"
    text = f"{samples.accepted:,} accepted, {rejected}; {state}."
    if not samples.expected:
        return [paragraph(f"{source}: {done:,} samples of an unknown number; {text}")]
    share = done / samples.expected
    width = f"width:{min(1.0, share):.1%}"
    return [
        paragraph(
            f"{source}: {done:,} of {samples.expected:,.0f} samples ({_share(share)}); {text}"
        ),
        element("div", element("div", style=width), class_="meter"),
    ]


def _usage(run: Run, by: Sequence[str], draw: PagePlots) -> Markup:
    drawn = [
        plots.tokens_by(draw, run.table, "model"),
        plots.cost_by(draw, run.table, "model"),
        plots.tokens_by(draw, run.table, "step"),
        plots.cost_by(draw, run.table, "step"),
        plots.tokens_over_time(draw, run.details),
    ]
    return section("Tokens and cost", _grouped(run.table, by, ("usage",)), figures(drawn))


def _outcomes(run: Run, by: Sequence[str], draw: PagePlots) -> Markup:
    details, total = run.details, run.table.total()
    untyped = max(0, total.failures - details.errors.total())
    parts: list[Markup] = [_grouped(run.table, by, ("outcomes",))]
    if total.failures:
        parts += [element("h3", "Errors"), _errors(details, untyped)]
        parts.append(figures([plots.errors(draw, details, untyped)]))
    else:
        parts.append(paragraph("No call failed."))
    missing = _missing(details, "errors") if total.failures else []
    return section("Outcomes and errors", *parts, *missing)


def _errors(details: Details, untyped: int) -> Markup:
    found = details.errors.most_common()
    if untyped:
        found.append(("type unknown", untyped))
    kept = found[:_MAX_ROWS]
    columns = [
        Column("type of error", [name for name, _ in kept], is_name=True),
        Column("failed calls", [f"{count:,}" for _, count in kept]),
    ]
    return Markup(table(columns) + _more(len(found) - len(kept)))


def _durations(run: Run, draw: PagePlots) -> Markup:
    total = run.table.total()
    parts: list[Markup] = []
    if total.distribution().count:
        parts.append(
            figures([plots.durations(draw, run.table), plots.durations_by_model(draw, run.table)])
        )
    else:
        parts.append(paragraph("The durations of calls are not in the sources."))
    parts += [element("h3", "Time to the first chunk"), *_first_chunks(run.details, draw)]
    return section("Durations", *parts)


def _first_chunks(details: Details, draw: PagePlots) -> list[Markup]:
    known = {name: each for name, each in details.first_chunks.items() if each.count}
    missing = _missing(details, "first chunks")
    if not known:
        return [paragraph("No first chunk of a streamed call is in the sources."), *missing]
    drawn = figures(
        [plots.first_chunks(draw, known.values()), plots.first_chunks_by_model(draw, known)]
    )
    return [_distributions("model", "streamed calls", known, seconds, " s"), drawn, *missing]


def _scores(run: Run, draw: PagePlots) -> Markup:
    details = run.details
    known = {name: each for name, each in details.scores.items() if each.count}
    parts: list[Markup] = []
    if known:
        parts.append(_distributions("score", "count", known, _score))
    if details.scaled_scores:
        parts += [
            paragraph(
                "Of endpoints; the spread is of each score's place in its scale, 0 to 1, estimated "
                "from a histogram:"
            ),
            _scaled(details),
        ]
    if not parts:
        parts.append(paragraph("No scores are in the sources."))
    drawn = figures(plots.scores(draw, details))
    return section("Scores", *parts, drawn, *_missing(details, "scores"))


def _scaled(details: Details) -> Markup:
    found = sorted(details.scaled_scores.items())[:_MAX_ROWS]
    columns = [
        Column("score", [name for name, _ in found], is_name=True),
        Column("count", [f"{each.count:,}" for _, each in found]),
        Column("mean", [_score(each.mean()) for _, each in found]),
        *(
            Column(
                f"{name} of scale", [_score(each.positions.quantile(share)) for _, each in found]
            )
            for name, share in _SPREAD.items()
        ),
    ]
    return Markup(table(columns) + _more(len(details.scaled_scores) - len(found)))


def _budgets(limits: Sequence[Limit]) -> Markup:
    unknown = paragraph("The budgets that a job itself ran under are in no source.", "quiet")
    if not limits:
        text = "This report checked no limit (--fail-over-tokens, --fail-over-cost)."
        return section("Budgets", paragraph(text), unknown)
    columns = [
        Column("limit of the report", [each.name for each in limits], is_name=True),
        Column("limit", [each.limit for each in limits]),
        Column("used", [each.used for each in limits]),
        Column("share", [_used(each) for each in limits]),
    ]
    doubts = items(
        f"{each.name}: {each.doubt.removeprefix('; ')}." for each in limits if each.doubt
    )
    return section("Budgets", table(columns), doubts, unknown)


def _used(limit: Limit) -> Markup:
    share = _NO_VALUE if limit.share is None else _share(limit.share)
    if not limit.is_over:
        return Markup.of(share)
    return element("span", f"{share}, over", class_="bad")


def _alert_counts(counts: Mapping[str, int], unit: str) -> Markup:
    found = [f"{shown(name)}: {_number_of(count, unit)}" for name, count in sorted(counts.items())]
    return items(found) or paragraph("None, as the jobs evaluate them.")


def _alerts(run: Run) -> Markup:
    details = run.details
    parts: list[Markup] = []
    if "endpoint" in details.kinds:
        parts += [element("h3", "Firing as the report was written")]
        parts += [_alert_counts(details.firing, "job")]
    if "prometheus" in details.kinds:
        parts += [element("h3", "Fired within the window")]
        parts += [_alert_counts(details.fired, "process")]
    return section("Alerts", *parts, *_missing(details, "alerts"))


# --- tables ------------------------------------------------------------------------------------

_SPREAD = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


def _grouped(usage: UsageTable, by: Sequence[str], parts: Iterable[str]) -> Markup:
    """Return a table of a report's columns, of the largest groups."""
    groups = usage.group(by)
    if not groups:
        return paragraph(nothing_text(usage))
    kept = _kept(groups)
    names, outcomes, tokens = table_columns(usage, by, kept)
    columns = {"outcomes": outcomes, "usage": tokens}
    shown_columns = [*names, *(column for part in parts for column in columns[part])]
    return Markup(table(shown_columns) + _more(len(groups) - len(kept)))


def _kept(
    groups: Mapping[tuple[str | None, ...], UsageRow],
) -> Mapping[tuple[str | None, ...], UsageRow]:
    if len(groups) <= _MAX_ROWS:
        return groups
    largest = sorted(groups, key=lambda each: (-groups[each].total_tokens, -groups[each].calls))
    kept = set(largest[:_MAX_ROWS])
    return {group: row for group, row in groups.items() if group in kept}


def _distributions(
    head: str,
    counted: str,
    found: Mapping[str, Distribution],
    show: Callable[[float | None], str],
    unit: str = "",
) -> Markup:
    kept = sorted(found.items())[:_MAX_ROWS]
    columns = [
        Column(head, [name for name, _ in kept], is_name=True),
        Column(counted, [f"{each.count:,}" for _, each in kept]),
        Column(f"mean{unit}", [show(each.mean()) for _, each in kept]),
        *(
            Column(f"{name}{unit}", [show(each.quantile(share)) for _, each in kept])
            for name, share in _SPREAD.items()
        ),
    ]
    return Markup(table(columns) + _more(len(found) - len(kept)))


def _more(count: int) -> Markup:
    if count <= 0:
        return Markup()
    return paragraph(f"{count:,} more rows are not shown; sums include them.", "quiet")


# --- texts -------------------------------------------------------------------------------------


def _missing(details: Details, *parts: str) -> list[Markup]:
    return [paragraph(text, "quiet") for text in missing_parts(details, *parts)]


def _all_of(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _names(usage: UsageTable, key: str) -> list[str]:
    return sorted({name for each in usage.rows if (name := getattr(each, key))})


def _counted(count: int, failures: int) -> str:
    return f"{count:,}, {failures:,} failed" if count else "none"


def _number_of(count: int, noun: str) -> str:
    return f"in {count:,} {noun}{'' if count == 1 else 's' if noun == 'job' else 'es'}"


def _share(share: float) -> str:
    return f"{100 * share:,.1f} %"


def _seconds(value: float | None) -> str:
    return _NO_VALUE if value is None else f"{seconds(value)} s"


def _score(value: float | None) -> str:
    return _NO_VALUE if value is None else f"{value:,.4g}"
