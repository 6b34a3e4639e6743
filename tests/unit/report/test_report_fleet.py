"""The report of a fleet, from stored samples with hand-computed sums."""

from __future__ import annotations

import math
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from _fleet import CALL, NOW, StoredSamples, serving_samples

from _report import as_json, report, rows_of, write
from genmeter.config.prices import PriceTable
from genmeter.errors import ConfigError
from genmeter.report.fleet import read_fleet
from genmeter.schema.metrics import INSTRUMENTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from genmeter.report.usage_table import UsageRow, UsageTable

SINCE = NOW - 3600.0
HOUR = timedelta(hours=1)
CALLS, TOKENS = "genmeter_generations_total", "genmeter_tokens_total"
ENDED = "ended without a last sample"
EVERY = 15.0


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> StoredSamples:
    """Answer every query from stored samples."""
    store = StoredSamples()
    store.replace_api(monkeypatch)
    return store


def read(**arguments: Any) -> UsageTable:
    """Read the last hour."""
    return read_fleet("prometheus:9090", window=HOUR, **arguments)


def at(*numbers: float) -> list[float]:
    """Return the times of scrapes, by their number after the begin of the window."""
    return [SINCE + EVERY * number for number in numbers]


def samples(values: Sequence[float], first: float = 1) -> list[tuple[float, float]]:
    """Return values of consecutive scrapes."""
    return [(SINCE + EVERY * (first + index), value) for index, value in enumerate(values)]


