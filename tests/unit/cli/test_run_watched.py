"""`genmeter run` watches the clients that a script imports, says by what, and stops at a budget."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from _auto_fakes import write_client, write_instrumentation

from _measured import measured

if TYPE_CHECKING:
    from pathlib import Path

GENMETER = (sys.executable, "-c", "import sys; from genmeter.cli import main; sys.exit(main())")
OFFICIAL = "opentelemetry.instrumentation.genai.cohere"
INFERENCE = "openinference.instrumentation.cohere"
CALLS = "import cohere\nfor _ in range(3):\n    cohere.chat('atlas')\n"
WATCHED = "watched:\n  Cohere 4.2: by official 1.0\n"
SDK = (
    "from opentelemetry import trace\n"
    "from opentelemetry.sdk.trace import TracerProvider\n"
    "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
    "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter\n"
    "from opentelemetry.sdk.trace import sampling\n"
)
EXPORTED = "print([span.name for span in exporter.get_finished_spans()])\n"


def provider(sampler: str = "None", *, is_global: bool = True) -> str:
    """Code that sets an SDK provider up."""
    text = (
        f"{SDK}exporter = InMemorySpanExporter()\nprovider = TracerProvider({sampler})\n"
        "provider.add_span_processor(SimpleSpanProcessor(exporter))\n"
    )
    return text + ("trace.set_tracer_provider(provider)\n" if is_global else "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a client and its official instrumentation."""
    write_client(tmp_path, "cohere")
    write_instrumentation(tmp_path, OFFICIAL, "cohere", distribution="official")
    return tmp_path


