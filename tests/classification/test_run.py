from __future__ import annotations

import csv
import gzip
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from mrl_text.classification import AdaptiveClassifier, classify, label_texts, load_classifier
from mrl_text.classification.adaptive import Point
from mrl_text.classification.run import Classification, embed_texts, print_classification
from mrl_text.paper.adaptive import read_classification
from tests.conftest import WORDS, invoke


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))


def labelled(n: int, seed: int) -> pd.DataFrame:
    """Texts that hold one of three animals or things, which is the label."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(["cat", "train", "guitar"], size=n)
    return pd.DataFrame({"text": [" ".join([*generator.choice(WORDS, 3), name]) for name in labels], "label": labels})


@pytest.mark.slow
def test_classify_then_label_new_texts(tiny_bert: Path, tmp_path: Path) -> None:
    labelled(150, 0).to_csv(tmp_path / "train.csv", index=False)
    labelled(60, 1).to_json(tmp_path / "test.jsonl", orient="records", lines=True)
    folder = tmp_path / "classifier"
    result = classify(
        str(tiny_bert), tmp_path / "train.csv", folder, test=tmp_path / "test.jsonl", dims=[8, 32], device="cpu"
    )
    assert all(file.is_file() for file in result.files)
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((folder / "results.json").read_text())
    shown = read_classification(folder / "results.json")  # as the paper page shows it
    assert (shown["accuracy"], shown["cascade_accuracy"]) == (
        written["single"][str(shown["width"])],
        written["cascade"]["accuracy"],
    )
    assert written["cascade"]["accuracy"] == result.cascade.accuracy
    assert [curve["role"] for curve in written["curves"]] == ["single", "cascade", "oracle"] * 2
    assert result.tested == 60

    unseen = labelled(40, 2)
    unseen[["text"]].to_parquet(tmp_path / "new.parquet")
    rows = list(label_texts(folder, tmp_path / "new.parquet", device="cpu"))
    vectors = embed_texts(str(tiny_bert), unseen["text"].tolist(), device="cpu")
    assert [row["label"] for row in rows] == load_classifier(folder).predict(vectors).tolist()
    assert [row["dim"] for row in rows] == load_classifier(folder).predict_dims(vectors).tolist()
    again = classify(str(tiny_bert), tmp_path / "train.csv", folder, dims=[8, 32], tied=True, device="cpu")
    assert again.classifier.tied  # its own folder is written again; a fifth of train is the test
    assert json.loads((folder / "results.json").read_text())["texts"] == {"train": 120, "test": 30}


@pytest.mark.parametrize(("tested", "few"), [(20, True), (400, False)])
def test_what_is_printed_says_on_how_many_texts_and_how_surely(tested: int, few: bool) -> None:
    share = stats.norm.cdf(stats.t.ppf([0.025, 0.975], tested - 1))
    exact = np.clip(
        0.85 + (stats.binom.ppf(share, tested, 0.85) / tested - 0.85) * (tested / (tested - 1)) ** 0.5, 0, 1
    )
    points = Point(0.85, 195.62, 1617.2), Point(0.95, 64.0, 70.5)
    result = Classification(AdaptiveClassifier(), {64: 0.75, 384: 0.85}, *points, (), tested)
    console = Console(record=True, width=80)
    print_classification(result, console)
    text = console.export_text()
    rows = {cells[0]: cells[1:] for line in text.splitlines() if len(cells := re.findall(r"[^│]+", line)) == 4}
    shown = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    value, low, high = map(float, re.findall(r"[\d.]+", shown["head of 384"][0]))
    assert value == 85
    assert [low, high] == pytest.approx(
        100 * exact, abs=150 / tested
    )  # draws of so many hits are binomial, in steps of one
    assert shown["cascade"][1:] == ["195.6", "1,617.2"]
    assert f"Measured on {tested} texts" in text
    assert "the largest size that a text was classified at" in text
    assert "oracle: stops at the first size that is right" in text
    assert ("Few items (test: 20 texts)" in text) == few


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text,lable\na,1\nb,2\n", {}, "did you mean 'label'"),
        ("text,label\na,1\n,2\n", {}, "line 3"),
        ("text,label\n" + "a,1\n" * 20, {}, "only label"),
        ("text,label\na,1\nb,2\nc,1\n", {}, "too few"),
        ("text,label\n" + "a,1\nb,2\n" * 20, {"dims": [64]}, "from 1 to 32"),
        ("text,label\n" + "a,1\nb,2\n" * 20, {"keep": 2.0}, "keep must be a share"),
        ("text,label\n" + "a,1\nb,2\n" * 20, {"cost": "all"}, "unknown"),
    ],
)
def test_bad_calls_are_refused_before_a_model_is_loaded(
    tiny_bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
    options: dict[str, object],
    message: str,
) -> None:
    def loaded(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("mrl_text.encoder.MatryoshkaEncoder.__init__", loaded)
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        classify(str(tiny_bert), tmp_path / "train.csv", tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_what_is_not_ours_is_not_overwritten(tiny_bert: Path, tmp_path: Path) -> None:
    labelled(30, 0).to_csv(tmp_path / "train.csv", index=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(FileExistsError, match="choose another folder"):
        classify(str(tiny_bert), tmp_path / "train.csv", tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        classify(str(tiny_bert), tmp_path / "nowhere.csv", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no classifier"):
        label_texts(tmp_path / "mine", tmp_path / "train.csv")


@pytest.fixture(scope="module")
def classifier(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    labelled(150, 0).to_csv(folder / "train.csv", index=False)
    classify(str(tiny_bert), folder / "train.csv", folder / "out", dims=[8, 32], device="cpu")
    return folder / "out"


@pytest.mark.slow
def test_labels_come_with_the_columns_of_their_rows_and_bad_rows_are_reported(
    classifier: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrl_text.classification.run._LABELLED", 2)
    rows = [
        {"id": 7, "body": "a cat", "label": "mine", "tags": ["x"]},
        {"id": 8, "body": None},
        "{broken",
        {"id": 9, "body": "the train", "given_label": 1},
        {"id": 10, "body": "a guitar and a cat"},
    ]
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / "new.jsonl").write_text("\n".join(lines))
    found = list(label_texts(classifier, tmp_path / "new.jsonl", text="body", device="cpu"))
    assert [(row["id"], row["body"]) for row in found] == [(7, "a cat"), (9, "the train"), (10, "a guitar and a cat")]
    assert list(found[0]) == ["id", "body", "given_given_label", "tags", "given_label", "label", "probability", "dim"]
    assert (found[0]["given_given_label"], found[0]["tags"], found[1]["given_label"]) == ("mine", ["x"], 1)
    alone = AdaptiveClassifier.predict(
        load_classifier(classifier),
        embed_texts(json.loads((classifier / "classifier.json").read_text())["model"], ["a cat"], device="cpu"),
    )
    assert [found[0]["label"]] == alone.tolist()
    assert [message for message in caplog.messages if "left out" in message] == [
        "left out: new.jsonl, line 2 has no text",
        "left out: new.jsonl, line 3 is not valid JSON (Expecting property name enclosed in double quotes, column 2)",
    ]
    assert "column label of its own, which is called given_given_label" in caplog.text
    with pytest.raises(ValueError, match=r"no column 'text'.*name it with --text-column"):
        label_texts(classifier, tmp_path / "new.jsonl")
    (tmp_path / "none.csv").write_text("id,text\n1,\n")
    with pytest.raises(ValueError, match="has no row with text in text"):
        label_texts(classifier, tmp_path / "none.csv")


@pytest.mark.slow
def test_the_command_writes_csv_and_json_lines(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("id,text\n007,a cat\n008,the train\n")
    printed = invoke("label", classifier, tmp_path / "new.csv", "--device", "cpu")
    assert printed.exit_code == 0, printed.output
    rows = list(csv.DictReader(io.StringIO(printed.stdout)))
    assert [(row["id"], row["text"]) for row in rows] == [("007", "a cat"), ("008", "the train")]
    assert list(rows[0]) == ["id", "text", "label", "probability", "dim"]
    written = invoke("label", classifier, tmp_path / "new.csv", "-o", tmp_path / "out.jsonl.gz", "--device", "cpu")
    assert written.stdout == f"{tmp_path / 'out.jsonl.gz'}: 2 rows\n"
    with gzip.open(tmp_path / "out.jsonl.gz", "rt", encoding="utf-8") as stream:
        same = [json.loads(line) for line in stream]
    assert [{name: str(cell) for name, cell in row.items()} for row in same] == rows


@pytest.mark.slow
def test_test_labels_that_were_never_learned_are_told(
    tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labelled(60, 0).to_csv(tmp_path / "train.csv", index=False)
    test = labelled(20, 1)
    test.loc[:3, "label"] = "boat"
    test.loc[4, "label"] = "ship"
    test.to_csv(tmp_path / "test.csv", index=False)
    classify(str(tiny_bert), tmp_path / "train.csv", tmp_path / "out", test=tmp_path / "test.csv", dims=[32])
    assert "5 of 20 test texts have a label that no training text has ('boat' 4, 'ship' 1)" in caplog.text


@pytest.mark.data
@pytest.mark.model
def test_on_real_texts_most_inputs_need_a_part_of_the_vector(test_data: Path) -> None:
    table = pd.read_csv(test_data / "own-data" / "stackoverflow-clustering.csv").drop_duplicates("text")
    table = table[table["label"] <= 8].sample(1200, random_state=0)
    vectors = embed_texts("sentence-transformers/all-MiniLM-L6-v2", table["text"].tolist(), device="cpu")
    labels = table["label"].to_numpy()
    classifier = AdaptiveClassifier(keep=0.99, random_state=0).fit(vectors[:800], labels[:800])
    right = classifier.stages(vectors[800:], labels[800:]).correct.mean(axis=0)
    point = classifier.evaluate(vectors[800:], labels[800:])
    assert right[-1] > right[0] + 0.1
    assert point.accuracy >= right[-1] - 0.04  # keep, and two standard errors of 400 paired answers
    assert point.largest < 384 / 2
    assert point.accuracy > right[list(classifier.dims_).index(32)]
