"""The function that vLLM loads by its entry point; see :mod:`genmeter.hooks.switch`."""

from __future__ import annotations

import multiprocessing

from genmeter.hooks.switch import is_wanted

__all__ = ["plugin"]

_WORKERS = ("EngineCore", "VllmWorker")


def plugin() -> None:
    """Install the hook where vLLM loads its plug-ins, if ``GENMETER_HOOKS`` names it.

    vLLM calls this in its worker processes too, which run no ``LLM.generate``: nothing is done there.
    """
    if not is_wanted("vllm") or multiprocessing.current_process().name.startswith(_WORKERS):
        return
    from genmeter.hooks import vllm

    if not vllm.is_active():
        vllm.install()
