"""The simulated processes of benchmarks/scaling.py: their pages, and their past as remote write."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
START = 1_750_000_005.0
TIMES = START + np.arange(0, 3_600, 15.0)


@pytest.fixture(scope="module")
def scaling() -> Iterator[Any]:
    """Return the module of pages and the one of the past."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        import _scaling_history
        import _scaling_page

        yield _scaling_page, _scaling_history
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def text(scaling: Any) -> str:
    """Return the page of a real process."""
    with fresh_runtime():
        found: str = scaling[0].read_page(scaling[0].Shape(models=1, steps=2))
        return found


def test_a_simulated_page_is_that_of_a_real_process(scaling: Any, text: str) -> None:
    """It has the same series, in a format that parses, with values of its own."""
    page = scaling[0].Page(text)
    own = page.text(7, START + 600, START)

    def series(of: str) -> dict[tuple[str, str], float]:
        return {
            (sample.name, str(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(of)
            for sample in family.samples
        }

    assert series(own).keys() == series(text).keys()
    assert series(own) != series(text)
    assert series(own) != series(page.text(8, START + 600, START))


def test_counters_of_a_simulated_process_grow(scaling: Any, text: str) -> None:
    """From 0, and they never fall; a bucket has at most as many as the next."""
    page = scaling[0].Page(text)
    values = page.values(3, TIMES, START)
    grows = np.array([each.grows for each in page.series])
    assert grows.sum() > 100
    assert (values[grows, 0] == 0).all()
    assert (np.diff(values[grows], axis=1) >= 0).all()
    assert (values[grows, -1] > 0).sum() > 50
    histograms: dict[str, list[tuple[float, int]]] = {}
    for at, each in enumerate(page.series):
        if each.name.endswith("_bucket"):
            labels = {name: value for name, value in each.labels.items() if name != "le"}
            key = f"{each.name}{sorted(labels.items())}"
            histograms.setdefault(key, []).append((float(each.labels["le"]), at))
    for buckets in histograms.values():
        places = [at for _, at in sorted(buckets)]
        assert (np.diff(values[places], axis=0) >= 0).all()


def test_the_past_has_the_stored_series_of_each_process(scaling: Any, text: str) -> None:
    """Each request decodes to sorted labels, and to the values of the page."""
    page_module, history = scaling
    page = page_module.Page(text)
    past = history.Past(page, 3, 2, START)
    ((body, count),) = past.requests(TIMES[:4])
    found = decoded(body)
    assert len(found) == 3 * (len(page.stored) + 1)
    assert count == len(found) * 4
    names = [each.name for each in page.series]
    place = names.index("genmeter_generations_total")
    for number in range(3):
        target = history.labels_of(number, 2)
        labels = {"__name__": names[place], **page.series[place].labels, **target}
        samples = found[tuple(sorted(labels.items()))]
        expected = page.values(number, TIMES[:4], START)[place]
        assert samples == [
            (round(time * 1_000), value) for time, value in zip(TIMES, expected, strict=False)
        ]
    assert not any(dict(labels)["__name__"].endswith("_created") for labels in found)


def decoded(body: bytes) -> dict[tuple[tuple[str, str], ...], list[tuple[int, float]]]:
    """Decode a request of remote write, framed as one literal of snappy."""
    size, at = varint(body, 0)
    assert body[at] == 0xFC
    plain = body[at + 5 :]
    assert len(plain) == size == int.from_bytes(body[at + 1 : at + 5], "little") + 1
    found = {}
    for series in fields(plain, 1):
        labels, samples = [], []
        for label in fields(series, 1):
            (name,), (value,) = fields(label, 1), fields(label, 2)
            labels.append((name.decode(), value.decode()))
        for sample in fields(series, 2):
            assert (sample[0], sample[9]) == (0x09, 0x10)
            samples.append((varint(sample, 10)[0], float(np.frombuffer(sample[1:9], "<f8")[0])))
        assert labels == sorted(labels)
        found[tuple(labels)] = samples
    return found


def fields(message: bytes, number: int) -> list[bytes]:
    """Return the values of a field, where all fields have a length."""
    found, at = [], 0
    while at < len(message):
        tag = message[at]
        assert tag & 7 == 2
        size, at = varint(message, at + 1)
        if tag >> 3 == number:
            found.append(message[at : at + size])
        at += size
    return found


def varint(body: bytes, at: int) -> tuple[int, int]:
    """Return a number and the place after it."""
    number = shift = 0
    while True:
        number |= (body[at] & 127) << shift
        shift += 7
        at += 1
        if body[at - 1] < 128:
            return number, at


def test_the_documentation_drops_what_is_measured(scaling: Any, text: str) -> None:
    """The relabelling of docs/scaling.md is that of the benchmark, and drops buckets of durations only."""
    page_module, _ = scaling
    written = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", written, re.DOTALL)
    assert yaml.safe_load(block)["metric_relabel_configs"] == list(page_module.DROPS)
    page, less = page_module.Page(text), page_module.Page(text, page_module.DROPS)
    dropped = [page.series[at] for at in page.stored if at not in set(less.stored.tolist())]
    assert {each.name for each in dropped} == {
        "gen_ai_client_inference_duration_seconds_bucket",
    }
    assert not any(
        each.labels["le"] == "+Inf" and "error_type" not in each.labels for each in dropped
    )
    assert {each.labels["le"] for each in dropped if "error_type" not in each.labels} == {
        *("0.01", "0.02", "0.04", "0.08", "327.68", "655.36")
    }
