"""The documentation's site has every public name and every page; `make site` checks its links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import genmeter

ROOT = Path(__file__).parents[2]
SITE = ROOT / "tools" / "site"
PAGES = sorted((SITE / "pages").glob("**/*.md"))


def _nav() -> list[str]:
    """Return the pages of the navigation."""
    text = (SITE / "mkdocs.yml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)["nav"]
    sections = [next(iter(each.values())) for each in found]
    pages = [each for each in sections if isinstance(each, str)]
    return pages + [
        next(iter(page.values())) for each in sections if isinstance(each, list) for page in each
    ]


def test_every_public_name_is_in_the_reference_once() -> None:
    """But the version."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = re.findall(r"^::: genmeter\.([A-Z]\w+|[a-z]\w*_\w+|step)$", text, re.MULTILINE)
    assert sorted(names) == sorted(set(genmeter.__all__) - {"__version__"})


@pytest.mark.parametrize("folder", ["docs", "tools/site/pages"])
def test_every_page_is_in_the_navigation_once(folder: str) -> None:
    """Under the path that it has in the site."""
    top = ROOT if folder == "docs" else SITE / "pages"
    pages = [each.relative_to(top).as_posix() for each in (ROOT / folder).glob("**/*.md")]
    assert {page: _nav().count(page) for page in pages} == dict.fromkeys(pages, 1)


def test_every_page_of_the_navigation_exists() -> None:
    """In the repository, or among the site's own."""
    assert [
        page for page in _nav() if not ((ROOT / page).exists() or (SITE / "pages" / page).exists())
    ] == []
