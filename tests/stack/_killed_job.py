"""A job that records one call and waits to be killed.

Its argument is the port, 0 for any; it prints the address of its endpoint.
"""

from __future__ import annotations

import sys

from genmeter import GenerationMonitor
from genmeter.config.monitor import EndpointConfig, MonitorConfig

monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(port=int(sys.argv[1]))))
monitor.track_generation(1.0, True, model_name="atlas")
sys.stdout.write(f"{monitor.endpoint_url}\n")
sys.stdout.flush()
sys.stdin.read()