def run(
    folder: Path, script: str, *options: str, quiet: bool = False, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with the packages of a folder."""
    (folder / "job.py").write_text(script)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "GENMETER_", "_GENMETER_"))
    }
    arguments = ["--no-endpoint", *(["--quiet"] if quiet else []), *options]
    return subprocess.run(
        [*GENMETER, "run", *arguments, "job.py"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**clean, **measured(), "PYTHONPATH": str(folder), **environ},
        timeout=100,
        check=False,
    )


def rows(text: str) -> dict[str, tuple[int, ...]]:
    """Calls, prompt, completion and total of the models in the report."""
    found = re.findall(r"^([\w-]+) +([\d,]+) +([\d,]+) +([\d,]+) +([\d,]+)$", text, re.MULTILINE)
    return {
        name: tuple(int(each.replace(",", "")) for each in counts)
        for name, *counts in found
        if name != "total"
    }


def test_the_installed_instrumentation_is_turned_on_at_the_import(folder: Path) -> None:
    """The script sets no provider up, and is not changed."""
    found = run(
        folder, f"{CALLS}from opentelemetry import trace\nprint(trace.get_tracer_provider())"
    )
    assert found.returncode == 0, found.stderr
    assert rows(found.stderr) == {"atlas": (3, 90, 12, 102)}
    assert WATCHED in found.stderr
    assert "not watched" not in found.stderr
    assert "ProxyTracerProvider" in found.stdout


@pytest.mark.parametrize("is_before", [True, False])
def test_a_provider_that_the_script_sets_has_its_place(folder: Path, is_before: bool) -> None:
    """Its exporter gets all spans, the report all calls, whenever it is set."""
    early, late = (provider(), "") if is_before else ("", provider())
    found = run(folder, f"{early}import cohere\n{late}{CALLS}{EXPORTED}")
    assert found.stdout == "['chat atlas', 'chat atlas', 'chat atlas']\n", found.stderr
    assert rows(found.stderr) == {"atlas": (3, 90, 12, 102)}
    assert "note:" not in found.stderr


def test_what_an_instrumentation_does_not_show_is_said(tmp_path: Path) -> None:
    """Beside what watched the client."""
    module = "opentelemetry.instrumentation.openai"
    write_client(tmp_path, "openai")
    write_instrumentation(tmp_path, module, "openai", distribution="older")
    found = run(tmp_path, CALLS.replace("cohere", "openai"))
    assert rows(found.stderr) == {"atlas": (3, 90, 12, 102)}
    assert "OpenAI 4.2: by older 1.0\n" in found.stderr
    assert (
        "note:\n  OpenAI 4.2: cancelled calls and truncated responses are not seen" in found.stderr
    )
    assert "by older\n" in found.stderr


def test_a_provider_that_is_not_the_global_one_is_read_too(folder: Path) -> None:
    """The script turns the instrumentation on itself, with arguments of its own."""
    script = (
        f"{provider(is_global=False)}import cohere\nfrom {OFFICIAL} import Instrumentor\n"
        f"Instrumentor().instrument(tracer_provider=provider)\n{CALLS}{EXPORTED}"
    )
    found = run(folder, script)
    assert found.stdout == "['chat atlas', 'chat atlas', 'chat atlas']\n", found.stderr
    assert "already instrumented" not in found.stderr
    assert rows(found.stderr) == {"atlas": (3, 90, 12, 102)}
    assert f"Cohere 4.2: by {OFFICIAL}, turned on by the job" in found.stderr


@pytest.mark.parametrize("first", ["import cohere\n", ""])
def test_another_instrumentation_that_the_script_turns_on_replaces_it(
    folder: Path, first: str
) -> None:
    """Never two for one client, also if turning it on imports the client."""
    write_instrumentation(folder, INFERENCE, "cohere", distribution="inference")
    script = (
        f"{provider()}{first}from {INFERENCE} import Instrumentor\nInstrumentor().instrument()\n"
    )
    found = run(folder, f"{script}{CALLS}{EXPORTED}")
    assert found.stdout == "['chat atlas', 'chat atlas', 'chat atlas']\n", found.stderr
    assert rows(found.stderr) == {"atlas": (3, 90, 12, 102)}
    assert f"Cohere 4.2: by {INFERENCE}, turned on by the job" in found.stderr


def test_what_is_sampled_to_nothing_is_seen_and_not_exported(folder: Path) -> None:
    """The sampler is named with what cannot be seen."""
    found = run(folder, f"{provider('sampling.ALWAYS_OFF')}{CALLS}{EXPORTED}")
    assert found.stdout == "[]\n", found.stderr
    assert rows(found.stderr) == {"atlas": (3, 90, 12, 102)}
    assert re.search(
        r"^note:\n  calls that the sampler AlwaysOffSampler drops", found.stderr, re.MULTILINE
    )


FOREIGN = (
    "from opentelemetry import trace\n"
    "class Provider(trace.TracerProvider):\n"
    "    def get_tracer(self, *args, **kwargs):\n"
    "        return trace.NoOpTracer()\n"
    "trace.set_tracer_provider(Provider())\n"
)


def test_a_provider_that_is_not_the_sdks_is_named(folder: Path) -> None:
    """Its spans are seen by nobody here, so the report says so."""
    found = run(folder, f"{FOREIGN}{CALLS}")
    assert found.returncode == 0, found.stderr
    assert "No token usage recorded." in found.stderr
    assert (
        "the job's tracer provider is __main__.Provider, not the SDK's, so its spans are not seen"
        in found.stderr
    )


def test_tracing_that_is_disabled_is_named(folder: Path) -> None:
    """Nothing is recorded, and the variable is the reason."""
    found = run(folder, CALLS, OTEL_SDK_DISABLED="true")
    assert "OTEL_SDK_DISABLED is set, so no instrumentation's spans are seen" in found.stderr


@pytest.mark.parametrize("value", ["cohere", "*"])
def test_a_client_that_nothing_watches_is_named(folder: Path, value: str) -> None:
    """The calls are not seen, which is said."""
    found = run(folder, CALLS, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=value)
    assert re.search(
        r"^not watched:\n  Cohere 4\.2: its calls are not seen", found.stderr, re.MULTILINE
    )
    assert "\nwatched:" not in found.stderr


def test_an_instrumentation_that_fails_is_named(tmp_path: Path) -> None:
    """The job goes on, and the next one is used."""
    write_client(tmp_path, "cohere")
    write_instrumentation(
        tmp_path, OFFICIAL, "cohere", distribution="official", before="raise ImportError('no util')"
    )
    write_instrumentation(tmp_path, INFERENCE, "cohere", distribution="inference")
    found = run(tmp_path, CALLS)
    assert rows(found.stderr) == {"atlas": (3, 90, 12, 102)}
    assert "Cohere 4.2: by inference 1.0" in found.stderr
    assert "Cohere 4.2: official 1.0 is not used: ImportError: no util" in found.stderr


def test_a_client_whose_hook_steps_aside_is_watched_otherwise(tmp_path: Path) -> None:
    """By its instrumentation, and the report says why."""
    write_client(tmp_path, "vllm")
    official = "opentelemetry.instrumentation.genai.vllm"
    write_instrumentation(tmp_path, official, "vllm", distribution="official")
    found = run(tmp_path, CALLS.replace("cohere", "vllm"))
    assert rows(found.stderr) == {"atlas": (3, 90, 12, 102)}
    assert "vLLM 4.2: by official 1.0" in found.stderr
    assert "vLLM 4.2: genmeter's hook is not used: vllm has no class LLM" in found.stderr


def test_a_client_whose_hook_steps_aside_may_not_be_watched(tmp_path: Path) -> None:
    """Then it is not said to be."""
    write_client(tmp_path, "vllm")
    found = run(tmp_path, CALLS.replace("cohere", "vllm"))
    assert "not watched:\n  vLLM 4.2: genmeter's hook is not used: vllm has no class LLM" in (
        found.stderr
    )
    assert "\nwatched:" not in found.stderr


def test_a_client_that_is_not_imported_turns_nothing_on(folder: Path) -> None:
    """Nor is its instrumentation imported."""
    found = run(folder, f"import sys\nprint({OFFICIAL!r} in sys.modules, 'cohere' in sys.modules)")
    assert found.stdout == "False False\n"
    assert "watched" not in found.stderr


def test_quiet_says_nothing(folder: Path) -> None:
    """As of the report."""
    assert run(folder, CALLS, quiet=True).stderr == ""


CHILDREN = (
    "import multiprocessing\n"
    "def work(number):\n"
    "    import cohere\n"
    "    for _ in range(number):\n        cohere.chat('atlas')\n"
    "if __name__ == '__main__':\n"
    "    with multiprocessing.get_context({kind!r}).Pool(2) as pool:\n"
    "        pool.map(work, [{calls}, {calls}])\n"
    "        pool.close()\n        pool.join()\n"
)


@pytest.mark.parametrize("kind", ["spawn", "fork"])
def test_child_processes_are_watched_too(folder: Path, kind: str) -> None:
    """They are one job with the script's process."""
    found = run(folder, CHILDREN.format(kind=kind, calls=4))
    assert found.returncode == 0, found.stderr
    assert rows(found.stderr) == {"atlas": (8, 240, 32, 272)}


KILLED = (
    "import multiprocessing, os, signal, time\n"
    "def work(is_called):\n"
    "    import cohere\n"
    "    cohere.chat('atlas')\n"
    "    time.sleep(2)\n"
    "    is_called.set()\n"
    "    time.sleep(60)\n"
    "if __name__ == '__main__':\n"
    "    context = multiprocessing.get_context('spawn')\n"
    "    is_called = context.Event()\n"
    "    child = context.Process(target=work, args=[is_called])\n"
    "    child.start()\n"
    "    is_called.wait()\n"
    "    os.kill(child.pid, signal.SIGKILL)\n"
    "    child.join()\n"
)


def test_the_report_says_that_a_process_died(folder: Path) -> None:
    """Since what it had not published is missing."""
    found = run(folder, KILLED)
    assert rows(found.stderr) == {"atlas": (1, 30, 4, 34)}
    assert "\nIncomplete: 1 of 2 processes of the job died; what they had not" in found.stderr


# --- the budget ----------------------------------------------------------------------------------

MANY = CALLS.replace("range(3)", "range(50)")
STOPPED = "genmeter run: the budget stopped the job: budget of 100 tokens of the job is spent: "


def test_the_call_after_the_limit_raises_in_the_script(folder: Path) -> None:
    """It is not sent; the exit code and a line say that it was the budget."""
    found = run(folder, f"open('out', 'w').write('kept')\n{MANY}", "--budget-tokens", "100")
    assert found.returncode == 3
    assert "BudgetExceededError: budget of 100 tokens of the job is spent" in found.stderr
    assert f"{STOPPED}102 used, 0 reserved; calls refused: 1" in found.stderr
    assert rows(found.stderr) == {"atlas": (3, 90, 12, 102)}


def test_a_script_that_goes_on_is_stopped_at_each_call(folder: Path) -> None:
    """Its files are written at the exit, and the exit code says what happened."""
    script = (
        "import cohere\nout = open('out', 'w')\nfor number in range(9):\n    try:\n"
        "        cohere.chat('atlas')\n    except Exception as error:\n"
        "        print(type(error).__name__, number, file=out)\n"
    )
    found = run(folder, script, GENMETER_BUDGET_TOKENS="100", quiet=True)
    assert found.returncode == 3
    assert (folder / "out").read_text() == "".join(
        f"BudgetExceededError {number}\n" for number in range(3, 9)
    )
    assert found.stderr == f"\n{STOPPED}102 used, 0 reserved; calls refused: 6\n"


def test_a_job_that_ends_within_its_budget_is_as_any_other(folder: Path) -> None:
    """Also if its last call reaches the limit."""
    found = run(folder, CALLS, "--budget-tokens", "102")
    assert found.returncode == 0
    assert "budget" not in found.stderr


def test_a_limit_in_usd_counts_by_the_prices(folder: Path) -> None:
    """They are those of the run."""
    (folder / "p.json").write_text('{"atlas": {"input": 1000000, "output": 1000000}}')
    found = run(folder, MANY, "--budget-usd", "40", "--prices", "p.json")
    assert found.returncode == 3
    assert rows(found.stderr) == {"atlas": (2, 60, 8, 68)}
    assert "budget of 40.00 USD of the job is spent" in found.stderr


def test_blocks_are_refused_too(folder: Path) -> None:
    """A call is refused however it is recorded."""
    script = (
        "from genmeter import GenerationMonitor\nmonitor = GenerationMonitor()\n"
        "for _ in range(9):\n    with monitor.generation(model='atlas') as call:\n"
        "        call.usage(total_token_count=60)\n"
    )
    found = run(folder, script, "--budget-tokens", "100")
    assert found.returncode == 3
    assert f"{STOPPED}120 used" in found.stderr


@pytest.mark.parametrize("kind", ["spawn", "fork"])
def test_the_children_of_a_job_have_its_budget(folder: Path, kind: str) -> None:
    """The error of a child that reaches the script ends it with the exit code of the budget."""
    found = run(folder, CHILDREN.format(kind=kind, calls=50), "--budget-tokens", "200")
    assert found.returncode == 3
    assert "genmeter run: the budget stopped the job" in found.stderr
    assert "BudgetExceededError" in found.stderr


SUBPROCESSES = (
    "import subprocess, sys\nfor _ in range(2):\n"
    "    child = subprocess.run([sys.executable, 'child.py'], capture_output=True, text=True)\n"
    "    print(child.returncode, 'BudgetExceededError' in child.stderr)\n"
)
CAUGHT = MANY.replace(
    "    cohere.chat('atlas')", "    try:\n        cohere.chat('atlas')\n    except Exception: pass"
)


@pytest.mark.parametrize(
    ("child", "expected", "refused"),
    [(MANY, "1 True\n" * 2, 2), (CAUGHT, "0 False\n" * 2, 97)],
    ids=["raised", "caught"],
)
@pytest.mark.parametrize("meter_provider", ["builtin", "global"])
def test_a_budget_that_only_children_reach_stops_the_run_too(
    folder: Path, child: str, expected: str, refused: int, meter_provider: str
) -> None:
    """The script makes no call and ends well; the run says how many calls of others were refused."""
    (folder / "child.py").write_text(child)
    found = run(
        folder, SUBPROCESSES, "--budget-tokens", "100", GENMETER_METER_PROVIDER=meter_provider
    )
    assert found.stdout == expected
    assert found.returncode == 3, found.stderr
    assert (
        f"{STOPPED}102 used, 0 reserved; calls refused: {refused}, {refused} of them in other "
        "processes\n"
    ) in found.stderr


REFUSED_IN_A_POOL = (
    "import cohere, multiprocessing\n"
    "def work(_):\n"
    "    for _ in range(10):\n"
    "        try:\n            cohere.chat('atlas')\n"
    "        except Exception as error:\n            assert 'is spent' in str(error)\n"
    "if __name__ == '__main__':\n"
    "    for _ in range(3):\n        cohere.chat('atlas')\n"
    "    with multiprocessing.get_context({kind!r}).Pool(2) as pool:\n"
    "        pool.map(work, range(6), chunksize=1)\n"
)


@pytest.mark.parametrize("kind", ["spawn", "fork"])
def test_the_calls_that_were_refused_in_a_pool_are_all_counted(folder: Path, kind: str) -> None:
    """Also those of a worker without a call of its own, which is ended by SIGTERM.

    A worker that has begun within a second of the parent's calls may not know of them, and of its own
    calls the budget lets in three.
    """
    found = run(folder, REFUSED_IN_A_POOL.format(kind=kind), "--budget-tokens", "100")
    assert found.returncode == 3, found.stderr
    calls = rows(found.stderr)["atlas"][0]
    assert 3 <= calls <= 3 + 2 * 3
    refused = 3 + 60 - calls
    assert f"calls refused: {refused}, {refused} of them in other processes" in found.stderr


def test_children_within_the_budget_do_not_stop_the_run(folder: Path) -> None:
    """Also if their last call reaches the limit."""
    (folder / "child.py").write_text(CALLS)
    found = run(folder, SUBPROCESSES.replace("range(2)", "range(1)"), "--budget-tokens", "102")
    assert (found.returncode, found.stdout) == (0, "0 False\n")
    assert "budget" not in found.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [("--budget-tokens", "-1"), ("--budget-tokens", "x"), ("--budget-usd", "nan")],
)
def test_an_invalid_limit_is_an_error(folder: Path, option: str, value: str) -> None:
    """The message names the option."""
    found = run(folder, "print('ran')", option, value)
    assert (found.returncode, found.stdout) == (2, "")
    assert f"genmeter run: error: {option} must be" in found.stderr


def test_a_provider_of_the_application_can_have_a_budget(folder: Path) -> None:
    """The monitor, and its budget, are made at the first call."""
    found = run(folder, MANY, "--budget-tokens", "100", GENMETER_METER_PROVIDER="global")
    assert found.returncode == 3
    assert f"{STOPPED}102 used" in found.stderr
