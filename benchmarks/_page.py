"""The figures in docs/performance.md, which the benchmarks write between markers."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PAGE", "markers", "write_between", "write_figures"]

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def markers(name: str) -> tuple[str, str]:
    """Return what stands before and after the figures of a benchmark."""
    begin = f"<!-- begin of the figures of {name}: `make bench ARGS=--write` writes them -->"
    return begin, f"<!-- end of the figures of {name} -->"


def write_figures(name: str, text: str, page: Path = PAGE) -> None:
    """Replace the figures of a benchmark.

    Raises:
        ValueError: The page has no markers for it.
    """
    write_between(page, *markers(name), text)


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two lines of a page.

    Raises:
        ValueError: The page does not have them in this order.
    """
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} must have the line {begin!r}, and later {end!r}")
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
