"""What the metric readers share."""

from __future__ import annotations

from typing import Any

import opentelemetry.sdk.metrics as sdk

from genmeter.exporters.provider import cardinality_arguments

KINDS = {
    "Counter",
    "Histogram",
    "ObservableCounter",
    "ObservableGauge",
    "ObservableUpDownCounter",
    "UpDownCounter",
}


class Capped:
    """A reader of an SDK that can be told."""

    def __init__(self, cardinality_limits: Any = None) -> None: ...


class Uncapped:
    """A reader of an SDK from before that."""

    def __init__(self) -> None: ...


def test_every_kind_of_instrument_is_capped() -> None:
    """A reader that takes limits is given one for each class that the SDK exports."""
    (limits,) = cardinality_arguments(Capped, 7).values()

    assert set(limits.values()) == {7}
    assert set(limits) == {getattr(sdk, name) for name in sdk.__all__ if name in KINDS}
    assert len(limits) == len(KINDS)


def test_a_reader_that_takes_no_limits_is_given_none() -> None:
    """Older SDKs have no such argument, and are spared it."""
    assert cardinality_arguments(Uncapped, 7) == {}
