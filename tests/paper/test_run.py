from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl_text.eval.own_data import read_all
from mrl_text.paper import experiment
from mrl_text.paper import run as paper_run
from mrl_text.paper.experiment import Experiment
from mrl_text.paper.run import QUESTIONS, paper
from mrl_text.paper.tasks import read_tasks
from tests.conftest import WORDS


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "FIT_STEPS", 2)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """A retrieval folder, labelled texts of twelve classes, pairs, and texts to fit on."""
    generator = np.random.default_rng(0)

    def text() -> str:
        return " ".join(generator.choice(WORDS, 6))

    folder = tmp_path / "searched"
    (folder / "qrels").mkdir(parents=True)
    for name, prefix, count in (("corpus", "d", 20), ("queries", "q", 8)):
        lines = [json.dumps({"_id": f"{prefix}{row}", "text": text()}) for row in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    judged = ["query-id\tcorpus-id\tscore", *(f"q{row}\td{row}\t1" for row in range(8))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(judged))
    labelled = [f"{WORDS[row % 12]} {text()},c{row % 12}" for row in range(96)]
    (tmp_path / "labelled.csv").write_text("\n".join(["text,label", *labelled]))
    pairs = [f"{text()},{text()},{row % 2}" for row in range(12)]
    (tmp_path / "same.csv").write_text("\n".join(["sentence1,sentence2,label", *pairs]))
    scores = [f"{text()},{text()},{row % 5}" for row in range(12)]
    (tmp_path / "similar.csv").write_text("\n".join(["sentence1,sentence2,score", *scores]))
    (tmp_path / "train.txt").write_text("\n".join(text() for _ in range(80)))
    data = [folder, *(tmp_path / f"{name}.csv" for name in ("labelled", "same", "similar"))]
    return {"data": data, "train": [tmp_path / "train.txt"]}


def ask(tiny_bert: Path, tmp_path: Path, **given: Any) -> Path:
    settings = {"base": str(tiny_bert), "seeds": 2, "cache": tmp_path / "cache", "device": "cpu"}
    return paper(str(tiny_bert), tmp_path / "out", **{**settings, **given})


def test_data_of_every_kind_is_read(files: dict[str, Any]) -> None:
    found = read_tasks(None, files["data"])
    assert [len(one) for one in (found.similar, found.paraphrases, found.searches, found.labelled)] == [1, 1, 1, 1]
    search, labelled = found.searches[0], found.labelled[0]
    assert search.judgements["q3"] == {"d3": 1} and len(search.documents) == 20
    assert len(labelled.train) + len(labelled.test) == 96 and len(labelled.classes) == 12
    assert set(found.fingerprints) == {"searched", "labelled", "same", "similar"}
    with pytest.raises(ValueError, match="no data given"):
        read_tasks(None, [])


def test_data_with_other_columns_are_read_by_whoever_knows_them(tmp_path: Path) -> None:
    rows = [f"{one},c{row % 2}" for row, one in enumerate(WORDS[:12])]
    (tmp_path / "titles.csv").write_text("\n".join(["title,topic", *rows]))
    own = read_all([tmp_path / "titles.csv"], columns={"text": "title", "label": "topic"})
    [found] = read_tasks(None, [], read=own).labelled
    assert sorted([*found.train, *found.test]) == sorted(WORDS[:12])
    assert len(found.classes) == 2


@pytest.mark.slow
def test_all_questions_are_answered_and_the_page_names_no_place(
    tiny_bert: Path, tmp_path: Path, files: dict[str, Any]
) -> None:
    classification, search = tmp_path / "c.json", tmp_path / "s.json"
    cascade = {"accuracy": 0.5, "largest": 10.0, "paid": 12.0}
    classification.write_text(json.dumps({"train": "n.csv", "single": {"8": 0.4, "32": 0.5}, "cascade": cascade}))
    chosen, exact = (
        {"retention": [1.0, 0.99], "seconds_per_query": {"single": one, "batch": one}} for one in (0.001, 0.003)
    )
    search.write_text(json.dumps({"documents": 1000, "chosen": chosen, "exact": exact}))
    page = ask(tiny_bert, tmp_path, **files, classification=classification, search=search)
    text = page.read_text(encoding="utf-8")
    for name, question in QUESTIONS.items():
        assert f"## {question.title}" in text
        answer = (page.parent / f"{name}.json").read_text(encoding="utf-8")
        assert str(tmp_path) not in answer
        assert (page.parent / f"{name}.png").is_file()
    assert str(tmp_path) not in text and "Left out" not in text
    assert not re.search(r"\bnan\b", text)


@pytest.mark.slow
def test_answers_are_kept_until_something_they_depend_on_changes(
    tiny_bert: Path, tmp_path: Path, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    fake = {name: _counted(question, measured) for name, question in QUESTIONS.items()}
    monkeypatch.setattr(paper_run, "QUESTIONS", fake)
    chosen = ["fewshot", "superclasses"]
    page = ask(tiny_bert, tmp_path, **files, questions=chosen)
    before = page.read_bytes()
    ask(tiny_bert, tmp_path, **files, questions=chosen)
    assert measured == chosen and page.read_bytes() == before
    (page.parent / "fewshot.json").write_text("{")  # damaged
    ask(tiny_bert, tmp_path, **files, questions=chosen)
    assert measured == [*chosen, "fewshot"]
    table = files["data"][1]
    table.write_text(table.read_text() + "\na cat,c1")
    ask(tiny_bert, tmp_path, **files, questions=chosen)
    assert measured == [*chosen, "fewshot", *chosen]
    page = ask(tiny_bert, tmp_path, **files, questions=["superclasses"], dims=[8])  # answers to other sizes are there
    assert QUESTIONS["fewshot"].title not in page.read_text(encoding="utf-8").partition("## Left out")[0]


def _counted(question: Any, measured: list[str]) -> Any:
    def measure(given: Experiment) -> dict[str, Any]:
        measured.append(question.name)
        found: dict[str, Any] = question.measure(given)
        return found

    return replace(question, measure=measure)


@pytest.mark.slow
def test_an_interrupted_call_goes_on_with_the_next_question(
    tiny_bert: Path, tmp_path: Path, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(given: Experiment) -> dict[str, Any]:
        raise KeyboardInterrupt

    whole = dict(QUESTIONS)
    monkeypatch.setattr(
        paper_run, "QUESTIONS", {**whole, "superclasses": replace(whole["superclasses"], measure=interrupt)}
    )
    with pytest.raises(KeyboardInterrupt):
        ask(tiny_bert, tmp_path, **files, questions=["fewshot", "superclasses"])
    assert (tmp_path / "out" / "fewshot.json").is_file()
    measured: list[str] = []
    monkeypatch.setattr(paper_run, "QUESTIONS", {name: _counted(one, measured) for name, one in whole.items()})
    ask(tiny_bert, tmp_path, **files, questions=["fewshot", "superclasses"])
    assert measured == ["superclasses"]


def test_what_cannot_be_asked_is_left_out_and_named(tiny_bert: Path, tmp_path: Path, files: dict[str, Any]) -> None:
    page = ask(
        tiny_bert, tmp_path, data=[files["data"][3]], questions=["ablation", "fewshot", "robustness", "adaptive"]
    )
    text = page.read_text(encoding="utf-8")
    assert "needs labelled texts." in text and "texts to fit on (--train)" in text and "(--classification)" in text
    assert not list(page.parent.glob("*.json"))


def test_mistakes_are_named_before_anything_is_loaded(tiny_bert: Path, tmp_path: Path, files: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="did you mean 'fewshot'"):
        ask(tiny_bert, tmp_path, **files, questions=["fewshots"])
    with pytest.raises(ValueError, match="seeds and train_limit"):
        ask(tiny_bert, tmp_path, **files, seeds=0)
    with pytest.raises(FileNotFoundError, match="no result file"):
        ask(tiny_bert, tmp_path, **files, search=tmp_path / "none.json")
    with pytest.raises(ValueError, match="dim must be from 1 to 32"):
        ask(tiny_bert, tmp_path, **files, dims=[64])
    with pytest.raises(FileNotFoundError, match="no model at"):
        ask(tiny_bert, tmp_path, **files, independent=["./nowhere"])
