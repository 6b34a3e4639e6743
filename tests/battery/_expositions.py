"""Pages, and what each of the programs that read pages finds in them.

All readings have one shape, so that they can be compared as they are: the samples by their labels,
with the name as `__name__`, and values as text, since NaN does not equal itself.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from _servers import program
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from _prometheus import Prometheus

__all__ = [
    "GoParsers",
    "Page",
    "Reading",
    "check_metrics",
    "check_stored",
    "read_by_python",
    "served",
]

Key = frozenset[tuple[str, str]]

_PATIENCE = 60.0
# A scrape job's label; no attribute becomes it.
_RUN = "battery__page"


class Page(NamedTuple):
    """A response of an endpoint.

    Attributes:
        content_type: Its `Content-Type`.
        body: Its bytes.
    """

    content_type: str
    body: bytes

    @property
    def is_openmetrics(self) -> bool:
        """Whether it is OpenMetrics rather than text."""
        return self.content_type.startswith("application/openmetrics-text")


@dataclass
class Reading:
    """What a program read.

    Attributes:
        samples: The value of each series.
        exemplars: The exemplars by their series: labels, value and milliseconds.
        types: The type of each family by the name that its samples begin with.
        helps: The help text of each family.
        units: The unit of each family that has one.
    """

    samples: dict[Key, str] = field(default_factory=dict)
    exemplars: dict[Key, tuple[Key, str, int]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    helps: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)


def _number(text: float | str) -> str:
    return repr(float(text))


def _key(labels: Iterable[Sequence[str]]) -> Key:
    """Return labels; the text of a bucket's bound differs between the programs."""
    return frozenset(
        (name, _bound(value) if name == "le" else value) for name, value in labels if value
    )


def _bound(text: str) -> str:
    try:
        return _number(text)
    except ValueError:  # a label of another kind of metric
        return text


def _help(text: str) -> str:
    """Return a help text without what some parsers remove at its ends."""
    return text.strip().strip("\0").strip()


# --- prometheus_client ---------------------------------------------------------------------------


def read_by_python(page: Page) -> Reading:
    """Read a page by the parser of prometheus_client for its format."""
    parse: Any = parse_openmetrics if page.is_openmetrics else parse_text
    found = Reading()
    for family in parse(page.body.decode()):
        name = family.name
        if not page.is_openmetrics and family.type == "counter":
            # It removes the suffix of the text format's families.
            name = f"{name}_total"
        found.types[name] = {"unknown": "untyped"}.get(family.type, family.type)
        found.helps[name] = _help(family.documentation)
        if family.unit:
            found.units[name] = family.unit
        for sample in family.samples:
            assert sample.timestamp is None, sample
            key = _key([("__name__", sample.name), *sample.labels.items()])
            assert key not in found.samples, f"twice: {sample}"
            found.samples[key] = _number(sample.value)
            if sample.exemplar is not None:
                labels, value, timestamp = sample.exemplar
                found.exemplars[key] = (
                    frozenset(labels.items()),
                    _number(value),
                    int(float(timestamp) * 1e3),
                )
    return found


# --- Prometheus's own code -----------------------------------------------------------------------


