"""``genmeter top`` in a notebook.

Use it as the value of a cell::

    from genmeter.notebook import top

    top("127.0.0.1:9464")  # as the value of a cell: the job as it is now
    top("127.0.0.1:9464").live()  # until the job ends, or the kernel is interrupted

Reports and monitors need nothing: they have an HTML view of their own.
"""

from __future__ import annotations

import importlib
import io
import time
from datetime import datetime
from typing import TYPE_CHECKING

from genmeter.cli.live.draw import screen
from genmeter.cli.live.sources import source_of
from genmeter.cli.live.watch import ENDED, Watcher
from genmeter.config.checks import number, optional
from genmeter.errors import ConfigError, MissingExtraError
from genmeter.events.values import safe_repr

if TYPE_CHECKING:
    from rich.console import Console

    from genmeter.cli.live.watch import Row

__all__ = ["TopView", "top"]

_WIDTH = 100
_HEIGHT = 60
_PATIENCE = 5.0  # seconds to wait for the sources that are slow
_PRE = '<pre style="line-height: normal; white-space: pre">{code}</pre>'
_INTERVAL = number(0.1, 86_400, what="seconds")
_SECONDS = optional(number(0, what="seconds"))


def top(*sources: str, width: int = _WIDTH) -> TopView:
    """Return a view of running jobs, as ``genmeter top`` draws it.

    Args:
        sources: As of ``genmeter top``: ``HOST:PORT`` or the URL of an endpoint, a job's name, or
            ``prometheus=`` and the address of a Prometheus.
        width: Columns of the view, at least 40.

    Raises:
        ConfigError: A source is invalid or given twice, or there is none.
    """
    width = number(40, 1_000, what="columns")("width", width)
    for text in sources or (None,):
        if not issubclass(type(text), str):  # the endpoint_url of a monitor that has none, too
            raise ConfigError(
                f"sources must be endpoints, names of jobs or prometheus=URL, got {safe_repr(text)}"
            )
    found = [source_of(str.__str__(text)) for text in sources]
    names = [source.name for source in found]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ConfigError(f"each source must be given once, got {repeated[0]!r} twice")
    return TopView(Watcher(found), int(width))


class TopView:
    """A view of running jobs; each time that it is shown, it reads their sources.

    Rates are differences between two readings, so the first view of an object has none.
    """

    def __init__(self, watcher: Watcher, width: int) -> None:
        self._watcher = watcher
        self._width = width

    def live(self, interval: float = 2.0, seconds: float | None = None) -> None:
        """Show the view in the output of this cell, and renew it.

        It returns when all jobs have ended, after ``seconds``, or when the kernel is interrupted.

        Args:
            interval: Seconds between two readings.
            seconds: How long; None means without a limit.

        Raises:
            ConfigError: An argument is invalid.
            MissingExtraError: IPython is not installed.
        """
        interval, seconds = _INTERVAL("interval", interval), _SECONDS("seconds", seconds)
        try:
            display = importlib.import_module("IPython.display").display
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "ipython", extra="notebook", purpose="TopView.live()"
            ) from error

        end = None if seconds is None else time.monotonic() + seconds
        shown = display(self, display_id=True)
        try:
            while end is None or time.monotonic() < end:
                if all(row.state == ENDED for row in self._watcher.rows()):
                    return
                left = interval if end is None else min(interval, end - time.monotonic())
                time.sleep(max(0.0, left))
                if shown is not None:  # None outside of a notebook
                    shown.update(self)
                else:
                    display(self)
        except KeyboardInterrupt:
            return

    def _repr_mimebundle_(self, **_wanted: object) -> dict[str, str]:
        """Return both views of one reading: IPython asks for each of them otherwise."""
        console = self._draw()
        html = console.export_html(inline_styles=True, code_format=_PRE, clear=False)
        return {"text/html": html, "text/plain": console.export_text().rstrip("\n")}

    def _repr_html_(self) -> str:
        return self._repr_mimebundle_()["text/html"]

    def __repr__(self) -> str:
        return self._draw().export_text().rstrip("\n")

    def _draw(self) -> Console:
        from rich.console import Console

        console = Console(
            file=io.StringIO(),
            record=True,
            width=self._width,
            color_system="truecolor",
            force_jupyter=False,  # or it would display itself
        )
        note = f"{datetime.now().astimezone():%H:%M:%S}"
        console.print(screen(self._read(), self._width, _HEIGHT, note))
        return console

    def _read(self) -> list[Row]:
        self._watcher.begin_round()
        self._watcher.wait(_PATIENCE)
        return self._watcher.rows()
