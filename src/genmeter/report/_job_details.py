"""The details of a running job, from the metrics of its endpoint."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from genmeter.report.details import Samples
from genmeter.report.distribution import Distribution
from genmeter.report.status import Status
from genmeter.report.usage_table import GENERATION, UNKNOWN_MODEL
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import Metric
    from prometheus_client.samples import Sample

    from genmeter.report.details import Details

__all__ = ["add_job"]

_FIRST_CHUNK = cat.FIRST_CHUNK.prometheus
_SCORES, _SCORE_SUM = cat.SCORES_TOTAL.prometheus, cat.SCORE_ACCUMULATED.prometheus


def add_job(details: Details, source: str, families: Sequence[Metric]) -> None:
    """Add the metrics of a job to some details.

    Args:
        details: The details.
        source: The address of the endpoint.
        families: Its metrics.
    """
    status = Status.of(families)
    details.kinds.add("endpoint")
    details.errors.update(status.errors)
    details.firing.update(dict.fromkeys(status.firing, 1))
    details.dropped.update(status.dropped)
    details.samples.append(
        Samples(source, status.accepted, status.rejected, status.expected, status.is_finished)
    )
    _add_first_chunks(details, families)
    _add_scores(details, families)


def _add_first_chunks(details: Details, families: Sequence[Metric]) -> None:
    chunks: defaultdict[str, Distribution] = defaultdict(Distribution)
    for sample in _samples(families):
        labels = sample.labels
        is_call = labels.get(cat.PHASE.prometheus) == GENERATION
        if is_call and sample.name.startswith(_FIRST_CHUNK):
            model = labels.get(cat.MODEL.prometheus) or UNKNOWN_MODEL
            _add_to(chunks[model], sample)
    for model, distribution in chunks.items():
        known = details.first_chunks_of(model)
        details.first_chunks[model] = Distribution.sum([known, distribution])


def _add_scores(details: Details, families: Sequence[Metric]) -> None:
    shares: defaultdict[str, Distribution] = defaultdict(Distribution)
    for sample in _samples(families):
        name = sample.labels.get(cat.SCORE_NAME.prometheus)
        if not name:
            continue
        scores = details.scaled_scores_of(name)
        if sample.name == _SCORES:
            scores.count += round(sample.value)
        elif sample.name == _SCORE_SUM:
            scores.total += sample.value
        else:
            _add_to(shares[name], sample)
    for name, distribution in shares.items():
        scores = details.scaled_scores_of(name)
        scores.positions = Distribution.sum([scores.positions, distribution])


def _samples(families: Sequence[Metric]) -> Iterator[Sample]:
    return (sample for family in families for sample in family.samples)


def _add_to(distribution: Distribution, sample: Sample) -> None:
    """Add a sample of a histogram to the distribution."""
    if sample.name.endswith("_sum"):
        distribution.bucket_sum += sample.value
    elif sample.name.endswith("_bucket"):
        distribution.buckets[float(sample.labels["le"])] += round(sample.value)
