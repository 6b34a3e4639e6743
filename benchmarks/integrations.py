"""What watching adds to a call of OpenAI's client, LangChain and LiteLLM: genmeter, OpenLIT and OpenLLMetry.

OpenLIT has an environment of its own, since it pins older clients and an older SDK; `make bench` makes them. A
process for each tool and client makes bursts of chats over a transport that answers from memory; they take turns
in every round. What a tool adds to a call is the difference from
the bare client of the same environment in the same round. OpenLIT and OpenLLMetry record their own metrics, and
the spans that they come with, into an SDK without exporters. OpenLLMetry sees nothing of LiteLLM over this client.

Run alone: ``.venv/bin/python benchmarks/integrations.py [--rounds N]``, after `make bench`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from _peers_specs import OLDER, PEERS, python_of

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = 40
_MARK = "measured: "
_FIRST = 5  # calls before any is measured
ROUNDS = 40
_CLIENTS = ("openai", "langchain-openai", "litellm")
SHOWN = ("genmeter", "openlit", "opentelemetry-instrumentation-openai", "opentelemetry-sdk")
# The first of each is what the others are compared with.
WAYS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "OpenAI": (
        (PEERS, "watch", "genmeter: monitor.watch(client)"),
        (PEERS, "spans", "genmeter: GenAISpanProcessor and the official instrumentation"),
        (PEERS, "official", "the official instrumentation without genmeter"),
        (OLDER, "openlit", "OpenLIT"),
        (PEERS, "openllmetry", "OpenLLMetry"),
    ),
    "LangChain": (
        (PEERS, "hook", "genmeter: its hook"),
        (OLDER, "openlit", "OpenLIT"),
        (PEERS, "openllmetry", "OpenLLMetry"),
    ),
    "LiteLLM": (
        (PEERS, "hook", "genmeter: its hook"),
        (OLDER, "openlit", "OpenLIT"),
    ),
}
ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "word " * 100},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 900, "completion_tokens": 120, "total_tokens": 1020},
}
OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OTEL_METRICS_EXPORTER": "none",
    "TRACELOOP_TELEMETRY": "false",
    "LANGSMITH_TRACING": "false",
    "PYTHONWARNINGS": "ignore",
    "OPENAI_API_KEY": "k",
}


# --- a worker, in the environment of its tool --------------------------------------------------------


def transport() -> Any:
    """Return a client of HTTP, of the package that OpenAI's client uses, which answers from memory."""
    base: Any = importlib.import_module("openai._base_client")
    http = base.httpx if hasattr(base, "httpx") else base.httpx2
    body = json.dumps(ANSWER).encode()
    kind = {"content-type": "application/json"}
    return http.Client(
        transport=http.MockTransport(lambda _: http.Response(200, content=body, headers=kind))
    )


def openai_client() -> Any:
    """Return OpenAI's client over that transport."""
    import openai

    return openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=transport())


def call_of(client: str, made: Any) -> Callable[[], object]:
    """Return what makes one chat."""
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    if client == "OpenAI":
        return lambda: made.chat.completions.create(model="gpt-4o-mini", messages=messages)
    if client == "LangChain":
        from langchain_openai import ChatOpenAI

        model = ChatOpenAI(
            model="gpt-4o-mini", api_key="k", base_url="http://x/v1", http_client=transport()
        )
        return lambda: model.invoke("hi")
    import litellm

    return lambda: litellm.completion(model="openai/gpt-4o-mini", messages=messages, client=made)


def providers() -> tuple[Any, Any, Any]:
    """Set the SDK's global providers up; returns them, and the reader of the metrics."""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    tracer_provider = TracerProvider()
    reader = InMemoryMetricReader()
    meter_provider = MeterProvider([reader])
    trace.set_tracer_provider(tracer_provider)
    metrics.set_meter_provider(meter_provider)
    return tracer_provider, meter_provider, reader


