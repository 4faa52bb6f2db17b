"""The commands on stores, from files to printed results."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pytest

from mrl_text import MatryoshkaEncoder
from mrl_text.search import AdaptiveIndex, open_store
from tests.conftest import WORDS, invoke

TEXTS = [f"the {WORDS[row % 40]} and a {WORDS[row * 7 % 43]} {WORDS[row // 40]}" for row in range(120)]


pytestmark = pytest.mark.usefixtures("command_line")


@pytest.fixture(params=["faiss", "postgres"])
def pushed(request: pytest.FixtureRequest, tiny_bert: Path) -> str:
    """A store with a corpus in it; one row had no text."""
    if request.param == "faiss":
        pytest.importorskip("faiss")
        url = "index"
    else:
        url = f"{request.getfixturevalue('postgres_url')}&table=commands_{uuid.uuid4().hex}"
    rows = [
        json.dumps({"_id": f"d{row}", "text": text, "lang": ("en", "de")[row % 2], "year": row})
        for row, text in enumerate([*TEXTS, " "])
    ]
    Path("corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    result = invoke("index", "push", url, "corpus.jsonl", "--model", tiny_bert, "--dims", "8,16", "--keep", "lang,year")
    assert result.exit_code == 0, result.output
    assert ": 120 of 120 rows sent in" in result.stdout
    assert "120 there now" in result.stdout
    assert "left out 1 row\n" in result.stderr
    assert "corpus.jsonl, row 121: has no text" in result.stderr
    return url


@pytest.mark.slow
def test_search_prints_what_the_model_and_numpy_find_among_the_rows_asked_for(pushed: str, tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert))
    scores = model.encode_document(TEXTS) @ model.encode_query("the red cat")
    allowed = np.array([row for row in range(120) if row % 2 == 0 and 20 <= row < 100])
    best = allowed[np.argsort(-scores[allowed])][:3]
    conditions = ("--where", "lang=en", "--where", "year>=20", "--where", "year<100")
    for more in ((), ("--exact",)):
        result = invoke("search", pushed, "the red cat", "-k", 3, "--json", *conditions, *more)
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)["results"]
        np.testing.assert_allclose([one["score"] for one in found], scores[best], atol=0.01)
        assert {one["id"] for one in found} <= {f"d{row}" for row in allowed}
        assert found[0]["columns"] == {"lang": "en", "year": int(found[0]["id"][1:])}
        assert found[0]["text"] == TEXTS[int(found[0]["id"][1:])]
    plain = invoke("search", pushed, "the red cat", "-k", 2, *conditions)
    assert [line.split()[0] for line in plain.stdout.splitlines()] == ["1", "2"]


@pytest.mark.slow
def test_what_cannot_be_searched_for_is_one_line(pushed: str) -> None:
    result = invoke("search", pushed, "the cat", "--where", "year>5000", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["results"] == []
    assert result.stderr.strip().endswith("meets the conditions")
    store = open_store(pushed)
    store.delete([f"d{row}" for row in range(120)])
    store.flush()
    store.close()
    for options in ((), ("--json",), ("--exact",)):
        result = invoke("search", pushed, "the cat", *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "holds no rows: fill it with mrl-text index push" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    Path("queries.csv").write_text("id,text\n" + "".join(f"q{row},{TEXTS[row]}\n" for row in range(60)))
    result = invoke("index", "tune", pushed, "--queries", "queries.csv")
    assert result.exit_code == 2
    assert "holds no rows" in result.stderr


@pytest.mark.slow
def test_tune_prints_everything_tried_and_the_store_keeps_the_plan(
    pushed: str, caplog: pytest.LogCaptureFixture
) -> None:
    Path("queries.csv").write_text("id,text\n" + "".join(f"q{row},{TEXTS[row]} fast\n" for row in range(60)))
    result = invoke("index", "tune", pushed, "--queries", "queries.csv", "--keep", 0.9, "--kinds", "flat,hnsw")
    assert result.exit_code == 0, result.output
    assert sum(" * " in line for line in result.stdout.splitlines()) == 1
    chosen = next(line for line in result.stdout.splitlines() if line.startswith("chosen: "))
    store = open_store(pushed)
    assert store.plan is not None
    assert store.plan.label in chosen
    store.close()
    if pushed != "index":
        full = store.plan.kind == "flat" and store.plan.single and store.plan.dim == store.width
        assert ("against exact search" in result.stdout) == (not full)
        judgements = [f"q{row}\t{f'd{row}' if row else 'nowhere'}\t1" for row in range(60)]
        Path("test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judgements]))
        judged = invoke("index", "tune", pushed, "--queries", "queries.csv", "--qrels", "test.tsv")
        assert judged.exit_code == 0, judged.output
        assert "1 of 60 relevant documents of test.tsv are not in the index and count as not found: 'nowhere'" in (
            caplog.text
        )
        assert "rows are compared in full as fast as anything" in caplog.text
        assert "against exact search" not in judged.stdout  # that is what was chosen
        refused = invoke("index", "tune", pushed, "--queries", "queries.csv", "--max-ram", 5)
        assert refused.exit_code == 2
        assert "--max-ram is for an index in a folder" in refused.stderr
    for options, message in (
        (("--dims", "64"), "dim must be from 1 to 32"),
        (("--kinds", "hnws"), "kind 'hnws' is unknown; did you mean 'hnsw'?"),
        (("--minutes", -1), "minutes must be at least 0, got -1"),
        *(((("--max-ram", 0), "max_ram must be at least 1, got 0"),) if pushed == "index" else ()),
    ):
        refused = invoke("index", "tune", pushed, "--queries", "queries.csv", *options)
        assert (refused.exit_code, refused.stderr.strip().startswith("error: ")) == (2, True)  # and no model was loaded
        assert message in refused.stderr


def test_push_takes_a_plan_of_the_users_own(tiny_bert: Path) -> None:
    pytest.importorskip("faiss")
    Path("corpus.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    options = ("--plan-dim", 16, "--kind", "flat", "--precision", "int8", "--shortlist", 50)
    result = invoke("index", "push", "index", "corpus.txt", "-m", tiny_bert, "--dims", "16", *options)
    assert result.exit_code == 0, result.output
    assert "plan: 16 int8 flat, 50 → full" in result.stdout
    assert AdaptiveIndex.load("index").plan.label == "16 int8 flat, 50 → full"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "mysql://host/db", "a"), "is not a store: expected a folder (FAISS), postgresql://"),
        (("search", "qdrant:nowhere#docs", "a"), "error: no embedded Qdrant in nowhere"),
        (("search", "qdrant:nowhere#docs", "a", "--explain"), "error: --explain measures the steps of an index"),
        (("search", ".", "a", "--where", "lang=en", "--explain"), "error: --explain measures"),
        (("search", ".", "a", "-k", 999_999_999_999), "error: k 999,999,999,999 is more than 10,000,000 results"),
        (("search", ".", "the \udcff cat"), "error: the query 'the \\udcff cat' has bytes that are no UTF-8"),
        (
            ("search", ".", "a", "--where", "lang"),
            "error: --where 'lang': 'lang' is no condition; expected column=value",
        ),
        (("index", "push", "index", "no.jsonl"), "error: no data file at no.jsonl"),
        (("index", "push", "index", ".", "-m", "all-MiniLM-L6-v2"), "error: . is no folder that mrl-text encode wrote"),
        (("index", "push", "index", ".", "--effort", 3), "error: --effort is for --plan-dim: give --plan-dim too"),
        (("index", "tune", "nowhere", "--queries", "none.csv"), "error: no data file at none.csv"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
