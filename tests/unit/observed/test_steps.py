"""``genmeter.step``: the name of what the running code does."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING

import pytest

import genmeter
from genmeter import ConfigError
from genmeter.observed.steps import current_step
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor with defaults."""
    with isolated_monitor() as made:
        yield made


def test_innermost_step_counts() -> None:
    """Blocks nest, and leaving one returns to the one around it."""
    with genmeter.step("judge"):
        with genmeter.step("repair"):
            assert current_step() == "repair"
        assert current_step() == "judge"
    assert current_step() is None


def test_step_object_can_be_entered_again_inside_itself() -> None:
    """One object serves nested and repeated blocks."""
    judge = genmeter.step("judge")
    with judge:
        with judge:
            pass
        assert current_step() == "judge"
    assert current_step() is None


def test_step_ends_when_its_block_raises() -> None:
    """An exception leaves no step behind."""
    with pytest.raises(RuntimeError), genmeter.step("judge"):
        raise RuntimeError
    assert current_step() is None


async def test_tasks_have_steps_of_their_own() -> None:
    """Tasks that run at the same time do not see each other's steps."""

    async def in_step(name: str) -> str | None:
        async with genmeter.step(name):
            await asyncio.sleep(0)
            return current_step()

    assert await asyncio.gather(in_step("a"), in_step("b")) == ["a", "b"]
    assert current_step() is None


def test_block_that_ends_in_another_context_leaves_it_alone() -> None:
    """A generator may be closed by another task."""
    block = genmeter.step("judge")
    contextvars.copy_context().run(block.__enter__)
    with genmeter.step("other"):
        block.__exit__(None, None, None)
        assert current_step() == "other"


async def test_decorated_functions_are_in_the_step() -> None:
    """Plain and async functions."""

    @genmeter.step("judge")
    def plain() -> str | None:
        return current_step()

    @genmeter.step("judge")
    async def asynchronous() -> str | None:
        return current_step()

    assert plain() == "judge"
    assert await asynchronous() == "judge"
    assert current_step() is None


def test_generator_is_in_the_step_only_while_it_advances() -> None:
    """The consumer's code between the chunks is not in the generator's step."""

    @genmeter.step("judge")
    def chunks():  # type: ignore[no-untyped-def] # noqa: ANN202
        sent = yield current_step()
        try:
            yield sent, current_step()
        except ValueError:
            yield "caught", current_step()
        return "result"

    generator = chunks()
    assert next(generator) == "judge"
    assert current_step() is None
    assert generator.send(5) == (5, "judge")
    assert generator.throw(ValueError()) == ("caught", "judge")
    with pytest.raises(StopIteration) as end:
        next(generator)
    assert end.value.value == "result"
    assert current_step() is None


async def test_async_generator_is_in_the_step_only_while_it_advances() -> None:
    """The consumer's code between the chunks is not in the generator's step."""
    seen = []

    @genmeter.step("judge")
    async def chunks():  # type: ignore[no-untyped-def] # noqa: ANN202
        try:
            sent = yield current_step()
            try:
                yield sent, current_step()
            except ValueError:
                yield "caught", current_step()
        finally:
            seen.append(current_step())

    generator = chunks()
    assert await generator.asend(None) == "judge"
    assert current_step() is None
    assert await generator.asend(5) == (5, "judge")
    assert await generator.athrow(ValueError()) == ("caught", "judge")
    await generator.aclose()
    assert seen == ["judge"]
    assert current_step() is None


@pytest.mark.parametrize("name", ["", "  ", None, 5, ["judge"]])
def test_name_must_be_a_text(name: object) -> None:
    """A wrong name is an error where it is written."""
    with pytest.raises(ConfigError, match="name must be a text"):
        genmeter.step(name)  # type: ignore[arg-type]


def test_decorating_what_is_not_callable_is_an_error() -> None:
    """As with ``monitor.generation``."""
    with pytest.raises(ConfigError, match="not callable"):
        genmeter.step("judge")(5)  # type: ignore[call-overload]


def test_step_labels_what_has_none(monitor: IsolatedMonitor) -> None:
    """Calls of each kind, but the caller's own step stands, AfterImage's in the metadata too."""
    with genmeter.step("judge"):
        monitor.track_generation(0.1, True)
        monitor.track_generation(0.2, True, step="own")
        monitor.track_generation(0.3, True, metadata={"operation": "answer"})
        with monitor.generation(model="m") as call:
            assert call.labels["step"] == "judge"
        with monitor.generation(model="m", step="own"):
            pass
    monitor.track_generation(0.4, True)
    steps = monitor.to_frame("generations")["step"]
    assert steps.iloc[:-1].tolist() == ["judge", "own", "answer", "judge", "own"]
    assert steps.isna().iloc[-1]


def test_reused_handle_gets_the_step_of_each_block(monitor: IsolatedMonitor) -> None:
    """The step of one block is not the next one's."""
    handle = monitor.generation(model="m")
    with genmeter.step("judge"), handle:
        pass
    with handle:
        pass
    steps = monitor.to_frame("generations")["step"]
    assert steps.iloc[0] == "judge"
    assert steps.isna().iloc[1]
