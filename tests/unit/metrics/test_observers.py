"""What telemetry reads of the process at a collection."""

from __future__ import annotations

import threading

from _held import held

from _waiting import PATIENCE, eventually
from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.testing import fresh_runtime


def test_the_inbox_is_what_waited_when_the_collection_began() -> None:
    """A page has every event that came before it, and says how many it had to wait for."""
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
