"""What a user does with the wheel alone, without any extra; run by test_package.py in an empty folder."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import urllib.request
from importlib.metadata import metadata, version
from pathlib import Path

import genmeter
from genmeter import (
    EndpointConfig,
    GenerationMonitor,
    MissingExtraError,
    MonitorConfig,
    read_usage,
)

assert Path(genmeter.__file__).is_relative_to(sys.prefix), genmeter.__file__
assert version("genmeter") == genmeter.__version__ == metadata("genmeter")["Version"]

prices = {"atlas": {"input": 2.5, "output": 10.0}}
config = MonitorConfig(endpoint=EndpointConfig(enabled=True, port=0), prices=prices)
with GenerationMonitor("logs", config=config) as monitor:
    budget = monitor.budget(tokens=1_000)
    for number in range(3):
        monitor.track_generation(
            0.5, number > 0, model_name="atlas", prompt_token_count=200, completion_token_count=100
        )
    monitor.track_evaluation(0.1, True, "judge", {"coherence": 0.5})
    assert budget.has_room()
    monitor.track_generation(0.5, True, model_name="atlas", total_token_count=100)
    assert not budget.has_room()
    report = monitor.get_total_token_usage()
    assert (report.total_tokens, report.by_model[0].calls) == (1_000, 4), report
    with urllib.request.urlopen(str(monitor.endpoint_url)) as answer:  # noqa: S310 - loopback
        page = answer.read().decode()
    assert "genmeter_generations_total{" in page, page
    assert re.search(r'inference_duration_seconds_bucket\{.*le="0.64"', page), page
    monitor.export_metrics("calls.json")
    monitor.export_metrics("calls.csv", format="csv")
    with contextlib.suppress(MissingExtraError):
        monitor.export_metrics("calls.parquet", format="parquet")
        raise AssertionError("pyarrow is not installed")
    assert not Path("calls.parquet").exists()
assert read_usage("logs").total["calls"] == 4
assert json.loads(Path("calls.json").read_text())

command = str(Path(sys.executable).parent / "genmeter")
COMMANDS = {
    ("--version",): None,
    ("report", "logs", "calls.json", "--by", "model"): None,
    ("render", "rules", "--out", "rules.yml"): "genmeter[render]",
    ("render", "dashboards", "--out", "boards"): None,
}
for arguments, extra in COMMANDS.items():
    found = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == (0 if extra is None else 2), (arguments, found)
    assert extra is None or extra in found.stderr, (arguments, found)
