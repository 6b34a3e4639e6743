"""Under gevent, threads are greenlets, which go on in a forked child."""

from __future__ import annotations

from typing import TYPE_CHECKING

from _jobs import environment, run, sums_by_process

if TYPE_CHECKING:
    from pathlib import Path

    from otlp_receiver import HttpReceiver

GENERATIONS = "genmeter.generations"


def test_forked_workers_do_not_push_the_parents_events(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """The parent's greenlets end in the workers, whose counts start at 0."""
    source = """
monitor = GenerationMonitor()
record(monitor, 100)
time.sleep(0.3)
for _ in range(2):
    if os.fork() == 0:
        record(monitor, 1)
        time.sleep(0.5)
        monitor.shutdown()
        os._exit(0)
for _ in range(2):
    os.wait()
monitor.shutdown()
output(done=True)
"""
    # Before any other import, as gevent requires.
    program = "import gevent.monkey; gevent.monkey.patch_all()\n"
    (tmp_path / "sitecustomize.py").write_text(program)
    variables = {"PYTHONPATH": str(tmp_path), "OTEL_METRIC_EXPORT_INTERVAL": "100"}
    ended = run(tmp_path, source, environment(receiver, **variables))
    assert ended.output == [{"done": True}], ended.errors
    assert list(sums_by_process(receiver, GENERATIONS).values()) == [102]
