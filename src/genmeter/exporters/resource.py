"""The resource that this process's metrics carry, and the job that they belong to."""

from __future__ import annotations

import functools
import logging
import os
import uuid
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import (
    PROCESS_PID,
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_NAMESPACE,
    OTELResourceDetector,
    Resource,
)

from genmeter.job.meeting import is_started

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

__all__ = ["MAIN_PID", "is_spawned", "job_name", "job_of", "resource_from_env"]

MAIN_PID = "_GENMETER_MAIN_PID"
"""The variable in which ``genmeter run`` passes the main process's id to a job's processes."""

_logger = logging.getLogger("genmeter")
_PID = os.getpid()  # of the process that imported this module; a forked child has another
_DEFAULT_JOB = "genmeter"  # as the shipped prometheus.yml names it
_NO_NAME = "unknown_service"  # OpenTelemetry's name for a service without one


def resource_from_env(
    parent: Resource | None = None, instance: str | None = None, *, is_shared: bool = False
) -> Resource:
    """Return this process's resource, which always has a ``service.instance.id``.

    The main process keeps the id that the environment sets. A child that was spawned or forked
    shares that variable, and two processes must not push the same series, so a child's id gets a
    suffix unless one of them pushes for all.

    Args:
        parent: In a forked child, the parent's resource.
        instance: The id of all processes of the job, if one of them pushes for all.
        is_shared: Whether other processes have the same environment, and push too.
    """
    resource = _detected() if parent is None else parent
    if instance is not None:
        return resource.merge(Resource({SERVICE_INSTANCE_ID: instance}))
    is_child = is_shared or parent is not None or os.getpid() != _PID or is_spawned()
    # A forked child has the parent's resource, whose id may be the parent's own.
    source = resource if parent is None else OTELResourceDetector().detect()
    shared = source.attributes.get(SERVICE_INSTANCE_ID)
    if shared and not is_child:
        return resource
    pid = os.getpid()
    unique = _unique_id(pid)
    own: dict[str, str | int] = {
        SERVICE_INSTANCE_ID: f"{shared}-{unique.partition('-')[0]}" if shared else unique
    }
    if PROCESS_PID in resource.attributes:
        own[PROCESS_PID] = pid
    return resource.merge(Resource(own))


def is_spawned() -> bool:
    """Return whether another process of the job started this one, as far as that is known."""
    main = os.environ.get(MAIN_PID, "")
    return is_started() or main not in ("", str(os.getpid()))


def job_of(provider: MeterProvider) -> str:
    """Return the job of an application's provider, or of the environment if it has no resource."""
    for owner in (getattr(provider, "_sdk_config", None), provider):
        resource = getattr(owner, "resource", None)
        if isinstance(resource, Resource):
            return job_name(resource)
    return job_name(OTELResourceDetector().detect())


def job_name(resource: Resource) -> str:
    """Return the job of a resource, as Prometheus names it for OTLP.

    It is the service's name, after its namespace and a slash if it has one; ``genmeter`` if the
    service has no name.
    """
    name = str(resource.attributes.get(SERVICE_NAME) or _NO_NAME)
    if name == _NO_NAME or name.startswith(f"{_NO_NAME}:"):
        return _DEFAULT_JOB
    namespace = resource.attributes.get(SERVICE_NAMESPACE)
    return f"{namespace}/{name}" if namespace else name


def _detected() -> Resource:
    try:
        return Resource.create()
    except Exception as error:  # a detector's, or no thread could be started for the detectors
        _logger.warning(
            "the resource detectors failed (%r); using the resource attributes of "
            "OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME only",
            error,
        )
        return Resource.get_empty().merge(OTELResourceDetector().detect())


@functools.lru_cache(maxsize=1)
def _unique_id(pid: int) -> str:  # noqa: ARG001 - the id is of one process
    return str(uuid.uuid4())
