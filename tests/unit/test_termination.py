"""The handler of SIGTERM within one process: when it is installed, and whom it calls."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from _waiting import eventually
from genmeter import termination
from genmeter.termination import Termination

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(
    sys.platform not in {"linux", "darwin"}, reason="this system has no SIGTERM"
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Begin with the default, and restore what was before."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


class Rig(Termination):
    """A termination that only notes the end of the process."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        super().__init__(
            end=lambda: self.calls.append("end"),
            settle=lambda: self.calls.append("settle"),
            limit=lambda: 1e6,
        )

    def _die(self) -> None:
        self.calls.append("die")


def kernel() -> termination._Action:
    """Return the kernel's disposition, with a handler of Python's in place."""
    return termination._Action()


def test_the_default_stays_until_the_drain_arms_the_handler() -> None:
    """A process that records nothing dies at once, although Python shows a handler."""
    rig = Rig()
    rig.install()
    assert rig._action is not None
    assert rig._action.is_default
    assert callable(signal.getsignal(signal.SIGTERM))
    rig.arm()
    assert rig._action.is_python
    rig.install()  # only once
    assert rig._action.is_python


def test_the_handler_ends_the_process_once() -> None:
    """Further signals change nothing, while the kernel still calls Python."""
    rig = Rig()
    rig.install()
    rig.arm()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
        assert rig.calls == ["end", "die"]
        assert rig._action is not None
        assert rig._action.is_python


def test_the_process_ends_even_if_the_exit_raises() -> None:
    """The exception of an impatient user's Ctrl-C is the job's."""
    rig = Rig()
    rig._end = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    rig.install()
    rig.arm()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert rig.calls == ["die"]


def test_a_thread_ends_the_process_if_the_main_thread_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The drain's thread sees that the signal came, since the kernel restored the default."""
    monkeypatch.setattr(termination, "_HANDLER_TIME", 0.0)
    rig = Rig()
    rig.install()
    rig.poll()  # arms
    rig.poll()
    assert rig.calls == []
    assert rig._action is not None
    rig._action.disarm()  # as the kernel does, before the main thread has noticed
    rig.poll()
    assert eventually(lambda: rig.calls == ["end", "die"])
    rig.poll()


@pytest.mark.parametrize("handler", [signal.SIG_IGN, None])
def test_an_ignored_signal_is_left_alone(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is a handler of C code, of which Python knows nothing."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    monkeypatch.setattr(signal, "getsignal", lambda _: handler)
    rig = Rig()
    rig.install()
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_a_handler_of_c_code_is_left_alone() -> None:
    """Faulthandler's, which the signal module takes for the default."""
    faulthandler.register(signal.SIGTERM)
    try:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        rig = Rig()
        rig.install()
        rig.arm()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        faulthandler.unregister(signal.SIGTERM)


def test_another_thread_has_the_main_thread_install_it() -> None:
    """Python lets only the main thread set a handler; the drain asks it to, once it has an event."""
    rig = Rig()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(rig.arm).result()  # not wanted by any monitor
        pool.submit(rig.install).result()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        pool.submit(rig.arm).result()
        pool.submit(rig.arm).result()
    assert eventually(lambda: callable(signal.getsignal(signal.SIGTERM)))
    assert rig._action is not None
    assert rig._action.is_python


def test_a_child_of_a_server_installs_it_anew() -> None:
    """A server that loaded the app before the fork replaced the handler, and each worker does again."""
    rig = Rig()
    rig.install()
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    rig.after_fork_in_child()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(rig.arm).result()
    assert eventually(lambda: signal.getsignal(signal.SIGTERM) is rig._own)
    os.kill(os.getpid(), signal.SIGTERM)
    assert rig.calls == ["end", "die"]


def test_a_later_handler_stands() -> None:
    """The job replaced ours: it is neither armed nor polled for."""
    rig = Rig()
    rig.install()
    signal.signal(signal.SIGTERM, lambda number, frame: rig.calls.append("theirs"))
    rig.arm()
    rig.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    assert rig.calls == ["theirs"]


def test_an_unknown_system_keeps_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the C library is not as expected, nothing is installed."""

    def fail(_self: object) -> None:
        raise OSError

    monkeypatch.setattr(termination._Action, "__init__", fail)
    rig = Rig()
    rig.install()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("restarts", [False, True])
def test_a_handler_of_the_job_is_wrapped(restarts: bool) -> None:
    """It is called with its arguments, and system calls are restarted as before."""
    found: list[Any] = []
    signal.signal(signal.SIGTERM, lambda *arguments: found.append(arguments))
    signal.siginterrupt(signal.SIGTERM, not restarts)
    rig = Rig()
    hastened = threading.Event()
    rig.on_ending += [lambda: 1 / 0, hastened.set]
    rig.install()
    assert kernel().restarts is restarts
    os.kill(os.getpid(), signal.SIGTERM)
    ((number, frame),) = found
    assert number == signal.SIGTERM
    assert frame is not None
    assert hastened.wait(60)
    assert rig.calls == []
    rig.after_fork_in_child()  # ends the haste
    assert signal.getsignal(signal.SIGTERM) == rig._handle_wrapped


def test_the_exception_of_a_wrapped_handler_is_raised() -> None:
    """A handler that exits does."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(3))
    rig = Rig()
    rig.install()
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)
    rig.after_fork_in_child()


class Server:
    """A server that ends as uvicorn's does."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def handle_exit(self, _number: int, _frame: object) -> None:
        """Note the signal."""
        self.calls.append("signal")

    async def shutdown(self, sockets: object = None) -> None:
        """End the requests."""
        self.calls.append(f"shutdown {sockets}")


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("uvicorn.server", ["signal", "signal", "shutdown 7", "settle"]),
        ("my.server", ["signal", "signal", "shutdown 7"]),
    ],
)
async def test_the_shutdown_of_uvicorn_settles(
    module: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, after however many signals; other servers are left alone."""
    monkeypatch.setattr(Server, "__module__", module)
    rig = Rig()
    server = Server(rig.calls)
    signal.signal(signal.SIGTERM, server.handle_exit)
    rig.install()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    await server.shutdown(sockets=7)
    assert rig.calls == expected
    rig.after_fork_in_child()


def test_a_hostile_owner_of_the_handler_does_no_harm() -> None:
    """Its handler is called, whatever its attributes raise."""

    class Hostile:
        calls: list[int]

        def __init__(self) -> None:
            object.__setattr__(self, "calls", [])

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

        def handle(self, number: int, _frame: object) -> None:
            object.__getattribute__(self, "calls").append(number)

    hostile = Hostile()
    signal.signal(signal.SIGTERM, hostile.handle)
    rig = Rig()
    rig.install()
    os.kill(os.getpid(), signal.SIGTERM)
    assert hostile.calls == [signal.SIGTERM]
    rig.after_fork_in_child()


def test_a_fork_holds_the_signal_back() -> None:
    """Between the two hooks SIGTERM is blocked on this thread, and what was blocked stays so."""

    def blocked() -> set[int]:
        return {int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, [])}

    rig = Rig()
    rig.install()
    rig.arm()
    before = blocked()
    hooks: list[Callable[[], None]] = [rig.after_fork_in_parent, rig.after_fork_in_child]
    for hook in hooks:
        rig.before_fork()
        assert blocked() == before | {signal.SIGTERM}
        hook()
        assert blocked() == before
    assert rig._action is not None
    assert rig._action.is_default  # of the child, which has recorded nothing
    rig.arm()
    assert rig._action.is_python
