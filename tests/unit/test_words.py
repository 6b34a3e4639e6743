"""The code and its documents use the words of the field; those they replaced do not come back."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = sorted((ROOT / "src").rglob("*.py"))
TEXTS = [
    *CODE,
    *sorted((ROOT / "src").rglob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
]
# What the field calls otherwise, with its word.
NAMES = {
    "Telling": "the monitor",
    "Asking": "the monitor",
    "Sink": "Session",
    "Tallies": "SelfMetrics",
    "Tally": "UsageRow",
    "Beside": "AtomicFiles",
    "place": "stage",
    "to_plain": "to_jsonable",
    "takeover": "patch",
    "Feed": "Worker",
    "Receiver": "Worker",
    "_Outlet": "Worker",
    "Relay": "HandlerDispatcher",
    "Tap": "Subscriber",
    "AlertBook": "AlertStates",
    "is_heard": "has_receivers",
    "news": "to_send",
    "tend": "after_append",
    "_shed": "_drop_newest",
    "_ring": "_wake",
    "Notices": "DeferredLog",
    "tell_aside": "flush_in_background",
    "_bury_orphans": "_reap",
    "abandon": "mark_collected",
    "on_rebirth": "after_fork_in_child",
    "begin_again": "request_restart",
    "leave_to_parent": "detach_after_fork",
    "hold": "acquire_for_fork",
    "let_go": "release_after_fork",
    "announce": "preregister",
    "Increases": "CounterDeltas",
    "look": "sample",
    "Signal": "Indicator",
    "live_signals": "indicators",
    "panel_signals": "indicators",
    "Term": "CounterQuery",
    "Level": "GaugeQuery",
    "RowSum": "HistoryQuery",
    "pending": "for_",
    "how": "condition",
    "fall": "drop",
    "Peer": "AlertmanagerClient",
    "offer": "enqueue",
    "hurry": "retry_now",
    "NotTaken": "DeliveryError",
    "Access": "Credentials",
    "Target": "Endpoint",
    "told": "raw_kwargs",
    "saw": "observe_model",
    "SideTable": "MetadataStore",
    "Names": "StringTable",
    "spelled": "canonical_name",
    "Whose": "RowLabels",
    "whose_of": "row_labels",
    "Ledger": "UsageTable",
    "Key": "GroupKey",
    "OwnProvider": "BuiltinMeterProvider",
    "pace": "rate_panel",
    "shares": "ratio_panel",
    "is_born": "starts_at_zero",
    "_in_sight": "_drop_placement",
    "Read": "SeriesRef",
}
PHRASES = [
    r"in vain",
    r"gone by right",
    r"heard of",
    r"ways? out",
    r"what (?:waits|was told|it was told)",
    r"who (?:asks|waits)",
    r"is no duration",
    r"left out",
    r"called 'other'",
    r"by commas",
    r"the job is not harmed",
    r"did not wait longer",
    r"(?<!\.)\bt(?:ell|ells|old|elling)\b",
]


def names_of(path: Path) -> set[str]:
    """Return the names that a module defines: classes, functions, parameters, fields, constants."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        if isinstance(node, ast.ClassDef | ast.Module):
            targets = [
                target
                for each in node.body
                if isinstance(each, ast.Assign | ast.AnnAssign)
                for target in (each.targets if isinstance(each, ast.Assign) else [each.target])
            ]
            names |= {each.id for each in targets if isinstance(each, ast.Name)}
    return names | {path.stem}


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_code_has_none_of_the_replaced_names(path: Path) -> None:
    """A reader meets names that they know; the message has the word to use."""
    assert {name: NAMES[name] for name in names_of(path) & NAMES.keys()} == {}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_prose_has_none_of_the_replaced_phrases(path: Path) -> None:
    """Documents, docstrings, comments and messages say it in plain English."""
    text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
    found = [
        text[max(0, match.start() - 30) : match.end() + 30]
        for phrase in PHRASES
        for match in re.finditer(phrase, text, re.IGNORECASE)
    ]
    assert found == []
