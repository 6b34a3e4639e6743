"""Names of metrics become names of files and sheets that every system takes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmeter.files.safe_names import MAX_FILE_BYTES, MAX_SHEET_LENGTH, file_names, sheet_names

HOSTILE = [
    *("model_usage:org/model", "model_usage:org:model", "Model_Usage:org/model", "a" * 200),
    *("a" * 199 + "b", "😀" * 60, "😀" * 59 + "x", "CON", "con", "a.", "a ", "'quoted'", "History"),
    *("history", "manifest", "MANIFEST", "", " ", "\0", "tab\tline\n", "é", "e\u0301", "ﬁ", "fi"),
    *("[]:*?/\\", '<>"|', "..", "../../etc/passwd", "ß", "ss", "\ufffe", "nul.txt", "x (2)"),
]
names = st.lists(
    st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    unique=True,
    max_size=12,
)


def files(metrics: list[str], prefix: str = "metrics_") -> dict[str, str]:
    """Give the files' names, without what all have."""
    found = file_names(metrics, prefix=prefix, suffix=".csv")
    assert found is not None
    return {name: each.removeprefix(prefix).removesuffix(".csv") for name, each in found.items()}


@given(names)
def test_files_are_fit_for_every_system_and_differ_on_each(metrics: list[str]) -> None:
    """No reserved character, no more than 255 bytes, and no two alike but for case or form."""
    found = file_names(metrics, prefix="metrics_", suffix=".csv")
    assert found is not None
    assert list(found) == metrics
    assert len({name.casefold() for name in found.values()}) == len(metrics)
    for name in found.values():
        assert len(name.encode()) <= MAX_FILE_BYTES
        assert not re.search(r'[<>:"/\\|?*\x00-\x1f\x7f]', name)


@given(names)
def test_sheets_are_what_excel_takes(metrics: list[str]) -> None:
    """At most 31 units of UTF-16, none of Excel's own characters, none of its own names."""
    found = sheet_names(dict.fromkeys(metrics, 2), taken=["manifest"])
    assert list(found) == metrics
    sheets = [sheet for each in found.values() for sheet in each]
    assert len(sheets) == 2 * len(metrics)
    assert len({sheet.casefold() for sheet in [*sheets, "manifest", "history"]}) == len(sheets) + 2
    for sheet in sheets:
        assert 0 < len(sheet.encode("utf-16-le")) <= 2 * MAX_SHEET_LENGTH
        assert not re.search(r"[\[\]:*?/\\\x00-\x1f\x7f]", sheet)
        assert not sheet.startswith("'")
        assert not sheet.endswith("'")
        assert sheet.strip()


def test_a_name_that_is_safe_stays_as_it_is_whatever_stands_before_it() -> None:
    """A safe name is never taken by another that had to be changed."""
    found = files(["org/model", "org_model"])
    assert found["org_model"] == "org_model"
    assert re.fullmatch(r"org_model_[0-9a-f]{8}", found["org/model"])
    assert files(["org/model"]) == {"org/model": "org_model"}


def test_a_changed_name_does_not_depend_on_the_order() -> None:
    """The same metrics have the same files in every export."""
    one = files(["a/b", "a:b", "a_b"])
    other = files(["a_b", "a/b", "a:b"])
    assert one == other


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.", "a_"), ("a ", "a_"), ("", "_"), ("\0", "_"), ("é", "é"), ("x" * 10, "x" * 10)],
)
def test_what_is_unsafe_becomes_a_line(name: str, expected: str) -> None:
    """Only what some system refuses is changed."""
    assert files([name]) == {name: expected}


def test_a_device_of_windows_is_no_name() -> None:
    """A name that stands alone is never one that Windows keeps for a device."""
    found = file_names(["CON", "lpt1.x", "console"], prefix="", suffix=".csv")
    assert found == {"CON": "_CON.csv", "lpt1.x": "_lpt1.x.csv", "console": "console.csv"}


def test_a_stem_without_room_gives_no_names() -> None:
    """Where the folder's own part is too long there is nothing to cut."""
    assert file_names(["a"], prefix="s" * 250, suffix=".csv") is None


def test_further_sheets_of_a_metric_are_numbered() -> None:
    """A metric that needs three sheets has them in a row, within Excel's length."""
    found = sheet_names({"queue": 3, "queue (2)": 1, "n" * 40: 2})
    assert found["queue"] == ["queue", "queue (3)", "queue (4)"]
    assert found["queue (2)"] == ["queue (2)"]
    assert [len(sheet) for sheet in found["n" * 40]] == [31, 31]
    assert found["n" * 40][1].endswith(" (2)")
