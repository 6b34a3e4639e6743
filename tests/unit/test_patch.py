"""AfterImage's monitor replaced and restored, with a fake package of that name."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pickle
import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import pytest

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig, TokenUsageReport, patch
from genmeter import runtime as runtime_of_process
from genmeter.alerting.state import Alert
from genmeter.errors import ConfigError
from genmeter.exporters._http import bind
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Load = Callable[..., Any]

MONITORING = '''
"""A short version of AfterImage's module."""

from dataclasses import dataclass
from typing import Protocol


class MetricHandler(Protocol):
    pass


class FileMetricHandler(MetricHandler):
    def __init__(self, log_dir):
        self.log_dir, self.seen = log_dir, []

    def handle_metric(self, metric_name, value, metadata):
        self.seen.append(metric_name)


@dataclass
class Alert:
    name: str


@dataclass
class TokenUsageReport:
    by_model: list


class GenerationMonitor:
    def __init__(
        self,
        log_dir=None,
        metric_handlers=None,
        log_handlers=None,
        alert_handlers=None,
        metrics_interval=60,
        shutdown_timeout=5,
        *,
        alert_min_success_rate=None,
        token_usage_callback=None,
        token_usage_callback_interval_seconds=60.0,
    ):
        self.log_dir, self.calls = log_dir, 0

    def track_generation(self, duration, success, **kwargs):
        self.calls += 1

    def _enqueue_log(self, message, level="info"):
        self.log_queue.put(message)
