"""The pytest plugin: a monitor of each test's own, and budgets that a test must keep.

pytest finds it by its entry point::

    def test_summary(genmeter):
        summarise("a text")  # whatever monitor it records with
        genmeter.assert_budget(tokens=2_000)

    @pytest.mark.genmeter(tokens=2_000, usd=0.01)
    def test_agent():
        ...  # fails if it spends more

``pytest --genmeter-report`` prints what each test spent, also under pytest-xdist; the report of each test has
it as the properties ``genmeter_calls`` and so on, and so has JUnit's XML. ``-p no:genmeter`` turns the plugin
off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from genmeter.testing import IsolatedMonitor

__all__: list[str] = []

_NAME = "genmeter"
_LIMITS = ("tokens", "usd", "calls", "allow_unread")
_MARKER = (
    "genmeter(tokens=None, usd=None, calls=None, allow_unread=False): fail the test if the calls of "
    "models in it use more than that"
)


class _Spent(NamedTuple):
    """What a test spent."""

    test: str
    calls: int
    tokens: int
    usd: float
    unread: int


class _Reports:
    """Keeps what the reports of tests say that they spent, in the process that prints it."""

    def __init__(self) -> None:
        self.spent: list[_Spent] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Read the report of a test, which may have run in another process."""
        found: dict[str, Any] = dict(
            report.user_properties
        )  # the last ones of a test that was run again
        if report.when == "teardown" and _PROPERTIES[0] in found:
            self.spent.append(_Spent(report.nodeid, *(found[name] for name in _PROPERTIES)))


_PROPERTIES = tuple(f"{_NAME}_{name}" for name in _Spent._fields[1:])
_REPORTS = pytest.StashKey[_Reports]()
_MONITOR = pytest.StashKey["IsolatedMonitor"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup(_NAME).addoption(
        "--genmeter-report",
        action="store_true",
        help="print the calls, tokens and cost of each test that uses the genmeter fixture",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", _MARKER)
    reports = config.stash[_REPORTS] = _Reports()
    config.pluginmanager.register(reports, "genmeter_reports")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each marked test the fixture.

    Raises:
        UsageError: A marker has a wrong argument.
    """
    for item in items:
        if item.get_closest_marker(_NAME) is not None:
            _limits(item)
            names = getattr(item, "fixturenames", None)
            if names is not None and _NAME not in names:
                names.insert(0, _NAME)


@pytest.fixture
def genmeter(request: pytest.FixtureRequest) -> Iterator[IsolatedMonitor]:
    """Yield a monitor of this test's own, to which every monitor that existed before records too.

    It is that of ``genmeter.testing.isolated_monitor()``: no endpoint, no environment, nothing that
    other tests have recorded. ``assert_budget`` fails the test if its calls used more.
    """
    from genmeter import process_token_usage
    from genmeter.testing import isolated_monitor, redirected

    with isolated_monitor() as monitor, redirected(monitor):
        request.node.stash[_MONITOR] = monitor
        yield monitor
        report = process_token_usage()  # of all monitors of the test
        del request.node.stash[_MONITOR]
        spent = _Spent(
            request.node.nodeid,
            int(monitor.value("genmeter_generations_total")),
            report.total_tokens,
            report.cost_usd,
            report.calls_without_usage,
        )
        request.node.user_properties += zip(_PROPERTIES, spent[1:], strict=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a marked test that used more than its marker allows."""
    result = yield
    if item.get_closest_marker(_NAME) is not None:
        monitor = item.stash.get(_MONITOR, None)
        if monitor is not None:
            monitor.assert_budget(**_limits(item))
    return result


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what the tests spent, the most expensive one first."""
    if not config.getoption("genmeter_report"):
        return
    recorded = config.stash[_REPORTS].spent
    spent = sorted(recorded, key=lambda each: (-each.usd, -each.tokens, each.test))
    terminalreporter.section("genmeter")
    if not spent:
        terminalreporter.line("no test used the fixture genmeter")
        return
    total = _Spent(
        "total",
        sum(each.calls for each in spent),
        sum(each.tokens for each in spent),
        sum(each.usd for each in spent),
        sum(each.unread for each in spent),
    )
    terminalreporter.line(f"{'calls':>9} {'tokens':>13} {'USD':>11}  test")
    for each in (*spent, total):
        unread = f" ({each.unread:,} calls of unknown usage)" if each.unread else ""
        terminalreporter.line(
            f"{each.calls:>9,} {each.tokens:>13,} {each.usd:>11.4f}  {each.test}{unread}"
        )


def _limits(item: pytest.Item) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers(_NAME))):  # that of the function wins
        unknown = sorted(marker.kwargs.keys() - set(_LIMITS))
        if unknown or marker.args:
            wrong = ", ".join([*map(repr, marker.args), *unknown])
            raise pytest.UsageError(
                f"{item.nodeid}: the marker genmeter takes {', '.join(_LIMITS)} by name, got {wrong}"
            )
        limits |= marker.kwargs
    return limits
