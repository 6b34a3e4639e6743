"""What `peers.py` compares: each subject, its environment, and what a job imports for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "ENVIRONMENTS",
    "GROUPS",
    "MAIN",
    "OLDER",
    "PEERS",
    "SUBJECTS",
    "Spec",
    "first_of",
    "python_of",
]

ROOT = Path(__file__).parents[1]
MAIN, PEERS, PROXY, OLDER = "main", "peers", "litellm", "openlit"
ENVIRONMENTS = {
    MAIN: ".venv",
    PEERS: ".venv-peers",
    PROXY: ".venv-peers-litellm",
    OLDER: ".venv-peers-openlit",
}
"""Folders of the environments, by name; the Makefile makes them."""
RECORDED, WATCHED = "recorded", "watched"
GROUPS = {
    RECORDED: "The job records each call itself",
    WATCHED: "The calls of OpenAI's client are watched: what is added to a call",
}
LOOP, LIMIT, BARE, BARE_OLDER = "loop", "limit", "bare", "bare-openlit"


@dataclass(frozen=True)
class Spec:
    """A subject.

    Attributes:
        title: What a table calls it.
        environment: The environment that it runs in.
        group: Whether the job records, or its client is watched; subjects of a group are compared.
        made_by: Module and class of the subject, among the benchmarks' own.
        imports: What a job imports to use it, as ``module`` or ``module:name``.
        baseline: The subject whose time of a call is subtracted, in a process of the same environment.
        distribution: What a user installs; None if it only is a part of a comparison.
        variables: Variables of its process; ``FOLDER`` is replaced by a new folder.
        keeps: Whether it keeps each call, so that it has a history.
    """

    title: str
    environment: str
    group: str
    made_by: str
    imports: tuple[str, ...] = ()
    baseline: str = LOOP
    distribution: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    keeps: bool = False

    @property
    def is_baseline(self) -> bool:
        """Whether others are compared with it, rather than with each other."""
        return not self.baseline

    @property
    def is_compared(self) -> bool:
        """Whether a ratio to the first of its group says something: what is added is no whole call."""
        return bool(self.baseline) or self.group == RECORDED


_SDK = ("opentelemetry.sdk.metrics", "opentelemetry.sdk.metrics.export")
_UPSTREAM = (*_SDK, "opentelemetry.exporter.prometheus")
_SPANS = (*_UPSTREAM, "opentelemetry.sdk.trace")
SUBJECTS: dict[str, Spec] = {
    LOOP: Spec("the loop alone", MAIN, RECORDED, "_peers_recorders:Nothing", baseline=""),
    LIMIT: Spec(
        "a call that appends its arguments to a deque",
        MAIN,
        RECORDED,
        "_peers_recorders:Append",
        baseline="",
    ),
    "genmeter": Spec(
        "genmeter",
        MAIN,
        RECORDED,
        "_peers_recorders:Genmeter",
        ("genmeter:GenerationMonitor",),
        distribution="genmeter",
        keeps=True,
    ),
    "afterimage": Spec(
        "AfterImage's monitor",
        MAIN,
        RECORDED,
        "_peers_recorders:AfterImageMonitor",
        ("afterimage.monitoring:GenerationMonitor",),
        distribution="afterimage",
        keeps=True,
    ),
    "sdk": Spec(
        "OpenTelemetry SDK, direct records",
        MAIN,
        RECORDED,
        "_peers_recorders:Sdk",
        _SDK,
        distribution="opentelemetry-sdk",
    ),
    "upstream": Spec(
        "the same, with opentelemetry-exporter-prometheus",
        MAIN,
        RECORDED,
        "_peers_recorders:Upstream",
        _UPSTREAM,
        distribution="opentelemetry-exporter-prometheus",
    ),
    "prometheus": Spec(
        "prometheus_client",
        MAIN,
        RECORDED,
        "_peers_recorders:Prometheus",
        ("prometheus_client",),
        distribution="prometheus-client",
    ),
    "multiprocess": Spec(
        "prometheus_client, multiprocess mode",
        MAIN,
        RECORDED,
        "_peers_recorders:Multiprocess",
        ("prometheus_client", "prometheus_client.multiprocess"),
        distribution="prometheus-client",
        variables={"PROMETHEUS_MULTIPROC_DIR": "FOLDER"},
    ),
    "litellm": Spec(
        "LiteLLM's Prometheus logger",
        PROXY,
        RECORDED,
        "_peers_recorders:LiteLlm",
        ("litellm", "litellm.integrations.prometheus"),
        distribution="litellm",
    ),
    "util-genai": Spec(
        "opentelemetry-util-genai's handler",
        PEERS,
        RECORDED,
        "_peers_recorders:UtilGenAi",
        (*_SPANS, "opentelemetry.util.genai.handler"),
        distribution="opentelemetry-util-genai",
    ),
    BARE: Spec("OpenAI's client alone", PEERS, WATCHED, "_peers_clients:Bare", baseline=""),
    "watch": Spec(
        "genmeter, monitor.watch(client)",
        PEERS,
        WATCHED,
        "_peers_clients:Watched",
        ("genmeter:GenerationMonitor",),
        baseline=BARE,
        keeps=True,
    ),
    "openllmetry": Spec(
        "OpenLLMetry",
        PEERS,
        WATCHED,
        "_peers_clients:OpenLlmetry",
        (*_SPANS, "opentelemetry.instrumentation.openai"),
        baseline=BARE,
        distribution="opentelemetry-instrumentation-openai",
    ),
    BARE_OLDER: Spec(
        "the older client that OpenLIT needs, alone",
        OLDER,
        WATCHED,
        "_peers_clients:Bare",
        baseline="",
    ),
    "openlit": Spec(
        "OpenLIT",
        OLDER,
        WATCHED,
        "_peers_clients:OpenLit",
        (*_SPANS, "openlit"),
        baseline=BARE_OLDER,
        distribution="openlit",
    ),
}


def first_of(group: str) -> str:
    """Return the subject that the others of a group are compared with."""
    return next(
        name for name, each in SUBJECTS.items() if each.group == group and not each.is_baseline
    )


def python_of(environment: str, root: Path = ROOT) -> Path:
    """Return the Python of an environment.

    Raises:
        SystemExit: It is not there.
    """
    python = root / ENVIRONMENTS[environment] / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} is missing: run `make bench`, which makes the environments")
    return python
