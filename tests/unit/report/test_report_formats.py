"""Usage tables as text."""

from __future__ import annotations

import pytest

from genmeter.report.formats import to_table
from genmeter.report.usage_table import EVALUATION, GENERATION, GroupKey, UsageTable


def _large(count: int, name: str = "a-provider/a-model-of-a-long-name-2026-01") -> UsageTable:
    table = UsageTable("journal", since=0.0, until=1e7)
    for number in range(3):
        row = table.row(GroupKey(f"{name}-{number}", "question_generation", None, GENERATION))
        row.calls = row.token_calls = count
        row.prompt_tokens = row.completion_tokens = row.total_tokens = 1_000 * count
        row.cache_read_tokens = row.cache_write_tokens = row.reasoning_tokens = count
        row.cost = count / 7
        row.durations.append(1234.5678)
    table.conversations.count = table.evaluations.count = 1_000_000
    return table


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_table_fits_the_terminal(width: int) -> None:
    """Names are folded and columns move to another table; numbers are whole."""
    text = to_table(_large(1_234_567), ("model", "step"), width)
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for number in ("1,234,567", "3,703,701", "3,703,701,000", "176,366.7143", "1,234.57"):
        assert number in words, number
    assert "(115 days, 17:46:40)" in " ".join(words)


def test_a_table_never_cuts_a_number() -> None:
    """A line may be longer than a very narrow terminal."""
    text = to_table(_large(10**15), ("model",), 20)
    assert "3,000,000,000,000,000,000" in text
    lines = [line.split() for line in text.partition("\n\n")[2].splitlines()]
    assert ["a-provid", *lines[2][1:]] == lines[2]
    assert "".join(line[0] for line in lines[2:8]) == "a-provider/a-model-of-a-long-name-2026-01-0"


def test_names_cannot_break_the_table() -> None:
    """Control characters and surrogates are shown as `?`, wide characters take two columns."""
    table = UsageTable("journal")
    for name in ("a\nb\x1b[31m\ud800", "模型" * 20, "plain"):
        table.row(GroupKey(name, None, None, GENERATION)).calls = 1
    lines = to_table(table, ("model", "step"), 60).splitlines()
    assert any(line.startswith("a?b?[31m? ") for line in lines)
    wide = next(line for line in lines if line.startswith("模型"))
    assert len(wide) + sum(char in "模型" for char in wide) == len(lines[2])
    assert sum(line.count("模") for line in lines) == 20
    assert "step" not in lines[2]  # of which no row says anything


def test_a_share_is_rounded_down() -> None:
    """100 % means that no call failed."""
    table = UsageTable("journal")
    row = table.row(GroupKey("a", None, None, GENERATION))
    row.calls, row.failures = 100_000, 1
    assert "99.9 %" in to_table(table, ("model",))
    row.calls, row.failures = 1_000, 33
    assert "96.7 %" in to_table(table, ("model",))


def test_small_costs_and_durations_keep_their_digits() -> None:
    """A cost under a cent and a call under a second are not shown as 0."""
    table = UsageTable("journal", since=0.0, until=42.0)
    row = table.row(GroupKey("a", None, None, GENERATION))
    row.calls, row.cost = 1, 0.000123
    row.durations.append(0.0123)
    text = to_table(table, ("model",))
    assert "0.000123" in text
    assert "0.012" in text
    assert "(0:00:42)" in text


def test_a_job_of_conversations_only_has_no_table() -> None:
    """Conversations are reported in a sentence."""
    table = UsageTable("journal", since=0.0, until=1.0)
    table.conversations.add(is_failure=True)
    headline, words = to_table(table, ("model",)).split("\n\n")
    assert headline.endswith("(0:00:01)")
    assert words == "Conversations: 1, 1 failed."


def test_a_row_without_calls_has_no_share_and_no_durations() -> None:
    """Unknown values are dashes."""
    table = UsageTable("endpoint")
    table.row(GroupKey("judge", None, None, EVALUATION)).total_tokens = 7
    lines = to_table(table, ("model",)).splitlines()
    assert lines[0] == "Since the job began"
    assert [line.split() for line in lines if line.startswith(("judge", "total"))] == [
        [name, "0", "0", "-", "-", "-", "-", "0", "0", "7"] for name in ("judge", "total")
    ]
