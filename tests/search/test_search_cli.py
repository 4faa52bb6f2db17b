"""The commands, from files to printed results."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrl_text import MatryoshkaEncoder
from mrl_text.cli.index import _print_tuning
from mrl_text.models import find_model
from mrl_text.search import AdaptiveIndex, SearchPlan
from mrl_text.search.measure import Timing, Trial, Tuning
from tests.conftest import WORDS, invoke

TEXTS = [f"the {WORDS[row % 40]} and a {WORDS[row * 7 % 43]} {WORDS[row // 40]}" for row in range(120)]


pytestmark = pytest.mark.usefixtures("command_line")


@pytest.fixture
def built(tmp_path: Path, tiny_bert: Path) -> Path:
    rows = [json.dumps({"_id": f"d{row}", "title": "", "text": text}) for row, text in enumerate([*TEXTS, " "])]
    Path("corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    result = invoke("index", "build", "corpus.jsonl", "-o", "index", "--model", tiny_bert, "--dims", "8,16")
    assert result.exit_code == 0, result.output
    assert "index: 120 documents (120 added now)" in result.stdout
    assert "corpus.jsonl, row 121: has no text" in result.stderr
    return tmp_path / "index"


def test_search_prints_what_the_model_and_numpy_find(built: Path, tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert))
    query = "the red cat"
    scores = model.encode_document(TEXTS) @ model.encode_query(query)
    best = np.argsort(-scores)[:3]
    plain = invoke("search", built, query, "-k", 3, "--exact")
    assert plain.exit_code == 0, plain.output
    lines = [line.split(maxsplit=3) for line in plain.stdout.splitlines()]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert [line[2] for line in lines] == [f"d{row}" for row in best]
    assert [line[3] for line in lines] == [TEXTS[row] for row in best]
    np.testing.assert_allclose([float(line[1]) for line in lines], scores[best], atol=2e-3)
    found = json.loads(invoke("search", built, query, "-k", 3, "--json").stdout)
    assert [one["id"] for one in found["results"]] == [f"d{row}" for row in best]  # 200 candidates are all there are
    assert "steps" not in found


def test_explain_shows_every_step(built: Path) -> None:
    found = json.loads(invoke("search", built, "a dog", "--explain", "--json").stdout)
    assert [(step["step"], step["dim"], step["candidates"]) for step in found["steps"]] == [
        ("shortlist", 8, 120),
        ("rerank", 32, 120),
    ]
    assert found["steps"][1]["kilobytes_read"] == 120 * 32 * 2 / 1024
    assert all(step["milliseconds"] > 0 for step in found["steps"][:1])
    shown = invoke("search", built, "a dog", "--explain").stdout.splitlines()
    assert shown[-3].split() == ["step", "dim", "candidates", "milliseconds", "kilobytes_read"]


@pytest.mark.slow
def test_a_condition_on_no_column_is_refused_before_a_model_is_loaded(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrl_text.search.query_model.load_model", lambda *_, **__: pytest.fail("loaded"))
    Path("queries.txt").write_text("the cat\n", encoding="utf-8")
    for asked in (["a dog"], ["--queries", "queries.txt"]):
        result = invoke("search", built, *asked, "--where", "lagn=en")
        assert result.exit_code == 2, result.output
        assert "the store has no column 'lagn'" in result.stderr


def test_of_many_plans_the_chosen_the_exact_and_the_fastest_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def trial(number: int) -> Trial:
        unmeasured = number % 3 == 1
        timing = None if unmeasured else Timing((100 - number) / 1000, 0.01)
        return Trial(SearchPlan(number + 1), "slow" * unmeasured, None if unmeasured else (1.0, 1.0), timing, 1000)

    trials = [trial(number) for number in range(90)]
    tuning = Tuning(trials[3], True, trials, "ndcg@10", 0.99, (0.5, 0.5), (60, 60), 1, 120, 0, trials[0])
    _print_tuning(tuning)
    printed = capsys.readouterr().out
    rows = [line.split()[0] for line in printed[: printed.index("...")].splitlines()[1:]]
    fastest = [number + 1 for number in range(90) if number % 3 != 1][-20:]
    assert rows == ["1", "4", *map(str, fastest)]
    assert "... and 68 more plans that are slower, or were not worth measuring\n" in printed
    _print_tuning(replace(tuning, trials=trials[:10]))
    assert capsys.readouterr().out.count("float32 flat") >= 10


def test_tune_prints_what_it_tried_and_search_uses_what_it_chose(built: Path) -> None:
    Path("queries.csv").write_text("id,text\n" + "".join(f"q{row},{TEXTS[row]} fast\n" for row in range(60)))
    options = ("--queries", "queries.csv", "--keep", 0.9, "--kinds", "flat")
    result = invoke("index", "tune", built, *options)
    assert result.exit_code == 0, result.output
    written = json.loads((built / "tune.json").read_text())
    assert written["metric"] == "recall@10"
    assert sum(" * " in line for line in result.stdout.splitlines()) == 1
    for trial in written["trials"] if len(written["trials"]) <= 20 else [written["chosen"], written["exact"]]:
        assert trial["label"] in result.stdout
    assert AdaptiveIndex.load(built).plan is not None
    assert AdaptiveIndex.load(built).plan.to_json() == written["chosen"]["plan"]  # type: ignore[union-attr]
    assert invoke("search", built, "a dog").exit_code == 0


@pytest.mark.slow
def test_figure_writes_its_files(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrl_text.search.faiss.figure._SHORTLISTS", (10, 50))
    monkeypatch.setattr("mrl_text.search.faiss.figure._EFFORTS", (10,))
    Path("queries.txt").write_text("the cat\na dog\n", encoding="utf-8")
    result = invoke("index", "figure", built, "--queries", "queries.txt", "-o", "out")
    assert result.exit_code == 0, result.output
    assert [Path(line) for line in result.stdout.splitlines()] == [Path("out/search.csv"), Path("out/search.png")]
    assert all(Path(line).stat().st_size for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "nowhere", "a dog"), "error: no index at nowhere"),
        (("search", "index", " "), "error: the query is empty"),
        (("search", "index", "a", "--explain", "--exact"), "leave out --exact"),
        (("index", "build", "no.jsonl", "-o", "x", "-m", "y"), "error: no data file at no.jsonl"),
        (("index", "tune", "index", "--queries", "none.csv"), "error: no data file at none.csv"),
        (("index", "tune", "index", "--queries", "corpus.jsonl", "--keep", "2"), "error: --keep 2.0"),
        (("index", "tune", "index", "--queries", "corpus.jsonl", "--dims", "a"), "error: --dims 'a'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(built: Path, arguments: tuple[str, ...], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.data
@pytest.mark.model
def test_cranfield_keeps_its_quality_when_it_is_tuned(test_data: Path, tmp_path: Path) -> None:
    """nDCG@10 of the same model and files by sentence-transformers alone is 35.3; here it goes through build and tune.

    The model reads 32 tokens, which takes an eighth of the time of 256 (39.5).
    """
    place, model = test_data / "own-data" / "cranfield", tmp_path / "minilm"
    shutil.copytree(find_model("sentence-transformers/all-MiniLM-L6-v2").path, model)
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": false}')
    options = ("--dtype", "float32", "--device", "cpu")
    sizes = ("--dims", "64,128,384")
    built = invoke("index", "build", place / "corpus.jsonl", "-o", "index", "--model", model, *sizes, *options)
    assert built.exit_code == 0, built.output
    judged = ("--queries", place / "queries.jsonl", "--qrels", place / "qrels" / "test.tsv")
    tuned = invoke("index", "tune", "index", *judged, "--precisions", "float32,int4", *options)
    assert tuned.exit_code == 0, tuned.output
    written = json.loads((tmp_path / "index" / "tune.json").read_text())
    halves = np.average(written["scores"], weights=written["queries"])
    assert 0.343 < halves < 0.363
    assert written["confirmed"]
    assert min(written["chosen"]["retention"]) >= 0.99
