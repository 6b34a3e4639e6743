"""The provider of our own: what it says of its process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource

from genmeter import EndpointConfig, MonitorConfig
from genmeter.outputs.provider import OwnProvider

if TYPE_CHECKING:
    import pytest

ID = "service.instance.id"


def made(**arguments: Any) -> OwnProvider:
    """Make a provider that listens nowhere."""
    return OwnProvider(
        MonitorConfig(endpoint=EndpointConfig(enabled=False)),
        with_endpoint=True,
        on_export_failure=lambda name: None,
        **arguments,
    )


def test_a_process_has_one_id() -> None:
    """Providers that follow each other in one process push the same series."""
    assert made().resource.attributes[ID] == made().resource.attributes[ID]


def test_an_sdk_that_gives_no_id_is_helped(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process pushes one series and two push series of their own with an older SDK too."""
    monkeypatch.setattr(Resource, "create", lambda: Resource({"service.name": "s"}))
    first, second = made().resource.attributes, made().resource.attributes
    assert first["service.name"] == "s"
    assert first[ID] == second[ID]
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert made().resource.attributes[ID] != first[ID]


def test_an_id_of_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names the instance in ``OTEL_RESOURCE_ATTRIBUTES`` knows why."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"{ID}=mine,service.name=s")
    assert made().resource.attributes[ID] == "mine"


def test_a_child_keeps_all_but_what_is_the_processs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child has the parent's resource, with an id and a process id of its own."""
    attributes = {"service.name": "s", ID: "the parent's", "process.pid": 1}
    monkeypatch.setattr(Resource, "create", lambda: Resource(attributes))
    parent = made()
    child = made(parent=parent).resource.attributes
    assert parent.resource.attributes[ID] == "the parent's"
    assert child["service.name"] == "s"
    assert child[ID] != "the parent's"
    assert child["process.pid"] == os.getpid()


def test_a_provider_that_ended_does_not_start_again() -> None:
    """A start that was under way when the provider ended leaves no endpoint behind."""
    config = MonitorConfig(endpoint=EndpointConfig(port=0))
    provider = OwnProvider(config, with_endpoint=True, on_export_failure=lambda name: None)
    provider.finish(1)
    provider.start()
    assert provider.url is None
    assert provider.server is not None
    assert provider.server.port == 0
