"""The demo's job: tells a monitor, in real time, what the simulator makes up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genmeter.cli.demo.actions import Begin, End
from genmeter.cli.demo.profiles import PRICES
from genmeter.cli.demo.simulator import CALLS_A_SAMPLE, Simulator
from genmeter.cli.demo.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from genmeter.call import GenerationHandle
    from genmeter.cli.demo.actions import Action
    from genmeter.history.token_report import CostReport, TokenUsageReport
    from genmeter.monitor import GenerationMonitor

__all__ = ["Job", "Plan", "play"]

_TICK = 0.1  # seconds between two looks at the clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the job is to do.

    Args:
        duration: Seconds that it lasts.
        rate: Calls of models a second, on average.
        seed: Seed of all that is left to chance.
        failing: Models whose calls fail at another share than their own.
    """

    duration: float
    rate: float
    seed: int
    failing: Mapping[str, float]

    @property
    def expected_samples(self) -> int:
        """Samples that the job is about to make, rejected ones among them."""
        return max(1, round(self.duration * self.rate / CALLS_A_SAMPLE))


class Job:
    """The job under way.

    Args:
        plan: What it is to do.
        monitor: Whom it tells.

    Attributes:
        plan: As above.
        tally: Its own count of what it told.
    """

    def __init__(self, plan: Plan, monitor: GenerationMonitor) -> None:
        self.plan = plan
        self.tally = Tally()
        self._monitor = monitor
        self._simulator = Simulator(plan.seed, plan.rate, plan.failing)
        self._open: dict[int, GenerationHandle] = {}

    @property
    def url(self) -> str | None:
        """Where the metrics are served; None where they are not."""
        return self._monitor.endpoint_url

    def advance(self, until: float) -> None:
        """Tell what happens up to a time.

        Args:
            until: Seconds since the job began.
        """
        for action in self._simulator.step(until):
            self._tell(action)

    def finish(self) -> None:
        """Tell the ends of the calls that are still open."""
        for action in self._simulator.finish():
            self._tell(action)

    def report(self) -> TokenUsageReport:
        """Ask the monitor for its token totals."""
        return self._monitor.get_total_token_usage()

    def cost(self) -> CostReport:
        """Price the monitor's token totals."""
        return self.report().cost(PRICES)

    def _tell(self, action: Action) -> None:
        self.tally.add(action)
        if isinstance(action, Begin):
            self._open[action.number] = self._monitor.generation(**action.kwargs).__enter__()
        elif isinstance(action, End):
            handle = self._open.pop(action.number)
            handle.usage(**action.tokens)
            if action.error is not None:
                handle.fail(action.error)
            handle.__exit__(None, None, None)
        else:
            getattr(self._monitor, action.method)(*action.args, **action.kwargs)


def play(
    job: Job,
    *,
    show: Callable[[float], None],
    wait: Callable[[float], bool],
    clock: Callable[[], float],
) -> float:
    """Run the job to its end.

    What is told by a time depends on the plan alone: a late look at the clock is made up for.

    Args:
        job: The job.
        show: Told the seconds since the job began, at every look at the clock.
        wait: Waits so many seconds; gives whether the job is to stop now.
        clock: Gives seconds.

    Returns:
        Seconds of the job that were played.
    """
    duration, began, elapsed = job.plan.duration, clock(), 0.0
    while elapsed < duration:
        show(elapsed)
        if wait(min(_TICK, duration - elapsed)):
            break
        elapsed = min(clock() - began, duration)
        job.advance(elapsed)
    job.finish()
    show(elapsed)
    return elapsed
