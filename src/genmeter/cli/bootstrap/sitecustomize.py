"""Python imports this module when it starts, in every process of a job under ``genmeter run``.

It also starts in Pythons without genmeter, so it imports only the standard library until it is
needed, and a failure is only a warning.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any

_FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib is slow to import


# The modules of genmeter.auto.catalogue: a test compares them.
_MODULES = frozenset(
    {
        *("afterimage", "anthropic", "botocore", "cerebras.cloud.sdk", "cohere"),
        *("data_designer.config", "dspy", "google.genai", "groq", "ibm_watsonx_ai", "inspect_ai"),
        *(
            "langchain_core",
            "litellm",
            "llama_index.core",
            "lm_eval",
            "mistralai",
            "ollama",
            "openai",
            "ragas",
        ),
        *("replicate", "together", "vertexai", "vllm", "writerai", "xai_sdk"),
    }
)


class _StartOnImport:
    """Starts genmeter in a child process when that imports a client or AfterImage."""

    def find_spec(self, name: str, *_: Any) -> Any:
        """Find nothing, or what all finders find once genmeter has started."""
        if name not in _MODULES or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        try:
            from genmeter.cli.bootstrap import start_in_child

            start_in_child()
        except Exception as error:
            _warn(error)
        # A finder that was added in front of this one is asked too.
        return find_spec(name)


def _start() -> None:
    if os.environ.get("_GENMETER_MAIN_PID") != str(os.getpid()):
        sys.meta_path.insert(0, _StartOnImport())
        return
    try:
        from genmeter.cli.bootstrap import start

        start()
    except KeyboardInterrupt:
        # Python would report a fatal error at startup.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except Exception as error:
        _warn(error)


def _run_shadowed() -> None:
    """Run the ``sitecustomize`` that this one hides."""
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


def _warn(error: Exception) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"genmeter run: the job is not watched: {error!r}\n")


if __name__ == "sitecustomize":
    sys.path[:] = [entry for entry in sys.path if entry != _FOLDER]
    try:
        _run_shadowed()
    finally:
        _start()
