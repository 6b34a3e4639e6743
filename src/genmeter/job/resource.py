"""The resource of a process of a job, whose instance id all of the family share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, OTELResourceDetector

from genmeter.job import meeting
from genmeter.job._servers import server_of_worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.resources import Resource

__all__ = ["own_resource"]


def own_resource(name: str | None, resource_from_env: Callable[..., Resource]) -> Resource:
    """Return this process's resource, whose instance id all of the family share.

    It is that of the family's first process. If that one does not use genmeter, it is that of
    the environment, if there is one.

    Args:
        name: The job's name.
        resource_from_env: Called with ``is_shared``, whether other processes of the same
            environment count apart; or with ``instance``, the id to use.
    """
    family = meeting.family()
    if family.root == os.getpid():
        is_apart = name is None and server_of_worker() is not None
        found = resource_from_env(is_shared=is_apart)
        own = str(found.attributes[SERVICE_INSTANCE_ID])
        instance = meeting.adopt_instance(own)
        if instance == own:
            return found
    elif family.root == 0:
        set_by_user = OTELResourceDetector().detect().attributes.get(SERVICE_INSTANCE_ID)
        instance = str(set_by_user or family.instance)
    else:
        instance = family.instance
    return resource_from_env(instance=instance)
