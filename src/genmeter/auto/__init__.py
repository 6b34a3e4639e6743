"""Turns on what watches the clients and frameworks that a job imports, for ``genmeter run``.

``catalogue`` has the clients, ``packages`` finds the installed instrumentations, ``tracing`` reads the spans
of every tracer provider, ``watching`` chooses what watches a client at its import, ``summary`` says at the
end what was watched by what, and what was not.
"""
