"""Which of the installed instrumentations is turned on."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import pytest
from _auto_fakes import write_client, write_instrumentation

from genmeter.auto.catalogue import CLIENTS
from genmeter.auto.packages import candidates, disabled, turn_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

(COHERE,) = (each for each in CLIENTS if each.name == "Cohere")
OFFICIAL = "opentelemetry.instrumentation.genai.cohere"
INFERENCE = "openinference.instrumentation.cohere"
METRY = "opentelemetry.instrumentation.cohere"
DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, with a client."""
    monkeypatch.delenv(DISABLED, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    write_client(tmp_path, "cohere")
    yield tmp_path
    for name in set(sys.modules) - before:
        if "cohere" in name or name.startswith("openinference"):
            del sys.modules[name]


def client() -> Any:
    """The client's module."""
    return importlib.import_module("cohere")


def names() -> list[str]:
    """The packages of the candidates, in their order."""
    return [str(each) for each in candidates(COHERE)]


def test_several_packages_are_in_the_order_of_preference(folder: Path) -> None:
    """However their entry points are called."""
    write_instrumentation(folder, METRY, "cohere", distribution="a-metry", version="0.62.4")
    write_instrumentation(folder, OFFICIAL, "cohere", distribution="z-official", version="1.3b0")
    write_instrumentation(folder, INFERENCE, "cohere", distribution="m-inference", name="cohere_oi")
    assert names() == ["z-official 1.3b0", "m-inference 1.0", "a-metry 0.62.4"]


def test_one_is_turned_on_and_the_others_are_not_imported(folder: Path) -> None:
    """Never two for one client."""
    write_instrumentation(folder, METRY, "cohere")
    write_instrumentation(folder, OFFICIAL, "cohere", distribution="official")
    original = client().chat
    found = turn_on(COHERE)
    assert (str(found.found), found.is_ours, found.problems) == ("official 1.0", True, ())
    assert client().chat is not original
    assert METRY not in sys.modules
    found.instrumentor.uninstrument()
    assert client().chat is original


@pytest.mark.parametrize("value", ["cohere", " x , cohere ", "*"])
def test_disabled_ones_are_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """The variable of opentelemetry-instrument turns off all of one name, or all."""
    write_instrumentation(folder, METRY, "cohere")
    write_instrumentation(folder, OFFICIAL, "cohere")
    monkeypatch.setenv(DISABLED, value)
    assert names() == []
    assert turn_on(COHERE).found is None


def test_the_variable_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is disabled then."""
    monkeypatch.setenv(DISABLED, " , ")
    assert disabled() == frozenset()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"before": "raise ImportError('no util')"}, "ImportError: no util"),
        ({"before": "raise RuntimeError('odd')"}, "RuntimeError: odd"),
        ({"requires": "no-such-client>=5"}, "no-such-client"),
    ],
)
def test_the_next_one_is_used_if_one_fails(
    folder: Path, arguments: dict[str, str], problem: str
) -> None:
    """A package that does not go with the installed client, or with its own dependencies, is named."""
    write_instrumentation(folder, OFFICIAL, "cohere", distribution="official", **arguments)
    write_instrumentation(folder, INFERENCE, "cohere", distribution="inference")
    found = turn_on(COHERE)
    assert str(found.found) == "inference 1.0"
    (text,) = found.problems
    assert text.startswith("official 1.0 is not used: ")
    assert problem in text
    found.instrumentor.uninstrument()


def test_what_the_job_has_turned_on_is_left_alone(folder: Path) -> None:
    """Whatever its place."""
    write_instrumentation(folder, METRY, "cohere", distribution="metry")
    write_instrumentation(folder, OFFICIAL, "cohere", distribution="official")
    instrumentor = importlib.import_module(METRY).Instrumentor()
    instrumentor.instrument(skip_dep_check=True)
    wrapped = client().chat
    found = turn_on(COHERE)
    assert (str(found.found), found.is_ours) == ("metry 1.0", False)
    assert client().chat is wrapped
    instrumentor.uninstrument()
