"""The table of frameworks with a hook."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FRAMEWORKS", "Framework"]


class Framework(NamedTuple):
    """A framework with a hook.

    Attributes:
        name: Of the hook and its module in :mod:`genmeter.hooks`, and of the extra.
        title: As users know it.
        package: The distribution.
        module: The top-level module of the framework, as a job imports it.
        functions: Paths in the module of the functions that make a call, where something must be around it:
            the callbacks get no context of the call, or what they raise is caught.
    """

    name: str
    title: str
    package: str
    module: str
    functions: tuple[str, ...] = ()

    @property
    def hook(self) -> str:
        """The module of genmeter with ``install`` and ``uninstall``."""
        return f"genmeter.hooks.{self.name}"

    @property
    def source(self) -> str:
        """Who observes its calls, as in ``ObservedCall.source``."""
        return f"genmeter.{self.name}"


_LITELLM = (
    *("completion", "acompletion", "text_completion", "atext_completion"),
    *("embedding", "aembedding", "responses", "aresponses"),
)
_DSPY = ("BaseLM.__call__", "BaseLM.acall", "Embedder.__call__", "Embedder.acall")
_ROWS = (
    Framework("data_designer", "Data Designer", "data-designer", "data_designer"),
    Framework("dspy", "DSPy", "dspy", "dspy", _DSPY),
    Framework("inspect_ai", "Inspect", "inspect_ai", "inspect_ai"),
    Framework("langchain", "LangChain", "langchain-core", "langchain_core"),
    Framework("litellm", "LiteLLM", "litellm", "litellm", _LITELLM),
    Framework("llama_index", "LlamaIndex", "llama-index-core", "llama_index"),
    Framework("lm_eval", "lm-evaluation-harness", "lm_eval", "lm_eval"),
    Framework("ragas", "ragas", "ragas", "ragas"),
    Framework("vllm", "vLLM", "vllm", "vllm"),
)
FRAMEWORKS = {row.name: row for row in _ROWS}
"""The frameworks by name."""
