"""``genmeter top`` in a notebook, without one: a kernel runs it in tests/frameworks."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from genmeter import (
    ConfigError,
    EndpointConfig,
    GenerationMonitor,
    MissingExtraError,
    MonitorConfig,
)
from genmeter.notebook import top
from genmeter.testing import fresh_runtime


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ((), "got None"),
        ((None,), "got None"),
        (("127.0.0.1:1", "127.0.0.1:1"), "twice"),
        (("no/such",), "no/such"),
    ],
)
def test_wrong_sources_are_refused(sources: tuple[Any, ...], words: str) -> None:
    """As on the command line."""
    with pytest.raises(ConfigError, match=words):
        top(*sources)


@pytest.mark.parametrize("arguments", [{"interval": 0}, {"seconds": -1}])
def test_wrong_times_are_refused(arguments: dict[str, Any]) -> None:
    """With the argument's name."""
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        top("127.0.0.1:1").live(**arguments)


def test_without_ipython_the_error_has_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is read."""
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(MissingExtraError, match=r"genmeter\[notebook\]"):
        top("127.0.0.1:1").live()


def test_the_view_is_renewed_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the handle that IPython returns; the numbers are those of the endpoint."""
    shown: list[str] = []
    display = ModuleType("IPython.display")
    display.display = lambda view, **_: SimpleNamespace(  # type: ignore[attr-defined]
        update=lambda view: shown.append(view._repr_html_())
    )
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    config = MonitorConfig(endpoint=EndpointConfig(port=0), job=None)
    with fresh_runtime(), GenerationMonitor(config=config) as monitor:
        monitor.track_generation(1.0, True, model_name="atlas", prompt_token_count=1_234)
        monitor.flush()
        assert monitor.endpoint_url is not None
        view = top(monitor.endpoint_url)
        assert "1,234" in repr(view)
        view.live(interval=0.1, seconds=0.3)
    assert shown
    assert all("1,234" in each for each in shown)


def test_a_source_that_does_not_answer_is_said(unused_tcp_port: int) -> None:
    """The view has the reason, and no numbers."""
    assert "127.0.0.1" in top(f"127.0.0.1:{unused_tcp_port}")._repr_html_()


def test_a_display_reads_the_sources_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For both of its views."""
    view = top("127.0.0.1:1")
    reads: list[int] = []

    def read() -> list[Any]:
        reads.append(1)
        return []

    monkeypatch.setattr(view, "_read", read)
    bundle = view._repr_mimebundle_(include=None, exclude=None)
    assert len(reads) == 1
    assert set(bundle) == {"text/html", "text/plain"}
    assert bundle["text/html"].startswith("<pre")
    assert "<" not in bundle["text/plain"].strip()[:1]
    assert len(bundle["text/plain"]) > 10
