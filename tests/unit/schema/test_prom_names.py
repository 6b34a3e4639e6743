"""Names of metrics and labels in Prometheus."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmeter.schema.prom_names import (
    family_name,
    family_unit,
    label_name,
    prometheus_name,
    reserved_suffix,
    unit_suffix,
)

KINDS = ("counter", "updown", "gauge", "histogram")


@pytest.mark.parametrize(
    ("name", "unit", "kind", "expected"),
    [
        (
            "gen_ai.client.inference.duration",
            "s",
            "histogram",
            "gen_ai_client_inference_duration_seconds",
        ),
        (
            "gen_ai.client.inference.usage.input_tokens",
            "{token}",
            "counter",
            "gen_ai_client_inference_usage_input_tokens_total",
        ),
        (
            "genmeter.last_generation.timestamp",
            "s",
            "gauge",
            "genmeter_last_generation_timestamp_seconds",
        ),
        ("genmeter.cost.usd", "{USD}", "counter", "genmeter_cost_usd_total"),
        ("genmeter.generations.active", "{generation}", "updown", "genmeter_generations_active"),
        ("genmeter.build.info", "", "gauge", "genmeter_build_info"),
    ],
)
def test_catalogue_names_are_stable(name: str, unit: str, kind: str, expected: str) -> None:
    """Metrics of the catalogue have their documented names."""
    assert prometheus_name(name, unit, kind) == expected


@pytest.mark.parametrize(
    ("unit", "kind", "expected"),
    [
        ("", "gauge", ""),
        ("s", "histogram", "seconds"),
        ("ms", "histogram", "milliseconds"),
        ("By", "counter", "bytes"),
        ("KiBy", "gauge", "kibibytes"),
        ("1", "gauge", "ratio"),
        ("1", "counter", ""),
        ("1", "updown", ""),
        ("%", "gauge", "percent"),
        ("{token}", "counter", ""),
        ("By{page}", "counter", "bytes"),
        ("m/s", "gauge", "meters_per_second"),
        ("{token}/s", "gauge", "per_second"),
        ("1/min", "gauge", "per_minute"),
        ("By/{request}", "histogram", "bytes"),
        ("USD", "counter", "USD"),
        ("foo bar", "gauge", "foo_bar"),
    ],
)
def test_units_are_spelled_out(unit: str, kind: str, expected: str) -> None:
    """Units become words; annotations in braces are dropped."""
    assert unit_suffix(unit, kind) == expected


@pytest.mark.parametrize(
    ("name", "unit", "kind", "expected"),
    [
        ("latency.seconds", "s", "histogram", "latency_seconds"),
        ("seconds", "s", "gauge", "seconds"),
        ("requests.total", "{request}", "counter", "requests_total"),
        ("cpu.total", "s", "counter", "cpu_seconds_total"),
        ("cpu.seconds.total", "s", "counter", "cpu_seconds_total"),
        ("a..b--c", "", "gauge", "a_b_c"),
        ("a:b", "", "gauge", "a_b"),
        ("a.", "s", "gauge", "a_seconds"),
        ("2xx", "", "counter", "_2xx_total"),
        ("größe", "By", "gauge", "gr_e_bytes"),
        ("", "", "gauge", "_"),
    ],
)
def test_names_become_valid(name: str, unit: str, kind: str, expected: str) -> None:
    """Existing suffixes are not repeated, and invalid characters are replaced."""
    assert prometheus_name(name, unit, kind) == expected


def test_families_have_no_total_suffix() -> None:
    """A counter's family is its series without the suffix."""
    assert family_name("tokens", "{token}", "counter") == "tokens"


@pytest.mark.parametrize(
    ("name", "unit", "kind", "expected"),
    [
        ("seconds", "s", "gauge", ""),
        ("wait", "s", "gauge", "seconds"),
        ("ratio", "1", "gauge", ""),
        ("wait", "", "gauge", ""),
        ("_bytes", "By", "gauge", "bytes"),
    ],
)
def test_families_named_like_their_unit_have_no_unit(
    name: str, unit: str, kind: str, expected: str
) -> None:
    """OpenMetrics requires a name before the unit."""
    assert family_unit(family_name(name, unit, kind), unit, kind) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("gen_ai.request.model", "gen_ai_request_model"),
        ("a--b", "a_b"),
        ("a__b", "a_b"),
        ("__name__", "_name_"),
        ("1st", "_1st"),
        ("", "_"),
        ("größe", "gr_e"),
    ],
)
def test_labels_become_valid(key: str, expected: str) -> None:
    """An attribute key becomes a label that is valid and not reserved."""
    assert label_name(key) == expected


@pytest.mark.parametrize(
    ("series", "kind", "expected"),
    [
        ("queue_count", "gauge", "_count"),
        ("queue_sum", "updown", "_sum"),
        ("queue_bucket", "counter", "_bucket"),
        ("queue_total", "gauge", "_total"),
        ("queue_total", "counter", None),
        ("queue_count", "histogram", None),
        ("queue_size", "gauge", None),
    ],
)
def test_reserved_suffixes_are_found(series: str, kind: str, expected: str | None) -> None:
    """Suffixes of other kinds of metrics are returned."""
    assert reserved_suffix(series, kind) == expected


@given(st.text(), st.text(), st.sampled_from(KINDS))
def test_any_name_becomes_a_valid_one(name: str, unit: str, kind: str) -> None:
    """Every instrument name results in a valid series name."""
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", prometheus_name(name, unit, kind))


@given(st.text())
def test_any_key_becomes_a_valid_label(key: str) -> None:
    """Every attribute key results in a valid label."""
    label = label_name(key)
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", label)
    assert not label.startswith("__")


@given(st.text(), st.text(), st.sampled_from(KINDS))
def test_any_family_ends_with_its_unit(name: str, unit: str, kind: str) -> None:
    """Every family ends with an underscore and its unit, if it has one."""
    family = family_name(name, unit, kind)
    word = family_unit(family, unit, kind)
    assert not word or family.endswith(f"_{word}")
