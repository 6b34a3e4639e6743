"""The pages of simulated processes, served on loopback: ``/7`` is the page of the process 7.

Arguments: a free port, the file of the template, and the Unix time at which all counters were 0. It runs
until it is killed.
"""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from _scaling_page import OPENMETRICS, Page


class Handler(BaseHTTPRequestHandler):
    """Responds with the page of a process as it is now."""

    protocol_version = "HTTP/1.1"
    page: ClassVar[Page]
    start: ClassVar[float]

    def do_GET(self) -> None:
        """Respond with the page."""
        body = self.page.text(int(self.path[1:]), time.time(), self.start).encode()
        self.send_response(200)
        self.send_header("Content-Type", OPENMETRICS)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


if __name__ == "__main__":
    Handler.page = Page(Path(sys.argv[2]).read_text(encoding="utf-8"))
    Handler.start = float(sys.argv[3])
    _Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
