"""Coverage of what tests run in processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path

_SETTINGS = Path(__file__).parents[1] / "pyproject.toml"


def measured() -> dict[str, str]:
    """Return the variables with which a child process is measured too; none if this one is not.

    Only for children that end in order: a signal or a fork could leave the tracer's lock locked forever.
    """
    if "coverage" not in sys.modules:  # the environments of frameworks do without it
        return {}
    from coverage import Coverage

    own = Coverage.current()
    if own is None:
        return {}
    data = Path(str(own.get_option("run:data_file"))).absolute()
    return {"COVERAGE_PROCESS_START": str(_SETTINGS), "COVERAGE_FILE": str(data)}