def born(birth: float, counter: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the samples of a birth in the scrapes of a counter."""
    return [(when, birth) for when, _ in counter]


def total(**arguments: Any) -> UsageRow:
    """Return the sum of the last hour."""
    return read(**arguments).total()


def note(table: UsageTable, text: str) -> str:
    """Return the only note with a text."""
    found = [each for each in table.notes if text in each]
    assert len(found) == 1, table.notes
    return found[0]


def test_every_quantity_of_an_endpoint_is_in_the_table(store: StoredSamples) -> None:
    """Calls by outcome, tokens with their parts, cost, durations, evaluations, conversations."""
    one, birth = samples([1]), SINCE + 1
    usage = "gen_ai_client_inference_usage"
    labels = {**CALL, "genmeter_step": "draft", "gen_ai_response_model": "atlas-2"}

    def count(name: str, value: float, **more: str) -> None:
        now = [(one[0][0], value)]
        store.counter(name, now, births=born(birth, now), **{**labels, **more})

    for outcome, value in (("success", 5), ("failure", 2), ("cancelled", 1)):
        count(CALLS, value, genmeter_outcome=outcome)
    count(f"{usage}_input_tokens_total", 70, gen_ai_token_modality="unknown")
    count(f"{usage}_output_tokens_total", 30, gen_ai_token_modality="unknown")
    count(f"{usage}_cache_read_input_tokens_total", 20, gen_ai_token_modality="unknown")
    count(f"{usage}_cache_write_input_tokens_total", 10, gen_ai_token_modality="unknown")
    count(f"{usage}_reasoning_output_tokens_total", 5, gen_ai_token_modality="unknown")
    count(TOKENS, 100)
    count("genmeter_cost_usd_total", 0.25, genmeter_cost_source="prices")
    count("genmeter_cost_usd_total", 0.5, genmeter_cost_source="reported")
    count("genmeter_usage_unread_total", 3, genmeter_reason="stream")
    count("genmeter_unpriced_generations_total", 1)
    duration = "gen_ai_client_inference_duration_seconds"
    for bound, value in (("1.0", 4), ("2.0", 8), ("+Inf", 8)):
        count(f"{duration}_bucket", value, le=bound)
    count(f"{duration}_sum", 9.5)
    for outcome in ("success", "failure"):
        target = {"genmeter_outcome": outcome}
        store.counter("genmeter_evaluations_total", one, genmeter_evaluator="judge", **target)
        store.counter("genmeter_conversation_duration_seconds_count", one, **target)
    table = read()
    ((key, row),) = table.rows.items()
    assert key == ("atlas", "draft", None, "generation", "atlas-2", "writer", "10.0.0.1:9464")
    assert (row.calls, row.failures, row.cancelled, row.calls_without_usage) == (8, 2, 1, 3)
    assert (row.prompt_tokens, row.completion_tokens, row.total_tokens) == (70, 30, 100)
    assert (row.cache_read_tokens, row.cache_write_tokens, row.reasoning_tokens) == (20, 10, 5)
    assert row.cost == 0.75
    assert row.buckets == {1.0: 4, 2.0: 8, math.inf: 8}
    assert row.mean() == 9.5 / 8
    assert row.quantile(0.5) == 1.0
    assert (table.evaluations.count, table.evaluations.failures) == (2, 1)
    assert (table.conversations.count, table.conversations.failures) == (2, 1)
    assert table.unpriced == {"atlas"}
    assert (table.source, table.is_estimated, table.since) == ("prometheus", True, one[0][0])


def test_sums_are_priced_again(store: StoredSamples) -> None:
    """With the prices that are given."""
    now = samples([1_000_000])
    usage = "gen_ai_client_inference_usage_input_tokens_total"
    for name in (usage, TOKENS):
        store.counter(name, now, births=born(SINCE + 1, now), **CALL)
    assert total(prices=PriceTable({"atlas": (2.0, 10.0)})).cost == 2.0


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize("most", [10**9, 40])
def test_slices_do_not_change_the_sums(store: StoredSamples, is_closed: bool, most: int) -> None:
    """However small they are, and whether a range includes its begin."""
    store.is_closed, store.most = is_closed, most
    counts = [*range(3, 100), *range(5, 140)]
    births = [
        (when, SINCE - 7 if n < 97 else SINCE + 1456) for n, (when, _) in enumerate(samples(counts))
    ]
    store.counter(CALLS, samples(counts), births=births, **CALL)
    store.counter(CALLS, [(SINCE - 3, 2.0)], births=[(SINCE - 3, SINCE - 7)], **CALL)
    done: list[tuple[int, int]] = []
    assert total(progress=lambda *each: done.append(each)).calls == 99 - 2 + 139
    assert done[-1] == (3_600_000, 3_600_000)
    assert done == sorted(done)
    assert (len(done) > 10) == (most == 40)


def test_a_server_that_refuses_every_slice_is_an_error(store: StoredSamples) -> None:
    """With what it said, and the remedy."""
    for step in range(50):
        store.counter(CALLS, samples([1]), step=str(step), **CALL)
    store.most = 10
    with pytest.raises(ConfigError, match=r"cannot return .*too many samples.*raise the limits"):
        read()


def test_a_server_that_refuses_the_values_before_is_an_error(store: StoredSamples) -> None:
    """They are asked for with shorter and shorter ranges first."""
    for step in range(50):
        store.counter(CALLS, [(SINCE - 0.5, 1.0)], step=str(step), **CALL)
    store.most = 10
    with pytest.raises(ConfigError, match="cannot return the values before the window"):
        read()
    asked = [each for each in store.queries if each.startswith("last_over_time")]
    assert len(asked) > 4


def test_a_refused_question_is_said(store: StoredSamples) -> None:
    """The sums are there nevertheless."""
    now = samples([5])
    store.counter(CALLS, now, births=born(SINCE + 1, now), **CALL)
    store.most = 10
    store.extra["up == 0"] = [({"job": "x", "instance": str(host)}, 0) for host in range(50)]
    table = read()
    assert table.total().calls == 5
    assert note(table, "refused a question")


def test_a_window_of_nothing_is_an_error() -> None:
    """It names the argument and the value."""
    with pytest.raises(ConfigError, match="window must be longer than 0, got 0:00:00"):
        read_fleet("prometheus:9090", window=timedelta())


def test_without_births_another_counters_fall_is_a_restart(store: StoredSamples) -> None:
    """A process loses all of its counters at once."""
    store.counter(CALLS, samples([5, 9]), **CALL, genmeter_outcome="success")
    store.counter(CALLS, samples([2, 1]), **CALL, genmeter_outcome="failure")
    assert total().calls == 5 + 9 + 2 + 1


def test_without_births_another_process_id_is_a_restart(store: StoredSamples) -> None:
    """Although all counts are higher."""
    store.counter(CALLS, samples([5, 9]), **CALL)
    for number, when in enumerate(at(1, 2)):
        info = {"__name__": "target_info", "job": "writer", "instance": "10.0.0.1:9464"}
        store.add({**info, "service_instance_id": f"id-{number}"}, (when, 1.0))
    assert total().calls == 5 + 9


def test_a_first_value_of_unknown_time_is_counted_and_said(store: StoredSamples) -> None:
    """Without births, a series of a target that was not scraped before."""
    store.counter(CALLS, samples([5, 9]), **CALL)
    table = read()
    assert table.total().calls == 9
    assert "up to 5 calls may be from before the window" in note(table, "Counted, but")


def test_a_series_without_birth_of_a_target_that_was_scraped_is_of_the_window(
    store: StoredSamples,
) -> None:
    """It was not there in the scrape before."""
    store.scrapes(at(1, 2, 3, 240))
    store.counter(CALLS, samples([5, 9], first=2), **CALL)
    table = read()
    assert table.total().calls == 9
    assert not [each for each in table.notes if "Counted, but" in each]


def test_what_began_before_without_a_sample_is_not_counted_and_said(store: StoredSamples) -> None:
    """Its part before the first sample is unknown."""
    now = samples([50, 90])
    store.counter(CALLS, now, births=born(SINCE - 999, now), **CALL)
    store.counter(TOKENS, now, births=born(SINCE - 999, now), **CALL)
    table = read()
    assert table.total().calls == 40
    assert "up to 50 calls and 50 tokens" in note(table, "Not counted")


def test_ends_that_nobody_saw_are_said(store: StoredSamples) -> None:
    """A restart, and a target that is gone; each lacks up to an interval."""
    first, second = samples([5, 9]), samples([2, 3], first=3)
    births = [*born(SINCE + 1, first), *born(SINCE + 40, second)]
    store.counter(CALLS, [*first, *second], births=births, **CALL)
    store.scrapes(at(1, 2, 3, 4))
    table = read()
    assert table.total().calls == 12
    assert note(table, ENDED).startswith("2 processes ended")
    assert "(writer/10.0.0.1:9464, the latest at 2026-01-31 11:01:00 UTC)" in note(table, ENDED)
    assert "what each counted after its last sample, up to 15 s or" in note(table, ENDED)


def test_a_finished_job_lacks_nothing(store: StoredSamples) -> None:
    """Its last scrape says that it has finished."""
    now = samples([5, 9])
    store.counter(CALLS, now, births=born(SINCE + 1, now), **CALL)
    store.counter("up", [(SINCE - 10, 1)])
    store.scrapes(at(1, 2), finished=1.0)
    store.extra["up == 0"] = [({"job": "writer", "instance": "10.0.0.1:9464"}, 0)]
    assert read().notes == [
        "No durations" + note(read(), "No durations").removeprefix("No durations")
    ]


def test_running_and_down_targets_are_said(store: StoredSamples) -> None:
    """With the age of their last samples."""
    for host in ("10.0.0.1:9464", "10.0.0.2:9464"):
        store.counter(CALLS, samples([5, 9], first=238.8), **CALL, instance=host)
        store.scrapes(at(237.8, 238.8, 239.8), instance=host)
    store.extra["up == 0"] = [
        ({"job": "writer", "instance": "10.0.0.2:9464"}, 0),
        ({"job": "writer", "instance": "10.0.0.3:9464"}, 0),
        ({"job": "other", "instance": "10.0.0.9:80"}, 0),
    ]
    table = read()
    assert "2 processes may still be running" in note(table, "running")
    assert "up to 3 s before the end" in note(table, "running")
    assert note(table, "own at the end").startswith(
        "Incomplete: down at the end: writer/10.0.0.2:9464, writer/10.0.0.3:9464;"
    )
    assert not table.is_complete


def test_deaths_make_a_report_incomplete(store: StoredSamples) -> None:
    """Those of a job in it."""
    for job, is_complete in (("other", True), ("writer", False)):
        store.counter(CALLS, samples([5]), **CALL)
        store.extra["genmeter_job_processes"] = [({"job": job}, 1)]
        assert read().is_complete is is_complete


def test_gaps_are_said(store: StoredSamples) -> None:
    """How many, and the longest; short ones are not."""
    times = at(*range(1, 50), 52, *range(60, 80), *range(200, 240))
    store.scrapes(times)
    now = [(when, float(index)) for index, when in enumerate(times)]
    store.counter(CALLS, now, births=born(SINCE + 1, now), **CALL)
    table = read()
    assert table.total().calls == len(times) - 1
    assert "2 gaps in the samples of writer/10.0.0.1:9464, the longest of 30.2 min" in note(
        table, "gap"
    )


def test_a_server_without_a_past_is_said(store: StoredSamples) -> None:
    """The window may begin before its retention."""
    store.counter(CALLS, samples([5]), births=born(SINCE + 1, samples([5])), **CALL)
    assert "the server has none from before" in note(read(), "The window begins")
    store.counter("up", [(SINCE - 1, 1)])
    assert not [each for each in read().notes if "The window begins" in each]


@pytest.mark.parametrize("has_births", [True, False])
def test_a_process_of_two_targets_is_counted_once(store: StoredSamples, has_births: bool) -> None:
    """Two scrapers, or a scrape and a push; the one that saw the most is kept."""
    for replica, values in (("a", [5, 9]), ("b", [5, 8])):
        now = samples(values)
        births = born(SINCE + 1, now) if has_births else ()
        store.counter(CALLS, now, births=births, **CALL, replica=replica)
        if not has_births:
            info = {"job": "writer", "instance": "10.0.0.1:9464", "replica": replica}
            store.add({"__name__": "target_info", **info, "service_instance_id": "x"}, *now)
            store.extra["target_info"] = [
                ({**info, "replica": each, "service_instance_id": "x"}, 1) for each in "ab"
            ]
    table = read()
    assert table.total().calls == 9
    assert "1 target not counted, writer/10.0.0.1:9464 (replica=b)" in note(table, "counted once")


def test_a_job_that_is_scraped_and_pushed_is_counted_once(store: StoredSamples) -> None:
    """A push has the id as its instance."""
    now = samples([5, 9])
    store.counter(CALLS, now, births=born(SINCE + 1, now), **CALL)
    store.counter(CALLS, samples([4]), **CALL, instance="id-1", job="team/writer")
    info = {"job": "writer", "instance": "10.0.0.1:9464", "service_instance_id": "id-1"}
    store.extra["target_info"] = [(info, 1)]
    table = read()
    assert table.total().calls == 9
    assert "1 target not counted, team/writer/id-1 (writer/10.0.0.1:9464)" in note(
        table, "counted once"
    )


def test_targets_that_may_be_the_same_are_said(store: StoredSamples) -> None:
    """Equal job and instance, without births and ids."""
    for replica in "ab":
        store.counter(CALLS, samples([5]), **CALL, replica=replica)
    table = read()
    assert table.total().calls == 10
    assert "may be the same process" in note(table, "equal job and instance")


def test_processes_that_answer_in_turn_are_each_exact_and_said(store: StoredSamples) -> None:
    """Workers behind one port, without a job."""
    now = samples([5, 7, 6, 9, 8])
    births = [(when, SINCE + 1 + index % 2) for index, (when, _) in enumerate(now)]
    store.counter(CALLS, now, births=births, **CALL)
    table = read()
    assert table.total().calls == 8 + 9
    assert "GENMETER_JOB" in note(table, "in turn")


def test_what_the_server_and_the_jobs_say_is_in_the_notes(store: StoredSamples) -> None:
    """Warnings, died processes, exceeded limits."""
    store.counter(CALLS, samples([5]), **CALL)
    store.counter(CALLS, samples([5]), otel_metric_overflow="true")
    store.warnings = ["PromQL warning: partial"]
    store.extra["genmeter_job_processes"] = [({"job": "writer"}, 2), ({"job": "other"}, 9)]
    store.extra["> 0"] = [({}, 1)]
    table = read()
    assert table.total().calls == 5
    assert note(table, "The server warns") == "The server warns: PromQL warning: partial"
    assert note(table, " died").startswith("Incomplete: 2 processes of writer died")
    assert "limits.combinations" in note(table, "Incomplete: a job")


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ([], r"has no metrics of genmeter within 60 min before .* UTC; use a longer window"),
        (["genmeter.tokens"], r"such as 'genmeter.tokens'; set `translation_strategy"),
    ],
)
def test_a_server_without_the_metrics_is_an_error(
    store: StoredSamples, stored: list[str], message: str
) -> None:
    """Which has the remedy; other names have another one."""
    store.extra["count by (__name__)"] = [({"__name__": name}, 1) for name in stored]
    with pytest.raises(ConfigError, match=message):
        read()


def test_names_of_another_translation_beside_those_of_a_scrape_are_noted(
    store: StoredSamples,
) -> None:
    """What one job pushes is missing, and the note has the remedy; births are no other names."""
    store.counter(CALLS, samples([5]), **CALL)
    known = ["genmeter_generations_created", "genmeter_tokens_created"]
    known += [row.prometheus for row in INSTRUMENTS]
    store.extra["count by (__name__)"] = [({"__name__": name}, 1) for name in known]
    assert not [each for each in read().notes if "translation_strategy" in each]
    store.extra["count by (__name__)"] = [({"__name__": "genmeter_generations"}, 1)]
    table = read()
    assert table.total().calls == 5
    assert "under 'genmeter_generations', which is not" in note(table, "translation_strategy")


def test_a_job_whose_calls_have_other_names_is_an_error(store: StoredSamples) -> None:
    """Also where some names are the same in both translations."""
    store.counter("genmeter_conversation_length_count", samples([5]), **CALL)
    store.extra["count by (__name__)"] = [({"__name__": "genmeter_generations"}, 1)]
    with pytest.raises(ConfigError, match="such as 'genmeter_generations'; set"):
        read()


def test_a_job_without_calls_is_no_error(store: StoredSamples) -> None:
    """It was there, and has done nothing; neither has one that ended before."""
    store.scrapes(at(1, 2))
    assert read().is_empty()
    store._series.clear()
    store.counter(CALLS, [(SINCE - 100, 5.0)], **CALL)
    table = read()
    assert table.is_empty()
    assert "No samples in the window" in note(table, "No samples")


def test_series_without_a_job_have_the_names_of_the_resource(store: StoredSamples) -> None:
    """VictoriaMetrics keeps the attributes of a push as labels."""
    labels = {"service_name": "writer", "service_namespace": "team", "service_instance_id": "id-1"}
    store.add({"__name__": CALLS, **CALL, **labels}, *samples([5]))
    ((key, row),) = read().rows.items()
    assert (key.job, key.process, row.calls) == ("team/writer", "id-1", 5)
    store.add({"__name__": CALLS, **CALL}, *samples([5]))
    assert "no `job` or `instance`" in note(read(), "no `job`")


def test_series_with_the_services_name_and_without_a_job_are_noted(store: StoredSamples) -> None:
    """They are in the report, but in no dashboard and no rule."""
    labels = {"service_name": "writer", "service_instance_id": "id-1"}
    store.add({"__name__": CALLS, **CALL, **labels}, *samples([5]))
    assert "(writer/id-1)" in note(read(), "no label `job`")
    store._series.clear()
    store.add({"__name__": CALLS, **CALL, **labels, "job": "writer"}, *samples([5]))
    assert not [each for each in read().notes if "no label `job`" in each]


@pytest.mark.parametrize(
    ("values", "is_delta"), [([20, 5, 7], True), ([20, 25, 32], False), ([20, 20, 20], False)]
)
def test_counters_of_one_process_that_fall_are_noted(
    store: StoredSamples, values: list[int], is_delta: bool
) -> None:
    """A pushed id is one process, whose sums cannot fall; an address may have several in turn."""
    for instance in ("0b0f0ab2-3a3e-4a53-8a35-0d5a7a3d5f00", "10.0.0.1:9464"):
        store._series.clear()
        store.counter(CALLS, samples(values), **CALL, instance=instance)
        table = read()
        said = [each for each in table.notes if "TEMPORALITY_PREFERENCE=cumulative" in each]
        assert bool(said) == (is_delta and instance[0] == "0")
        assert table.is_complete != bool(said)


def test_exponential_histograms_are_no_targets_of_their_own(store: StoredSamples) -> None:
    """VictoriaMetrics gives their buckets a label `vmrange`; the note has the remedy."""
    store.counter(CALLS, samples([5]), **CALL)
    duration = "gen_ai_client_inference_duration_seconds"
    store.counter(f"{duration}_bucket", samples([5]), **CALL, vmrange="2.5e-01...2.8e-01")
    store.counter(f"{duration}_sum", samples([5]), **CALL)
    table = read()
    assert table.total().calls == 5
    assert not [each for each in table.notes if "counted once" in each]
    assert "DEFAULT_HISTOGRAM_AGGREGATION" in note(table, "No durations")


def test_other_instrumentations_are_not_counted(store: StoredSamples) -> None:
    """Their series have no phase."""
    store.counter(CALLS, samples([5]), **CALL)
    labels = {name: text for name, text in CALL.items() if name != "genmeter_phase"}
    store.counter("gen_ai_client_inference_duration_seconds_sum", samples([5]), **labels)
    assert total().duration_sum == 0


def test_the_command_needs_a_window(capsys: pytest.CaptureFixture[str]) -> None:
    """A server has no beginning."""
    code, _, err = report(capsys, "prometheus=127.0.0.1:1")
    assert code == 2
    assert "window must be given" in err
    assert "--window 24h" in err


def test_the_command_reports_a_fleet_by_job(capsys: pytest.CaptureFixture[str]) -> None:
    """Over HTTP, as CSV."""
    store = StoredSamples()
    for birth, job in ((1, "reader"), (2, "writer")):
        store.counter(CALLS, samples([5]), births=samples([SINCE + birth]), **CALL, job=job)
    with serving_samples(store) as server:
        arguments = ("--window", "1h", "--by", "job", "--format", "csv")
        code, out, _ = report(capsys, f"prometheus={server.url}", *arguments)
    assert code == 0
    assert [line.split(",")[:2] for line in out.splitlines()[1:]] == [
        ["reader", "5"],
        ["writer", "5"],
    ]


@pytest.mark.parametrize(
    ("other", "start", "complete"),
    [
        (
            {"job": "reader", "instance": "b:1"},
            "Perhaps counted twice: more than one Prometheus has the same targets (reader, b:1); use",
            False,
        ),
        ({"job": "writer", "instance": "b:2"}, "A process that is in more than one Prom", True),
    ],
)
def test_targets_of_two_servers_are_reported(
    capsys: pytest.CaptureFixture[str], other: dict[str, str], start: str, complete: bool
) -> None:
    """Two replicas that scrape the same processes are in the sum twice."""
    with ExitStack() as stack:
        sources = []
        for labels in ({"job": "reader", "instance": "b:1"}, other):
            store = StoredSamples()
            store.counter(CALLS, samples([5]), births=samples([SINCE + 1]), **CALL, **labels)
            server = stack.enter_context(serving_samples(store))
            sources.append(f"prometheus={server.url}")
        found = as_json(capsys, *sources, "--window", "1h")
    assert found["total"]["calls"] == 10
    assert [note for note in found["notes"] if note.startswith(start)]
    assert found["complete"] == complete


@pytest.mark.parametrize(
    ("job", "start", "complete"),
    [
        ("reader", "Perhaps counted twice: the job reader is both in a Prometheus and in a", False),
        ("nightly", "A job that is both in a Prometheus and in one of the files counts", True),
    ],
)
def test_a_job_of_a_server_and_of_a_journal_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], job: str, start: str, complete: bool
) -> None:
    """Its calls are in the sum twice."""
    first, *others = rows_of(5)
    writer = {"seq": 1, "process": 41, "host": "node-1", "job": job}
    rows = [{**first, **writer}, *others]
    path = write(tmp_path / "metrics.jsonl", [{**row, "run": "0123abcd-1"} for row in rows])
    store = StoredSamples()
    labels = {"job": "reader", "instance": "b:1"}
    store.counter(CALLS, samples([5]), births=samples([SINCE + 1]), **CALL, **labels)
    with serving_samples(store) as server:
        found = as_json(capsys, path, f"prometheus={server.url}", "--window", "1h")
    assert found["total"]["calls"] == 6
    assert [note for note in found["notes"] if note.startswith(start)]
    assert found["complete"] == complete
