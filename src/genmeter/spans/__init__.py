"""Calls from the spans and log events of instrumentations.

``processor`` and ``logs`` are what a job adds to its providers, ``reading`` converts a finished span or an event
to a call by the attributes of ``names``, ``sampling`` keeps calls visible that tracing does not sample, and
``monitors`` finds the monitor of a process.
"""