class GoParsers:
    """The parsers of Prometheus's scrapes, in a process that reads one page after the other."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [program("exposition")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate(timeout=_PATIENCE)
        assert self._process.returncode == 0

    def read(self, page: Page) -> Reading:
        """Read a page by the parser for its content type; an error of it fails the test."""
        answer = self._ask(page)
        assert answer["error"] == "", answer["error"]
        found = Reading()
        for sample in answer["samples"]:
            assert sample["timestamp"] is None, sample
            key = _key(sample["labels"])
            found.samples[key] = _number(sample["value"])
            if exemplar := sample["exemplar"]:
                found.exemplars[key] = (
                    frozenset(map(tuple, exemplar["labels"])),
                    _number(exemplar["value"]),
                    exemplar["timestamp"],
                )
        for name, known in answer["metadata"].items():
            found.types[name] = known["type"]
            found.helps[name] = _help(known["help"])
            if known["unit"]:
                found.units[name] = known["unit"]
        self._check_starts(answer["started"], found)
        self._check_native(answer["native"], found)
        return found

    def _ask(self, page: Page) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        body = base64.b64encode(page.body).decode()
        line = json.dumps({"content_type": page.content_type, "body": body})
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def _check_starts(self, started: Iterable[dict[str, Any]], found: Reading) -> None:
        """Check that each series that a `_created` belongs to starts then."""
        created: dict[Key, float] = {}
        for key, value in found.samples.items():
            name = dict(key)["__name__"]
            if name.endswith("_created") and name not in found.types:
                family = name.removesuffix("_created")
                created[_in_family(key, family)] = float(value)
        for sample in started:
            key = _key(sample["labels"])
            family = _family(dict(key)["__name__"], found.types)
            if found.types[family] == "histogram" and dict(key)["__name__"] == f"{family}_bucket":
                key = frozenset(pair for pair in key if pair[0] != "le")
            start = created[_in_family(key, family)]
            assert abs(sample["start"] - start * 1e3) <= 1, sample
        # A text page has them as gauges of their own.
        if created:
            assert any(True for _ in started)

    def _check_native(self, native: Iterable[dict[str, Any]], found: Reading) -> None:
        """Check that a histogram of all its buckets has the counts of its series."""
        for each in native:
            labels = dict(each["labels"])
            name = labels.pop("__name__")
            total = _key([("__name__", f"{name}_count"), *labels.items()])
            if total in found.samples:  # OpenMetrics has none beside negative bounds
                assert float(found.samples[total]) == each["count"], each
                total = _key([("__name__", f"{name}_sum"), *labels.items()])
                assert found.samples.get(total, each["sum"]) == _number(each["sum"]), each
            below = 0.0
            for index, bound in enumerate([*each["bounds"], "+Inf"]):
                below += each["counts"].get(str(index), 0)
                key = _key([("__name__", f"{name}_bucket"), ("le", bound), *labels.items()])
                assert float(found.samples[key]) == below, (each, bound)


def _in_family(key: Key, family: str) -> Key:
    """Return a series' labels with its family's name."""
    return frozenset({**dict(key), "__name__": family}.items())


def _family(name: str, types: dict[str, str]) -> str:
    for end in ("", "_total", "_bucket", "_count", "_sum"):
        if name.endswith(end) and (family := name.removesuffix(end)) in types:
            return family
    raise AssertionError(f"{name} has no family")


# --- promtool ------------------------------------------------------------------------------------


def check_metrics(page: Page, release: str) -> None:
    """Have `promtool check metrics` parse a page of text; what it would name otherwise is no error.

    Args:
        page: A page of text.
        release: The program.
    """
    ended = subprocess.run(
        [program(release), "check", "metrics"], input=page.body, capture_output=True, check=False
    )
    # 3: a name that it would choose otherwise, as of a custom metric.
    assert ended.returncode in (0, 3), ended.stderr.decode(errors="replace")
    assert b"error while linting" not in ended.stderr, ended.stderr.decode(errors="replace")


# --- a live scrape -------------------------------------------------------------------------------


@contextmanager
def served(pages: Sequence[Page]) -> Iterator[str]:
    """Serve pages on loopback, each at the path of its number; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages[int(self.path.strip("/"))]
            self.send_response(200)
            self.send_header("Content-Type", page.content_type)
            self.send_header("Content-Length", str(len(page.body)))
            self.end_headers()
            self.wfile.write(page.body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def check_stored(prometheus: Prometheus, address: str, pages: Sequence[Page], run: str) -> None:
    """Have a Prometheus scrape pages, and check that it stored what its parsers read.

    Args:
        prometheus: The server.
        address: Where `served` serves the pages.
        pages: The pages, each with its reading.
        run: A name of these pages.
    """
    prometheus.add_job(
        {
            "job_name": run,
            # The scraped labels stay as they are, also `job` and `instance`.
            "honor_labels": True,
            "scrape_interval": "5s",
            "scrape_timeout": "5s",
            "static_configs": [
                {
                    "targets": [address],
                    "labels": {"__metrics_path__": f"/{number}", _RUN: f"{run} {number}"},
                }
                for number in range(len(pages))
            ],
        }
    )
    up = f'up{{job="{run}"}} == 1'
    prometheus.wait_for(up, lambda found: len(found) == len(pages), _PATIENCE)
    for number, page in enumerate(pages):
        wanted = dict(read_by_python(page).samples.items())
        stored = prometheus.query(f'{{{_RUN}="{run} {number}",__name__!~"up|scrape_.+"}}')
        found: dict[Key, str] = {}
        for sample in stored:
            labels = dict(sample.labels)
            del labels[_RUN]
            for name, value in (("job", run), ("instance", address)):
                if labels[name] == value:
                    del labels[name]
            found[_key(labels.items())] = _number(sample.value)
        assert differences(wanted, found) == [], number


def differences(first: dict[Key, str], second: dict[Key, str]) -> list[str]:
    """Return the series in which two readings differ, with their values."""
    return [
        f"{sorted(key)}: {first.get(key)} and {second.get(key)}"
        for key in sorted({*first, *second}, key=sorted)
        if first.get(key) != second.get(key)
    ][:20]
