"""The documentation site: built without a warning, whole, and asking no other site for anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT
from tests.processes import Started

pytestmark = pytest.mark.slow


class Links(HTMLParser):
    """What a page loads, where it leads, and the anchors in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors.add(given.get("id", ""))
        if tag in ("script", "img", "iframe", "source") and "src" in given:
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(given["href"])
        if tag == "a" and "href" in given:
            self.leads.append(given["href"])


@pytest.fixture(scope="module")
def site(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    return once("site", build)


def build(folder: Path) -> None:
    code = f"import os, sys; os.chdir({str(ROOT)!r}); from sphinx.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = Started(code, "-b", "html", "-q", "-W", "--keep-going", "-c", "docs", ".", folder)
    assert done.wait() == 0, done.errors


def test_every_page_is_there_and_every_link_leads_somewhere(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html")}
    for source in PAGES:
        assert site / source.relative_to(ROOT).with_suffix(".html") in pages
    for page, links in pages.items():
        for link in links.leads:
            target, _, anchor = link.partition("#")
            if re.match(r"\w+:", target):
                continue
            there = (page.parent / target).resolve() if target else page
            assert there.is_file(), f"{page.relative_to(site)} leads to {link}"
            if anchor and there in pages and "_modules" not in there.parts:
                assert anchor in pages[there].anchors, f"{page.relative_to(site)} leads to {link}"


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for address in Links(page).loads:
            assert not re.match(r"(\w+:)?//", address), f"{page.relative_to(site)} loads {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_the_reference_has_what_is_public(site: Path) -> None:
    anchors = Links(site / "docs" / "reference.html").anchors
    for name in ("MatryoshkaEncoder.encode", "encode", "losses.NestedLoss", "adapt.fit", "codes.Codec", "eval.sweep"):
        assert any(anchor.startswith("mrl_text") and anchor.endswith(f".{name}") for anchor in anchors), name
