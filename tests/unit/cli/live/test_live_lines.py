"""Plain lines for programs."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from _live import row, status

from genmeter.cli.live.lines import FIELDS, lines, remarks

NOW = datetime(2026, 11, 26, 12, 1, 5, tzinfo=UTC)


def fields(line: str) -> dict[str, str]:
    """The fields of a line after its time, in their order."""
    assert line.startswith("2026-11-26T12:01:05+00:00 ")
    found = re.findall(r' (\w+)=("[^"]*"|\S+)', line)
    assert "".join(f" {name}={value}" for name, value in found) == line[25:]
    return dict(found)


def test_a_line_has_every_field() -> None:
    """Their order is that of the help."""
    found = status(firing={"B": 1, "A": 1}, processes={"running": 2, "died": 1})
    (line,) = lines([row(status=found)], NOW)
    assert fields(line) == {
        "source": "127.0.0.1:9464",
        "state": "running",
        "silent_s": "0.0",
        "age_s": "0.5",
        "calls": "100",
        "failed": "4",
        "failed_share": "0.0400",
        "cancelled": "0",
        "active": "7",
        "calls_per_s": "10.00",
        "tokens_per_s": "1200.0",
        "tokens": "12000",
        "prompt_tokens": "10000",
        "completion_tokens": "2000",
        "usd": "1.000000",
        "unpriced": "-",
        "no_usage": "2",
        "samples": "40",
        "rejected": "10",
        "expected": "100",
        "left_s": "30",
        "died": "1",
        "errors": "RateLimitError:3,TimeoutError:1",
        "firing": "A,B",
    }
    assert [*fields(line)] == [*FIELDS]


def test_a_source_without_numbers_has_the_same_fields() -> None:
    """Each is unknown."""
    (line,) = lines([row(state="no answer", status=None, since=12.0)], NOW)
    found = fields(line)
    assert [*found] == [*FIELDS]
    assert (found.pop("source"), found.pop("state")) == ("127.0.0.1:9464", "no-answer")
    assert found.pop("silent_s") == "12.0"
    assert set(found.values()) == {"-"}


def test_several_sources_have_a_total() -> None:
    """It is partial if a source does not answer."""
    rows = [row("a"), row("b", "bad answer", status=status(instance="two"))]
    found = [fields(line) for line in lines(rows, NOW)]
    assert [each["source"] for each in found] == ["a", "b", "total"]
    assert [each["state"] for each in found] == ["running", "bad-answer", "partial"]
    assert [each["calls"] for each in found] == ["100", "100", "200"]
    assert [each["calls_per_s"] for each in found] == ["10.00", "-", "10.00"]


def test_a_name_with_spaces_is_quoted() -> None:
    """A program can split the line."""
    (line,) = lines([row('a "b"\n=c')], NOW)
    assert fields(line)["source"] == "\"a 'b'?=c\""


def test_remarks_say_why_numbers_are_missing() -> None:
    """They are not in the lines."""
    found = remarks([row("a", "no answer", reason="does not respond"), row("b")])
    assert found[0].startswith("a and b are the same job")
    assert found[1:] == ["a: does not respond"]