'''


FAKES = ("afterimage", "early", "gate", "late", "lazy", "user")
"""The modules that tests create."""


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """AfterImage is not imported before a test, nor after it."""
    for name, value in (("OTEL_METRICS_EXPORTER", "none"), ("GENMETER_DRAIN", "inline")):
        monkeypatch.setenv(name, value)
    before = unload()
    with fresh_runtime():
        yield
        while patch._installs:
            patch.uninstall()
    unload()
    sys.modules.update(before)


def unload() -> dict[str, Any]:
    """Remove the modules of tests, and the real AfterImage, from `sys.modules`."""
    names = [name for name in sys.modules if name.partition(".")[0] in FAKES]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Writes and imports a module; `afterimage.monitoring` can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "afterimage"
    package.mkdir()
    (package / "monitoring.py").write_text(MONITORING)
    (package / "__init__.py").write_text("from afterimage.monitoring import GenerationMonitor\n")

    def load(name: str, source: str | None = None) -> Any:
        if source is not None:
            (tmp_path / f"{name.replace('.', '/')}.py").write_text(source)
            importlib.invalidate_caches()
        return importlib.import_module(name)

    return load


def is_ours(monitor: object) -> bool:
    """Return whether a monitor is genmeter's, and counts tokens."""
    if not isinstance(monitor, GenerationMonitor):
        return False
    before = monitor.get_total_token_usage().total_tokens
    monitor.track_generation(1.0, success=True, model_name="m", total_token_count=7)
    return monitor.get_total_token_usage().total_tokens == before + 7


# --- in any order of imports ------------------------------------------------------------------


def test_installing_imports_nothing(load: Load) -> None:
    """A process that never imports AfterImage does not pay for it."""
    patch.install()
    assert "afterimage" not in sys.modules


def test_names_imported_later_are_replaced(load: Load) -> None:
    """The names are replaced as soon as the module is imported."""
    patch.install()
    user = load(
        "user", "from afterimage import GenerationMonitor\nfrom afterimage.monitoring import Alert"
    )
    assert is_ours(user.GenerationMonitor())
    assert user.Alert is Alert
    assert load("afterimage.monitoring").TokenUsageReport is TokenUsageReport


def test_names_imported_before_are_replaced(load: Load) -> None:
    """They are replaced in every module, also under another name."""
    user = load("user", "from afterimage.monitoring import Alert, GenerationMonitor as Monitor")
    package = load("afterimage")
    patch.install()
    assert is_ours(user.Monitor())
    assert is_ours(package.GenerationMonitor())
    assert user.Alert is Alert


@pytest.mark.parametrize("holder", ["closure", "partial", "default", "class attribute"])
def test_calls_of_the_original_class_create_the_replacement(load: Load, holder: str) -> None:
    """The arguments of the call are passed on."""
    old = load("afterimage.monitoring").GenerationMonitor

    def enclosing(*args: Any, **kwargs: Any) -> Any:
        return old(*args, **kwargs)

    def by_default(*args: Any, make: Any = old, **kwargs: Any) -> Any:
        return make(*args, **kwargs)

    make: Any = {
        "closure": enclosing,
        "partial": functools.partial(old),
        "default": by_default,
        "class attribute": type("Holder", (), {"make": old}).make,  # type: ignore[attr-defined]
    }[holder]
    patch.install()
    monitor = make(None, [], [], [], 0, shutdown_timeout=3)
    assert is_ours(monitor)
    assert isinstance(monitor, old)
    assert (monitor.metrics_interval, monitor.shutdown_timeout) == (0, 3)


def test_install_waits_for_an_import_on_another_thread(load: Load, tmp_path: Path) -> None:
    """It does not patch a partial module."""
    gate = load("gate", "import threading\nreached, passed = threading.Event(), threading.Event()")
    waiting = "import gate\ngate.reached.set()\ngate.passed.wait(60)\n"
    (tmp_path / "afterimage" / "monitoring.py").write_text(waiting + MONITORING)
    importing = threading.Thread(target=load, args=("afterimage.monitoring",))
    importing.start()
    assert gate.reached.wait(60)
    installing = threading.Thread(target=patch.install)
    installing.start()
    installing.join(0.1)
    assert installing.is_alive()
    gate.passed.set()
    importing.join(60)
    installing.join(60)
    assert is_ours(load("afterimage.monitoring").GenerationMonitor())


def test_a_failed_import_can_be_retried(load: Load, tmp_path: Path) -> None:
    """The error of AfterImage's import is raised, and the next import is patched."""
    patch.install()
    module = tmp_path / "afterimage" / "monitoring.py"
    module.write_text("raise OSError('no font cache')\n")
    with pytest.raises(OSError, match="no font cache"):
        load("afterimage.monitoring")
    module.write_text(MONITORING + "\n# of another length\n")
    assert is_ours(load("afterimage.monitoring").GenerationMonitor())


# --- subclasses --------------------------------------------------------------------------------


def test_a_later_subclass_extends_the_replacement(load: Load) -> None:
    """It is a subclass of genmeter's monitor."""
    patch.install()
    user = load(
        "user",
        "from afterimage.monitoring import GenerationMonitor\n"
        "class Named(GenerationMonitor):\n"
        "    def __init__(self, name, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "        self.name = name\n",
    )
    monitor = user.Named("first", metrics_interval=0)
    assert is_ours(monitor)
    assert (monitor.name, monitor.metrics_interval) == ("first", 0)


def test_an_earlier_subclass_is_not_replaced(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    """One warning names the class."""
    user = load(
        "user",
        "from afterimage.monitoring import GenerationMonitor\n"
        "class Early(GenerationMonitor): pass\n"
        "class Earlier(Early): pass\n",
    )
    patch.install()
    monitor = user.Earlier("folder", metrics_interval=0)
    monitor.track_generation(1.0, success=True)
    assert (type(monitor), monitor.log_dir, monitor.calls) == (user.Earlier, "folder", 1)
    assert not isinstance(monitor, GenerationMonitor)
    (warning,) = caplog.messages
    assert "user.Earlier, user.Early" in warning


def test_the_new_method_of_the_original_class_is_kept(load: Load) -> None:
    """Earlier subclasses of a class with `__new__` still use it."""
    monitoring = load("afterimage.monitoring")
    old = monitoring.GenerationMonitor

    def new(cls: type, *_args: Any, **_kwargs: Any) -> Any:
        made = object.__new__(cls)
        made.mark = "its own"  # type: ignore[attr-defined]
        return made

    old.__new__ = staticmethod(new)
    early = type("Early", (old,), {})
    patch.install()
    assert early().mark == "its own"
    assert is_ours(old())
    patch.uninstall()
    assert old().mark == "its own"


# --- putting it back ---------------------------------------------------------------------------


def test_uninstalling_restores_every_name(load: Load) -> None:
    """Names are AfterImage's again in all modules, whenever they were imported."""
    monitoring = load("afterimage.monitoring")
    before = dict(vars(monitoring))
    early = load("early", "from afterimage.monitoring import GenerationMonitor, Alert")
    patch.install()
    late = load("late", "from afterimage import GenerationMonitor as Monitor")
    part = load("afterimage.part", "from .monitoring import Alert, GenerationMonitor")
    assert is_ours(late.Monitor())
    patch.uninstall()
    assert vars(monitoring) == before
    assert (early.GenerationMonitor, early.Alert) == (
        monitoring.GenerationMonitor,
        monitoring.Alert,
    )
    assert (part.GenerationMonitor, part.Alert) == (monitoring.GenerationMonitor, monitoring.Alert)
    assert late.Monitor is monitoring.GenerationMonitor


def test_uninstalling_restores_calls_of_the_class(load: Load) -> None:
    """Both classes create AfterImage's monitors again."""
    old = load("afterimage.monitoring").GenerationMonitor
    patch.install()
    stand_in = sys.modules["afterimage.monitoring"].GenerationMonitor
    patch.uninstall()
    for make in (old, stand_in):
        monitor = make("folder", metrics_interval=0)
        assert (type(monitor), monitor.log_dir) == (old, "folder")


def test_replacing_monitors_work_after_uninstalling(load: Load) -> None:
    """A job keeps its monitor."""
    patch.install()
    monitor = load("afterimage.monitoring").GenerationMonitor()
    patch.uninstall()
    assert is_ours(monitor)


def test_uninstalling_keeps_names_that_were_rebound(load: Load) -> None:
    """Only replaced names are restored."""
    user = load("user", "from afterimage.monitoring import GenerationMonitor")
    patch.install()
    user.GenerationMonitor = None
    patch.uninstall()
    assert user.GenerationMonitor is None


def test_uninstalling_keeps_direct_imports_of_genmeter(load: Load) -> None:
    """Code that uses both packages keeps genmeter's classes."""
    patch.install()
    load("afterimage")
    user = load("user", "from genmeter import GenerationMonitor, TokenUsageReport")
    patch.uninstall()
    assert (user.GenerationMonitor, user.TokenUsageReport) == (GenerationMonitor, TokenUsageReport)


def test_it_can_be_installed_again(load: Load) -> None:
    """The class is always the same."""
    patch.install()
    patch.uninstall()
    monitoring = load("afterimage.monitoring")
    old = monitoring.GenerationMonitor
    assert not is_ours(old())
    made = []
    for _ in range(2):
        patch.install()
        made.append(monitoring.GenerationMonitor)
        assert is_ours(monitoring.GenerationMonitor())
        assert is_ours(old())
        patch.uninstall()
        assert monitoring.GenerationMonitor is old
    assert made[0] is made[1]


def test_installs_are_counted(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    """The first install sets the settings, and the last uninstall restores."""
    monitoring = load("afterimage.monitoring")
    patch.install(MonitorConfig(default_model="first"))
    patch.install(MonitorConfig(default_model="first"))
    assert caplog.messages == []
    patch.install()
    assert "ignoring the settings" in caplog.text
    for _ in range(2):
        patch.uninstall()
        monitor = monitoring.GenerationMonitor()
        monitor.track_generation(1.0, success=True, total_token_count=1)
        assert monitor.get_total_token_usage().by_model[0].model_name == "first"
    patch.uninstall()
    assert not is_ours(monitoring.GenerationMonitor())


def test_uninstalling_twice_does_nothing(load: Load) -> None:
    """An additional call has no effect, also not later."""
    patch.uninstall()
    patch.install()
    assert is_ours(load("afterimage").GenerationMonitor())


def test_settings_of_another_type_are_an_error() -> None:
    """Nothing is installed."""
    with pytest.raises(ConfigError, match=r"config must be MonitorConfig\("):
        patch.install("own")  # type: ignore[arg-type]
    assert patch._installs == []


# --- modules of all kinds ----------------------------------------------------------------------


def test_unusual_modules_are_ignored(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No code of objects in `sys.modules` is run."""

    class Hostile:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    class Slotted:
        __slots__ = ()

    class Broken(types.ModuleType):
        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise RuntimeError

    load("afterimage")
    (tmp_path / "lazy.py").write_text("raise AssertionError('it was loaded')\n")
    spec = importlib.util.find_spec("lazy")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    spec.loader.exec_module(lazy)
    odd: list[Any] = [Hostile(), Slotted(), Broken("broken"), None, Hostile, 3]
    for number, module in enumerate(odd):
        monkeypatch.setitem(sys.modules, f"odd_{number}", module)
    patch.install()
    assert is_ours(load("afterimage").GenerationMonitor())
    patch.uninstall()
    assert type(lazy).__name__ == "_LazyModule"


def test_a_release_without_the_class_is_logged_once(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    """AfterImage works as before."""
    load("afterimage")
    module = load("afterimage.monitoring")
    del module.GenerationMonitor
    patch.install()
    patch.install()
    (warning,) = caplog.messages
    assert "no class GenerationMonitor" in warning


def test_names_missing_in_a_release_are_skipped(load: Load) -> None:
    """They are not added."""
    module = load("afterimage.monitoring")
    del module.Alert
    patch.install()
    assert is_ours(module.GenerationMonitor())
    assert not hasattr(module, "Alert")


def test_an_alias_of_a_common_type_is_not_replaced(load: Load) -> None:
    """Only AfterImage's own classes are replaced."""
    module = load("afterimage.monitoring")
    module.Alert = dict
    user = load("user", "kind = dict")
    patch.install()
    assert (module.Alert, user.kind) == (dict, dict)


def test_a_manual_replacement_is_kept(load: Load) -> None:
    """The job may have set genmeter's monitor itself."""
    module = load("afterimage.monitoring")
    module.GenerationMonitor = GenerationMonitor
    patch.install()
    assert module.GenerationMonitor is GenerationMonitor
    patch.uninstall()
    assert module.GenerationMonitor is GenerationMonitor


def test_a_class_that_cannot_be_replaced_does_not_fail_the_import(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    """AfterImage works as before, with one warning."""
    patch.install()
    module = load("afterimage.monitoring", MONITORING + "\nGenerationMonitor = bool\n")
    assert module.GenerationMonitor is bool
    assert "could not be replaced" in caplog.text


# --- what a stand-in is ------------------------------------------------------------------------


def test_it_looks_like_afterimages_class(load: Load) -> None:
    """Its signature and its pickled name are AfterImage's."""
    module = load("afterimage.monitoring")
    old = module.GenerationMonitor
    signature = inspect.signature(old)
    patch.install()
    assert inspect.signature(old) == inspect.signature(module.GenerationMonitor) == signature
    assert b"afterimage.monitoring" in pickle.dumps(module.GenerationMonitor)
    assert pickle.loads(pickle.dumps(module.GenerationMonitor)) is module.GenerationMonitor  # noqa: S301


def test_other_attributes_of_afterimages_class_are_absent(load: Load) -> None:
    """Its internal methods could not work."""
    patch.install()
    monitor = load("afterimage").GenerationMonitor()
    assert not hasattr(monitor, "_enqueue_log")
    with pytest.raises(AttributeError, match="no attribute '_enqueue_log'"):
        monitor._enqueue_log({})


def test_a_handler_of_afterimage_is_called(load: Load, tmp_path: Path) -> None:
    """A handler created before the patch receives metrics."""
    handler = load("afterimage.monitoring").FileMetricHandler(tmp_path)
    patch.install()
    monitor = load("afterimage").GenerationMonitor(metric_handlers=[handler])
    monitor.track_generation(1.0, success=True)
    monitor.shutdown()
    assert "generation_time" in handler.seen


def test_the_log_folder_is_created_at_once(load: Load, tmp_path: Path) -> None:
    """A job may write its own files to it."""
    patch.install()
    monitor = load("afterimage").GenerationMonitor(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()
    assert monitor.log_dir == tmp_path / "a" / "b"


def test_settings_apply_to_every_monitor(load: Load) -> None:
    """Expected samples are not added up over the monitors."""
    patch.install(MonitorConfig(default_model="mine", expected_samples=10, drain="inline"))
    make = load("afterimage").GenerationMonitor
    monitors = [make(), make()]
    states = runtime_of_process.current()._states
    assert [state.expected_samples for state in states] == [10, 10]
    assert all(state.shares_expected for state in states)
    monitors[0].track_generation(1.0, success=True, total_token_count=3)
    assert monitors[0].get_total_token_usage().by_model[0].model_name == "mine"


# --- it can be made where AfterImage's can -----------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "log_dir",
        "metric_handlers",
        "log_handlers",
        "alert_handlers",
        "metrics_interval",
        "shutdown_timeout",
        "alert_min_success_rate",
        "token_usage_callback",
    ],
)
def test_an_argument_that_genmeter_rejects_is_dropped(
    load: Load, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """AfterImage accepts any value; other arguments are kept."""
    patch.install()
    others = {"metrics_interval": 0, "shutdown_timeout": 3}
    monitor = load("afterimage").GenerationMonitor(**{**others, name: object()})
    assert is_ours(monitor)
    assert all(getattr(monitor, key) == value for key, value in others.items() if key != name)
    assert f"{name} must be " in caplog.text
    assert "got <object" in caplog.text


def test_an_interval_that_genmeter_rejects_is_dropped(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    """The callback is called at the default interval."""
    patch.install()
    monitor = load("afterimage").GenerationMonitor(
        token_usage_callback=print, token_usage_callback_interval_seconds=0
    )
    assert is_ours(monitor)
    assert "token_usage_callback_interval_seconds must be " in caplog.text
    monitor.shutdown()


def test_an_argument_unknown_to_afterimage_is_an_error(load: Load) -> None:
    """The TypeError is AfterImage's."""
    patch.install()
    with pytest.raises(TypeError, match="unexpected keyword argument 'interval'"):
        load("afterimage").GenerationMonitor(interval=3)


def test_an_argument_of_another_release_is_dropped(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    """An argument of a later AfterImage is ignored with a warning."""
    patch.install()
    later = MONITORING.replace("log_dir=None,", "log_dir=None, retention_days=None,")
    make = load("afterimage.monitoring", later).GenerationMonitor
    assert is_ours(make(retention_days=3))
    assert "unknown to genmeter's monitor: retention_days" in caplog.text


def test_an_invalid_variable_disables_only_the_exports(
    load: Load, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token totals are correct; one warning names the variable."""
    monkeypatch.setenv("GENMETER_HISTORY_CAPACITY", "many")
    patch.install()
    make = load("afterimage").GenerationMonitor
    assert all(is_ours(make()) for _ in range(2))
    assert caplog.text.count("GENMETER_HISTORY_CAPACITY must be ") == 1
    assert "got 'many'" in caplog.text


def test_a_port_in_use_disables_only_the_endpoint(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    """The monitor is created, with a warning."""
    with bind("127.0.0.1", 0) as taken:
        endpoint = EndpointConfig(port=taken.getsockname()[1])
        patch.install(MonitorConfig(endpoint=endpoint, drain="inline"))
        monitor = load("afterimage").GenerationMonitor()
        assert is_ours(monitor)
        assert monitor.endpoint_url is None
    assert "metrics are not served: " in caplog.text


def test_other_errors_are_raised(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that also occurs without exports is not suppressed."""

    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("can't start new thread")

    patch.install()
    make = load("afterimage").GenerationMonitor
    monkeypatch.setattr(GenerationMonitor, "__init__", fail)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        make()
