"""`genmeter render`: options, output and `--check`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import yaml

from genmeter.cli import main
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.render.rules import render_rules
from genmeter.schema.alerts import ALERT_RULES

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT = render_rules(AlertSettings())


def rendered(capfdbinary: pytest.CaptureFixture[bytes], *options: str) -> str:
    """Return the output of `genmeter render rules`."""
    assert main(["render", "rules", *options]) == 0
    return capfdbinary.readouterr().out.decode()


def refusal(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Return the error of `genmeter render rules`."""
    assert main(["render", "rules", *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


# --- options ---------------------------------------------------------------------------------------


def test_the_default_rules_are_printed(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The output equals what `--out` would write."""
    assert rendered(capfdbinary) == DEFAULT


def test_output_is_utf8_in_every_locale(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redirected output is UTF-8 in every locale."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert "täglich" in rendered(capfdbinary, "--job", "täglich")


def test_options_are_the_settings(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Each option sets the argument of AlertSettings with its name."""
    options = (
        "--objective=0.9 --cost-budget=5 --token-budget=7 --job=a --job=b --collector=c "
        "--runbook-url=https://w/r.md --group-by=namespace,cluster --replica-labels=r --suffix=x "
        "--histograms=native --distributions=recorded"
    )
    expected = AlertSettings(
        objective=0.9,
        cost_budget=5.0,
        token_budget=7.0,
        jobs=("a", "b"),
        collectors=("c",),
        runbook_url="https://w/r.md",
        group_by=("namespace", "cluster"),
        replica_labels=("r",),
        suffix="x",
        histograms="native",
        distributions="recorded",
        selector='cluster="a"',
    )
    found = rendered(capfdbinary, *options.split(), "--selector", 'cluster="a"')
    assert found == render_rules(expected)


def test_the_format_can_be_a_kubernetes_resource(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """`--format kubernetes` prints a PrometheusRule."""
    found = rendered(capfdbinary, "--format", "kubernetes")
    assert yaml.safe_load(found)["kind"] == "PrometheusRule"


def test_options_override_the_file(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Other settings of the file remain."""
    path = tmp_path / "alerts.toml"
    path.write_text(
        "objective = 0.9\ncost_budget = 5\n"
        "[alerts.high_error_rate]\nthreshold = 0.5\nwindow = '10m'\n"
        "[alerts.CostBudgetBurn]\nthreshold = 0.5\n"
    )
    assert rendered(capfdbinary, "--settings", str(path)) == render_rules(
        AlertSettings.from_file(path)
    )
    found = rendered(
        capfdbinary,
        *("--settings", str(path), "--objective", "0.99"),
        *("--threshold", "GenerationErrorRateHigh=0.3", "--threshold", "CostBudgetBurn=0.6"),
    )
    alerts = {
        "high_error_rate": AlertOverride(threshold=0.3, windows=(600.0,)),
        "cost_budget_burn:warning": AlertOverride(threshold=0.6),
        "cost_budget_burn:critical": AlertOverride(threshold=0.6),
    }
    assert found == render_rules(AlertSettings(cost_budget=5.0, alerts=alerts))


def test_a_threshold_by_name_sets_every_alert_of_the_name(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """Several alerts may have one name."""
    found = rendered(capfdbinary, "--threshold", "GenerationErrorBudgetBurn=2")
    assert found.count("ratio_rate3d > 0.02") == found.count("ratio_rate1h > 0.02") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "1"], "objective must be a share above 0 and below 1, got 1.0"),
        (["--cost-budget", "0"], "cost_budget must be a finite number above 0"),
        (["--token-budget", "nan"], "token_budget must be a finite number above 0"),
        (["--selector", "a"], "selector must be comma-separated matchers"),
        (["--job", ""], "jobs[0] must be a text that is not empty, got ''"),
        (["--threshold", "slow=3"], "--threshold must name one of low_"),
        (["--threshold", "target_down=3"], "got 'target_down'"),
        (["--runbook-url", ""], "runbook_url must be an address that starts with http:// or"),
        (["--runbook-url", "docs/runbook.md"], "runbook_url must be an address that starts with"),
        (["--group-by", "namespace,job"], "group_by[1] must be a label of the targets"),
        (["--suffix", "a b"], "suffix must be at most 16 lower-case letters"),
        (["--settings", "/nowhere.toml"], "the alerts' file '/nowhere.toml' cannot be read"),
        (["--check"], "--check must have a file: use --check FILE or --out FILE"),
        (["--check", "/"], "--check: '/' cannot be read"),
        (["--out", "/"], "--out must be a regular file, got '/'"),
        (["--out", "/proc/none/rules.yml"], "--out '/proc/none/rules.yml' cannot be written"),
    ],
)
def test_invalid_options_are_errors(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error names the argument, the value and the remedy, and the exit code is 2."""
    shown = refusal(capsys, *options)
    assert shown.startswith("genmeter render: error: ")
    assert message in shown


@pytest.mark.parametrize(
    "text", ["high_error_rate", "high_error_rate=", "high_error_rate=much", "high_error_rate=nan"]
)
def test_an_invalid_threshold_is_an_error_with_an_example(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--threshold` without a number is a usage error with an example."""
    with pytest.raises(SystemExit, match="2"):
        main(["render", "rules", "--threshold", text])
    shown = capsys.readouterr().err
    assert f"must be ALERT=NUMBER, such as high_error_rate=0.1, got {text!r}" in shown


def test_the_help_lists_every_alert(capsys: pytest.CaptureFixture[str]) -> None:
    """Ids and names for `--threshold` are in the help."""
    with pytest.raises(SystemExit, match="0"):
        main(["render", "rules", "--help"])
    shown = capsys.readouterr().out
    for rule in ALERT_RULES:
        assert f"  {rule.id} " in shown
        assert rule.name in shown


def test_a_missing_kind_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """`genmeter render` alone names the missing argument."""
    with pytest.raises(SystemExit, match="2"):
        main(["render"])
    assert "KIND" in capsys.readouterr().err


# --- files -----------------------------------------------------------------------------------------


def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """No temporary file is left."""
    path = tmp_path / "made" / "rules.yml"
    assert rendered(capfdbinary, "--out", str(path)) == ""
    assert path.read_bytes() == DEFAULT.encode()
    monkeypatch.setattr(os, "replace", _fail)
    assert main(["render", "rules", "--objective=0.9", "--out", str(path)]) == 2
    assert path.read_bytes() == DEFAULT.encode()
    assert list(path.parent.iterdir()) == [path]


def _fail(*_paths: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_link_is_followed(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The target of the link is written."""
    path, link = tmp_path / "rules.yml", tmp_path / "link.yml"
    link.symlink_to(path)
    rendered(capfdbinary, "--out", str(link))
    assert link.is_symlink()
    assert path.read_text() == DEFAULT


# --- --check ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [["--check", "FILE"], ["--out", "FILE", "--check"]])
def test_check_passes_a_fresh_file(
    options: list[str], tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """`--check` prints nothing and changes nothing."""
    path = tmp_path / "rules.yml"
    path.write_text(DEFAULT)
    before = path.stat()
    found = rendered(capfdbinary, *(str(path) if each == "FILE" else each for each in options))
    assert found == ""
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_check_shows_a_stale_file_as_a_diff(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """`--check` prints a unified diff and exits with 1."""
    path = tmp_path / "rules.yml"
    path.write_text(DEFAULT)
    assert main(["render", "rules", "--threshold=high_error_rate=0.3", "--check", str(path)]) == 1
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines[0] == f"--- {path}"
    assert lines[1].startswith(f"+++ {path}")
    assert "-      > 0.2" in lines
    assert "+      > 0.3" in lines
    assert path.read_text() == DEFAULT


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, "+groups:"),
        ("", "+groups:"),
        (DEFAULT.rstrip("\n"), "\\ No newline at end of file"),
        (DEFAULT.replace("\n", "\r\n"), "-groups:\r"),
        (DEFAULT.replace("USD", "€"), None),
    ],
    ids=["missing", "empty", "no last newline", "other ends of lines", "not ASCII"],
)
def test_check_finds_any_difference(
    text: str | None, shown: str | None, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A missing file, a missing final newline and other line endings are differences."""
    path = tmp_path / "rules.yml"
    if text is not None:
        path.write_bytes(text.encode())
    options = ["render", "rules", "--check", str(path)]
    assert main(options) == (text != DEFAULT)
    found = capfdbinary.readouterr().out.decode()
    assert shown is None or shown in found.split("\n")


def test_check_finds_the_stale_files_of_a_folder(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """`--check DIR` shows only stale and missing files."""
    out = str(tmp_path)
    assert main(["render", "dashboards", "--out", out]) == 0
    paths = sorted(capfdbinary.readouterr().out.decode().split())
    assert paths == sorted(map(str, tmp_path.iterdir()))
    assert main(["render", "dashboards", "--check", out]) == 0
    (tmp_path / "genmeter-health.json").unlink()
    assert main(["render", "dashboards", "--check", out]) == 1
    shown = capfdbinary.readouterr().out.decode().splitlines()
    assert [line for line in shown if line.startswith("--- ")] == [
        f"--- {tmp_path / 'genmeter-health.json'}"
    ]


def test_check_of_a_binary_file_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the file that is not UTF-8."""
    path = tmp_path / "rules.yml"
    path.write_bytes(b"\xff")
    assert f"--check: '{path}' cannot be read" in refusal(capsys, "--check", str(path))
