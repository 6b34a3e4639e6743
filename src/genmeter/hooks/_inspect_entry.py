"""The module that inspect_ai loads by its entry point; see :mod:`genmeter.hooks.switch`."""

from genmeter.hooks.switch import is_wanted

if is_wanted("inspect_ai"):
    from genmeter.hooks import inspect_ai

    if not inspect_ai.is_active():
        inspect_ai.install()