def recorded(reader: Any) -> int:
    """Return the most calls that any histogram of a reader has counted."""
    data = reader.get_metrics_data()
    counts = [
        sum(getattr(point, "count", 0) for point in metric.data.data_points)
        for resource in ([] if data is None else data.resource_metrics)
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    return max(counts, default=0)


def turn_on(client: str, way: str, made: Any) -> tuple[Callable[[], object], Callable[[], int]]:
    """Turn a tool on; returns what waits for its threads, and what counts the calls that it recorded."""
    if way == "bare":
        return (lambda: None), (lambda: -1)
    if way in {"openlit", "openllmetry", "official"}:
        tracer_provider, meter_provider, reader = providers()
        if way == "openlit":
            import openlit

            prices = Path(tempfile.mkdtemp()) / "prices.json"
            prices.write_text('{"chat": {}}')
            openlit.init(
                pricing_json=str(prices),
                disable_batch=True,
                disable_events=True,
                capture_message_content=False,
            )
        else:
            names = {"openllmetry": ("openai", "langchain"), "official": ("genai.openai",)}[way]
            for name in names:
                module = importlib.import_module(f"opentelemetry.instrumentation.{name}")
                kind = (
                    module.LangchainInstrumentor
                    if name == "langchain"
                    else module.OpenAIInstrumentor
                )
                kind().instrument(tracer_provider=tracer_provider, meter_provider=meter_provider)
        return (lambda: None), (lambda: recorded(reader))
    import genmeter

    config = genmeter.MonitorConfig(endpoint=genmeter.EndpointConfig(enabled=False))
    monitor = genmeter.GenerationMonitor(config=config, metrics_interval=None)
    if way == "watch":
        monitor.watch(made)
    elif way == "hook":
        from genmeter import hooks

        hooks.install(client.lower(), monitor=monitor)
    else:
        tracer_provider, meter_provider, _ = providers()
        tracer_provider.add_span_processor(genmeter.GenAISpanProcessor(monitor))
        module = importlib.import_module("opentelemetry.instrumentation.genai.openai")
        from opentelemetry.metrics import NoOpMeterProvider

        module.OpenAIInstrumentor().instrument(
            tracer_provider=tracer_provider, meter_provider=NoOpMeterProvider()
        )
    return monitor.flush, lambda: len(monitor.to_frame("generations"))


def work(client: str, way: str) -> None:
    """Make a burst for each line of the input, and write its seconds and those of CPU a call."""
    made = openai_client()
    settle, count = turn_on(client, way, made)
    call = call_of(client, made)
    for _ in range(_FIRST):
        call()
    for _ in range(100):  # LiteLLM's callbacks run on a thread of their own
        settle()
        if way == "bare" or count() >= _FIRST:
            break
        time.sleep(0.1)
    print(_MARK + json.dumps({"recorded": count(), "versions": versions()}), flush=True)
    for _ in sys.stdin:
        used, start = time.process_time(), time.perf_counter()
        for _ in range(CALLS):
            call()
        spent = time.perf_counter() - start
        settle()
        used = time.process_time() - used
        print(_MARK + json.dumps([spent / CALLS, used / CALLS]), flush=True)


def versions() -> dict[str, str]:
    """Return the versions of what is measured."""
    found = {}
    for name in (*SHOWN, *_CLIENTS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# --- all of them -------------------------------------------------------------------------------------


class Worker:
    """A process that makes the calls of one way.

    Attributes:
        seconds: Of a call, for the caller, one figure a round.
        cpu: Of a call, for the whole process.
        about: What it recorded in its first calls, and the versions.
    """

    def __init__(self, environment: str, client: str, way: str) -> None:
        self.seconds: list[float] = []
        self.cpu: list[float] = []
        clean = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        clean.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [python_of(environment), __file__, "--worker", client, way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if way == "openlit" else None,  # it logs each call
            text=True,
            env={**clean, **OFFLINE},
        )
        self.about = self._read()

    def _read(self) -> Any:
        for line in self._process.stdout or ():
            if line.startswith(_MARK):  # other lines are what a package prints
                return json.loads(line.removeprefix(_MARK))
        raise RuntimeError(f"the worker ended with {self._process.wait()}")

    def burst(self, *, keep: bool = True) -> None:
        """Have it make a burst of calls."""
        pipe: Any = self._process.stdin
        pipe.write("\n")
        pipe.flush()
        seconds, cpu = self._read()
        if keep:
            self.seconds.append(seconds)
            self.cpu.append(cpu)

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def measure(client: str, rounds: int) -> None:
    """Measure the ways of a client, and print their table."""
    ways = WAYS[client]
    workers = {(env, "bare"): Worker(env, client, "bare") for env in {way[0] for way in ways}}
    for environment, way, _ in ways:
        workers[environment, way] = Worker(environment, client, way)
    try:
        for turn in range(rounds + 1):
            for worker in list(workers.values())[:: -1 if turn % 2 else 1]:
                worker.burst(keep=turn > 0)
    finally:
        for worker in workers.values():
            worker.end()
    print(f"\nA chat by {client}, {rounds} rounds of {CALLS} calls: median of the rounds")
    print(f"  {'':<66}{'bare':>9}{'added':>9}{'to first':>10}{'CPU added':>11}{'to first':>10}")
    first: tuple[list[float], list[float]] | None = None
    for environment, way, shown in ways:
        bare, worker = workers[environment, "bare"], workers[environment, way]
        added = [a - b for a, b in zip(worker.seconds, bare.seconds, strict=True)]
        cpu = [a - b for a, b in zip(worker.cpu, bare.cpu, strict=True)]
        first = first or (added, cpu)
        figures = (
            f"{median(bare.seconds) * 1e6:>6.0f} µs{median(added) * 1e6:>6.0f} µs"
            f"{ratio(added, first[0]):>9.1f}x{median(cpu) * 1e6:>8.0f} µs{ratio(cpu, first[1]):>9.1f}x"
        )
        note = (
            "" if worker.about["recorded"] >= _FIRST else "  (it recorded no metric of these calls)"
        )
        print(f"  {shown:<66}{figures}{note}", flush=True)
    for environment in dict.fromkeys(way[0] for way in ways):
        found = workers[environment, "bare"].about["versions"]
        print(f"  {environment}: " + ", ".join(f"{name} {each}" for name, each in found.items()))


def ratio(figures: list[float], others: list[float]) -> float:
    """Return the median of the ratios of the rounds in which both are positive."""
    found = [a / b for a, b in zip(figures, others, strict=True) if a > 0 < b]
    return median(found) if found else float("nan")


def main() -> None:
    """Measure all clients, or work for one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--client", choices=WAYS, action="append")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    for client in arguments.client or WAYS:
        measure(client, arguments.rounds)


if __name__ == "__main__":
    main()
