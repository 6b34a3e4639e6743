"""The observable instruments of genmeter itself."""

from __future__ import annotations

import threading

from _held import held

from _waiting import PATIENCE, eventually
from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.testing import fresh_runtime


def test_inbox_is_the_backlog_at_the_start_of_the_collection() -> None:
    """A page contains all earlier events, and the number that had to be drained."""
    config = MonitorConfig(endpoint=EndpointConfig(enabled=False))
    with fresh_runtime() as runtime, GenerationMonitor(config=config) as monitor:
        pages: list[str] = []
        scrape = threading.Thread(target=lambda: pages.append(runtime.render(False).decode()))
        pipeline = runtime.require_pipeline()
        pipeline.start()
        with held(pipeline):
            for _ in range(5):
                monitor.track_generation(0.1, True, model_name="m")
            scrape.start()
            assert eventually(lambda: pipeline._requests)
        scrape.join(PATIENCE)
        (page,) = pages
    assert "\ngenmeter_monitor_inbox 5\n" in page
    assert 'genmeter_outcome="success",genmeter_phase="generation"} 5\n' in page
