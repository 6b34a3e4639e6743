"""What ``genmeter run`` says at the end of what it watched, and of what it could not see."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.auto.watching import Watched

__all__ = ["lines_of"]


def lines_of(seen: Sequence[Watched], notes: Sequence[str]) -> list[str]:
    """Return the lines.

    Args:
        seen: The clients that the job imported.
        notes: What else cannot be seen, a text each.
    """
    found = []
    watched = [each for each in seen if each.by is not None]
    if watched:
        found.append("watched:")
        found += [f"  {_name(each)}: by {each.by}" for each in watched]
    unwatched = [each for each in seen if each.by is None]
    if unwatched:
        found.append("not watched:")
        found += [f"  {_name(each)}: {_why(each)}" for each in unwatched]
    missing = [f"{_name(each)}: {text}" for each in watched for text in each.problems] + list(notes)
    if missing:
        found.append("note:")
        found += [f"  {each}" for each in missing]
    return found


def _name(watched: Watched) -> str:
    return f"{watched.client.name} {watched.version}".rstrip()


def _why(watched: Watched) -> str:
    client = watched.client
    if watched.problems:
        return "; ".join(watched.problems)
    if client.is_framework:
        return "only the calls that it makes through a watched client are seen"
    what = "its calls of models, if there are any," if client.is_general else "its calls"
    if not client.parts:
        return f"{what} are not seen"
    return (
        f"{what} are not seen; no OpenTelemetry instrumentation of it is installed, see "
        "docs/running.md"
    )
