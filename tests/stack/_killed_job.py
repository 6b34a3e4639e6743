"""A job that records one call, and waits to be killed or to end.

Its arguments are the port, 0 for any, and the seconds that its endpoint lingers at its end. It prints
the address of its endpoint, if it has one, and ends when its standard input does.
"""

from __future__ import annotations

import sys

from genmeter import GenerationMonitor
from genmeter.config.monitor import EndpointConfig, MonitorConfig

port, linger = int(sys.argv[1]), float(sys.argv[2])
endpoint = EndpointConfig(port=port, linger=linger)
monitor = GenerationMonitor(config=MonitorConfig(endpoint=endpoint))
monitor.track_generation(1.0, True, model_name="atlas")
sys.stdout.write(f"{monitor.endpoint_url}\n")
sys.stdout.flush()
sys.stdin.read()
