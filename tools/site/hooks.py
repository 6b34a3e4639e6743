"""Adds the repository's pages to the site, at their own paths, and the files that they link to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
PAGES = ("*.md", "docs/**/*", "deploy/**/*", "examples/*", "benchmarks/README.md")
# A role of a docstring, such as :meth:`shutdown`; with ~ only the last part of a name is shown.
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):<code>(~?)([\w.]+)(?:\(\))?</code>")
HIDDEN = {"__pycache__", "node_modules"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add each file of the repository that is a page, or that a page may show or link to."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and not HIDDEN & set(path.parts):
                name = path.relative_to(ROOT).as_posix()
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_content(html: str, **_: object) -> str:
    """Show the roles of docstrings as the names that they are of."""
    return ROLE.sub(lambda found: f"<code>{_shown(*found.groups())}</code>", html)


def _shown(tilde: str, name: str) -> str:
    return name.rpartition(".")[2] if tilde else name
