from __future__ import annotations

import pytest

from mrl_text.docstrings import HELD_OUT_PACKAGES, Docstring, load_docstrings
from mrl_text.eval.tasks import DocstringRetrieval

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("kept_docstrings")]


def test_every_query_has_its_own_document_and_nothing_else_to_find() -> None:
    task = DocstringRetrieval()
    task.load_data()
    data = task.dataset["default"]["test"]
    pairs = load_docstrings(HELD_OUT_PACKAGES)
    assert list(data["queries"]["text"]) == [pair.anchor for pair in pairs]
    assert list(data["corpus"]["text"]) == [pair.positive for pair in pairs]
    assert data["relevant_docs"] == {pair.id: {pair.id: 1} for pair in pairs}
    assert {pair.package for pair in pairs} >= {"sklearn", "asyncio", "json"}


def test_the_revision_follows_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    here = DocstringRetrieval().metadata.dataset["revision"]
    assert DocstringRetrieval().metadata.dataset["revision"] == here
    pair = Docstring("a.b", "a", "one summary line", "the rest of it")
    monkeypatch.setattr("mrl_text.eval.tasks.load_docstrings", lambda packages: [pair])
    assert DocstringRetrieval().metadata.dataset["revision"] != here
