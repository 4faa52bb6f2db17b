"""The documentation as a site: ``make docs`` writes it into build/docs.

Pages are read where they lie: the root of the sources is the repository, so that a link works there as on the site.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrl_text.serving  # noqa: F401  # before autodoc, whose imports run what is for type checkers: FastAPI's fail
from mrl_text import __version__

project = "mrl-text"
author = "the mrl-text developers"
release = __version__
root_doc = "docs/index"
include_patterns = ["docs/**", "README.md", "recipes/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
exclude_patterns = ["docs/images"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
suppress_warnings = ["misc.highlighting_failure"]  # $1 of PostgreSQL

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4

autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "none"  # they are in the signature
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "mrl-text"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}


def setup(app: Any) -> None:
    """The site's first page stands where a server looks for it; what scikit-learn adds to its estimators is its own."""
    app.connect("build-finished", _first_page)
    app.connect("autodoc-skip-member", _not_ours)


def _first_page(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        page = '<!doctype html><meta charset="utf-8"><title>mrl-text</title>'
        page += '<meta http-equiv="refresh" content="0; url=docs/index.html"><a href="docs/index.html">mrl-text</a>\n'
        Path(app.outdir, "index.html").write_text(page, encoding="utf-8")


def _not_ours(app: Any, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    return True if name.startswith("set_") and name.endswith("_request") else None
