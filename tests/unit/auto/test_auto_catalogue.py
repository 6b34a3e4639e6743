"""The catalogue of clients, and the order of their instrumentations."""

from __future__ import annotations

import pytest

from genmeter.auto.catalogue import CLIENTS, LIMITS, Client, rank
from genmeter.cli.bootstrap import sitecustomize

BY_NAME = {each.name: each for each in CLIENTS}


def test_children_start_at_the_import_of_each_client() -> None:
    """The bootstrap imports nothing of genmeter, so it has the names too."""
    assert {each.module for each in CLIENTS} == sitecustomize._MODULES


def test_names_and_modules_are_distinct() -> None:
    """One client is one row."""
    assert len({each.name for each in CLIENTS}) == len(CLIENTS)
    assert len({each.module for each in CLIENTS}) == len(CLIENTS)


ORDERS = {
    "OpenAI": [
        "opentelemetry.instrumentation.genai.openai",
        "openinference.instrumentation.openai",
        "opentelemetry.instrumentation.openai",
        "opentelemetry.instrumentation.openai_v2",
    ],
    "Anthropic": [
        "opentelemetry.instrumentation.genai.anthropic",
        "openinference.instrumentation.anthropic",
        "opentelemetry.instrumentation.anthropic",
    ],
    "Google Gen AI": [
        "opentelemetry.instrumentation.google_genai",
        "openinference.instrumentation.google_genai",
        "opentelemetry.instrumentation.google_generativeai",
    ],
    "LangChain": [
        "opentelemetry.instrumentation.genai.langchain",
        "openinference.instrumentation.langchain",
        "opentelemetry.instrumentation.langchain",
    ],
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_official_packages_come_first(name: str) -> None:
    """Then OpenInference, OpenLLMetry, and the older contrib package."""
    client: Client = BY_NAME[name]
    places = [rank(client, module) for module in ORDERS[name]]
    assert None not in places
    assert places == sorted(places, key=lambda place: place or (0, 0))
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    "module",
    [
        "opentelemetry.instrumentation.openai_agents",
        "opentelemetry.instrumentation.genai.anthropic",
        "openai",
        "somebody.openai",
        "genmeter.instrumentor",
        "",
    ],
)
def test_instrumentations_of_others_are_none_of_the_clients(module: str) -> None:
    """A namespace that nobody knows may do anything."""
    assert rank(BY_NAME["OpenAI"], module) is None


def test_each_limit_is_of_an_instrumentation_that_is_known() -> None:
    """Of one client."""
    for module in LIMITS:
        assert sum(rank(client, module) is not None for client in CLIENTS) == 1, module
