from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pandas as pd
import pytest
from mteb.abstasks import AbsTask
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import LogisticRegression

from mrl_text.eval.own_data import read_own_data, task_name
from mrl_text.eval.own_tasks import own_task
from tests.conftest import WORDS

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write text or bytes into a file of the temporary folder."""

    def written(name: str, content: str | bytes) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return written


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bert), device="cpu")


def sentence(seed: int, length: int = 5) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, length))


def evaluate(model: Any, task: AbsTask) -> dict[str, Any]:
    """Scores that mteb itself computes."""
    answer = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    scores: dict[str, Any] = answer.task_results[0].scores["test"][0]
    return scores


def json_lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def beir(write: Write, **changed: str) -> Path:
    """A folder of three documents and two queries, with the files in ``changed`` instead of the usual ones."""
    files = {
        "corpus": json_lines(*({"_id": f"d{i}", "title": "the", "text": WORDS[i]} for i in (1, 2, 3))),
        "queries": json_lines({"_id": "q1", "text": "cat"}, {"_id": "q2", "text": "dog"}),
        "qrels": "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\n",
        **changed,
    }
    for name, content in files.items():
        write(f"beir/qrels/{changed.get('split', 'test')}.tsv" if name == "qrels" else f"beir/{name}.jsonl", content)
    return write("beir/README.md", "not read").parent


@pytest.mark.parametrize(
    ("columns", "theirs", "ours"),
    [
        (
            {"sentence1": "question", "sentence2": "answer"},
            "question,answer,label,text\na,b,1,x\nc,d,0,y\n",
            "sentence1,sentence2,label\na,b,1\nc,d,0\n",
        ),
        (
            {"score": "stars"},  # what they call score is something else
            "sentence1,sentence2,score,stars\na,b,7,1\nc,d,7,3\n",
            "sentence1,sentence2,score\na,b,1\nc,d,3\n",
        ),
        (
            {"text": "label", "label": "text"},
            "label,text\na,1\nb,1\nc,2\nd,2\n",
            "text,label\na,1\nb,1\nc,2\nd,2\n",
        ),
    ],
)
def test_columns_may_have_other_names(write: Write, columns: dict[str, str], theirs: str, ours: str) -> None:
    found = read_own_data(write("theirs.csv", theirs), columns=columns)
    expected = read_own_data(write("ours.csv", ours))
    assert (found.kind, found.tables) == (expected.kind, expected.tables)


def test_other_columns_of_a_file_are_another_task(write: Write) -> None:
    file = write("pairs.csv", "sentence1,sentence2,score,stars\na,b,1,2\nc,d,3,1\n")
    revisions = {read_own_data(file, columns=columns).revision for columns in (None, {}, {"score": "stars"})}
    assert len(revisions) == 2


def ndcg_at_10(queries: np.ndarray, documents: np.ndarray, grades: np.ndarray) -> float:
    """Mean over queries, linear gain; grades (queries, documents)."""
    discounts = 1 / np.log2(np.arange(2, 12))
    scores = []
    for similarity, grade in zip(queries @ documents.T, grades, strict=True):
        gains = grade[np.argsort(-similarity)][:10]
        best = np.sort(grade)[::-1][:10]
        scores.append((gains * discounts[: len(gains)]).sum() / (best * discounts[: len(best)]).sum())
    return float(np.mean(scores))


def average_precision(similarity: np.ndarray, labels: np.ndarray) -> float:
    ranked = labels[np.argsort(-similarity)]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked == 1].mean())


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# scores


def test_scored_pairs_give_the_spearman_correlation_of_the_cosines(write: Write, model: SentenceTransformer) -> None:
    first, second = ([sentence(i + shift) for i in range(40)] for shift in (0, 1000))
    scores = [(i * 7 % 40) / 10 - 1 for i in range(40)]
    rows = "".join(f'{s:.1f},"{a}\n{a}",x,{b}\r\n' for a, b, s in zip(first, second, scores, strict=True))
    task = own_task(write("pairs.csv", "\ufeffscore,sentence1,genre,sentence2\r\n" + rows))
    left, right = unit(model.encode([f"{a}\n{a}" for a in first])), unit(model.encode(second))
    expected = spearmanr((left * right).sum(axis=1), scores).statistic
    assert task.metadata.main_score == "cosine_spearman"
    assert (task.min_score, task.max_score) == (-1.0, 2.9)
    assert evaluate(model, task)["main_score"] == pytest.approx(expected, abs=1e-6)


def test_labelled_pairs_give_the_best_average_precision(write: Write, model: SentenceTransformer) -> None:
    first, second = ([sentence(i + shift) for i in range(40)] for shift in (0, 1000))
    labels = [int(i % 3 == 0) for i in range(40)]
    rows = [{"sentence1": a, "sentence2": b, "label": c} for a, b, c in zip(first, second, labels, strict=True)]
    task = own_task(write("pairs.jsonl", json_lines(*rows)))
    left, right = model.encode(first).astype(np.float64), model.encode(second).astype(np.float64)
    similarities = [
        (unit(left) * unit(right)).sum(axis=1),
        (left * right).sum(axis=1),
        -np.linalg.norm(left - right, axis=1),
        -np.abs(left - right).sum(axis=1),
    ]
    expected = max(average_precision(similarity, np.array(labels)) for similarity in similarities)
    assert task.metadata.main_score == "max_ap"
    assert evaluate(model, task)["main_score"] == pytest.approx(expected, abs=1e-6)


def test_a_beir_folder_gives_ndcg(write: Write, model: SentenceTransformer) -> None:
    documents = [{"_id": str(i), "text": sentence(i, 7), "title": sentence(i + 500, 2)} for i in range(30)]
    documents[4]["title"] = ""
    del documents[5]["title"]
    documents[6]["text"] = ""
    queries = [{"_id": i, "text": sentence(i + 1000, 3), "more": 1} for i in range(12)]  # ids occur on both sides
    grades = np.array([[(q * 31 + d * 17) % 11 % 4 * ((q + d) % 3 == 0) for d in range(30)] for q in range(10)])
    qrels = "".join(f"{q}\t{d}\t{g}\n" for (q, d), g in np.ndenumerate(grades) if (q + d) % 3 == 0)
    folder = beir(
        write,
        corpus=json_lines(*documents),
        queries=json_lines(*queries),
        qrels="query-id\tcorpus-id\tscore\n" + qrels,
    )
    task = own_task(folder)
    texts = [f"{row.get('title', '')} {row['text']}".strip() for row in documents]
    asked = [str(row["text"]) for row in queries[:10]]  # the last two are not judged
    expected = ndcg_at_10(unit(model.encode(asked)), unit(model.encode(texts)), grades)
    assert task.metadata.main_score == "ndcg_at_10"
    assert evaluate(model, task)["main_score"] == pytest.approx(expected, abs=1e-5)  # mteb rounds to five decimals


def test_a_folder_with_train_and_test_is_classified_as_by_sklearn(write: Write, model: SentenceTransformer) -> None:
    # with eight rows per label in train, every one of mteb's samples is all of them
    train = [(f"{sentence(i, 3)} {('cat', 'house')[i % 2]}", ("zebra", "ape")[i % 2]) for i in range(16)]
    test = [(f"{sentence(i, 3)} {('cat', 'house')[i % 2]}", ("zebra", "ape")[i % 2]) for i in range(100, 160)]
    write("zoo/train.csv", "text,label\n" + "".join(f"{text},{label}\n" for text, label in train))
    folder = write("zoo/test.jsonl", json_lines(*({"text": text, "label": label} for text, label in test))).parent
    task = own_task(folder)
    classifier = LogisticRegression(max_iter=100)
    classifier.fit(model.encode([text for text, _ in train]), [label for _, label in train])
    expected = classifier.score(model.encode([text for text, _ in test]), [label for _, label in test])
    assert task.metadata.name == "zoo"
    assert 0.5 < expected < 1
    assert evaluate(model, task)["main_score"] == pytest.approx(expected, abs=1 / 60)


def test_labelled_texts_train_a_classifier_on_every_row_to_train_on(write: Write, model: SentenceTransformer) -> None:
    task = own_task(write("t.csv", "text,label\n" + "".join(f"{sentence(i)},{i % 3}\n" for i in range(120))))
    task.load_data()
    train, test = task.dataset["train"], task.dataset["test"]
    assert (len(train), len(test)) == (60, 60)
    scores = evaluate(model, type(task)())
    classifier = LogisticRegression(max_iter=100).fit(model.encode(train["text"][:]), train["label"][:])
    expected = classifier.score(model.encode(test["text"][:]), test["label"][:])
    assert scores["main_score"] == pytest.approx(expected, abs=1.5 / 60)  # the order of rows decides close calls
    assert len(scores["scores_per_experiment"]) == 1


@pytest.mark.parametrize(("as_", "kind"), [(None, "Classification"), ("clustering", "Clustering")])
def test_texts_that_are_the_same_within_a_label_are_told_apart(
    write: Write, model: SentenceTransformer, as_: Any, kind: str
) -> None:
    texts = ["the cat sleeps", "music and guitar", "red green blue"]
    task = own_task(
        write("easy.tsv", "text\tlabel\n" + "".join(f"{texts[i % 3]}\t{-(i % 3)}\n" for i in range(60))), as_
    )
    assert task.metadata.type == kind
    assert evaluate(model, task)["main_score"] == pytest.approx(1.0)


def test_a_split_that_lacks_a_label_can_be_scored(write: Write, model: SentenceTransformer) -> None:
    # one row of b: the test half has two labels of three, for which mteb computes a score of binary tasks
    rows = "".join(f"{sentence(i)},{'ac'[i % 2]}\n" for i in range(20))
    scores = evaluate(model, own_task(write("three.csv", f"text,label\n{sentence(99)},b\n{rows}")))
    assert 0 <= scores["main_score"] <= 1
    assert 0 < scores["ap"] <= 1


class Counting(AbsEncoder):
    """Sums of random vectors of words; keeps the texts it was given."""

    def __init__(self) -> None:
        self.model = None
        self.model_prompts = None
        self.texts: list[str] = []
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={"name": "test/words", "revision": "1", "similarity_fn_name": ScoringFunction.COSINE}
        )

    def embed(self, texts: list[str]) -> np.ndarray:
        words = {word for text in texts for word in text.lower().split()}
        vectors = {word: np.random.default_rng(zlib.crc32(word.encode())).standard_normal(64) for word in words}
        nothing = np.full(64, 1e-3)
        return unit(np.stack([sum((vectors[word] for word in text.lower().split()), nothing) for text in texts]))

    def encode(self, inputs: Any, **kwargs: Any) -> np.ndarray:
        texts = [text for batch in inputs for text in batch["text"]]
        self.texts += texts
        return self.embed(texts)


@pytest.mark.slow
def test_clustering_embeds_every_text(write: Write) -> None:
    texts = [f"{sentence(i)} {i}" for i in range(50)]
    task = own_task(
        write("t.csv", "text,label\n" + "".join(f"{t},{i % 2}\n" for i, t in enumerate(texts))), "clustering"
    )
    encoder = Counting()
    evaluate(encoder, task)
    assert sorted(encoder.texts) == sorted(texts)


# task objects


@pytest.mark.slow
@pytest.mark.parametrize("as_", ["classification", "clustering"])
def test_fresh_copies_give_identical_results(write: Write, model: SentenceTransformer, as_: Any) -> None:
    rows = "".join(f"{sentence(i)},{i % 3}\n" for i in range(90))
    task = own_task(write("t.csv", "text,label\n" + rows), as_)
    first = evaluate(model, task)
    assert first["main_score"] < 0.9  # it depends on what is drawn
    assert evaluate(model, type(task)()) == first
    assert evaluate(model, own_task(task.metadata.dataset["path"], as_)) == first


def test_copies_share_rows_and_nothing_else(write: Write) -> None:
    folder = beir(write)
    first = own_task(folder)
    second = type(first)()
    assert not first.data_loaded
    assert first.metadata == second.metadata
    assert first.rng_state is not second.rng_state
    for task in (first, second):
        task.load_data()
    first.dataset["default"]["test"]["relevant_docs"]["q1"]["d9"] = 1
    del first.dataset["default"]["test"]["corpus"]
    assert second.dataset["default"]["test"]["relevant_docs"] == {"q1": {"d1": 1}, "q2": {"d2": 2}}
    assert second.dataset["default"]["test"]["corpus"]["id"][:] == ["d1", "d2", "d3"]
    second.unload_data()
    second.load_data()
    assert len(second.dataset["default"]["test"]["queries"]) == 2


def test_files_are_parsed_once_until_they_change(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "text,label\na,1\na,1\nb,2\nb,2\n"
    file = write("t.csv", content)
    task = own_task(file)
    with monkeypatch.context() as patched:
        patched.setattr("mrl_text.eval.own_data.read_columns", lambda *_: pytest.fail("parsed again"))
        assert type(own_task(str(file))) is type(task)
    revision = task.metadata.dataset["revision"]
    assert len(revision) == 16
    assert int(revision, 16) >= 0
    assert own_task(write("copy/t.csv", content)).metadata.dataset["revision"] == revision
    assert own_task(file, "clustering").metadata.dataset["revision"] != revision
    changed = own_task(write("t.csv", content.replace("b,2", "c,2")))
    assert changed.metadata.dataset["revision"] != revision
    changed.load_data()
    assert set(changed.dataset["test"]["text"]) == {"a", "c"}


def test_metadata_says_what_mteb_wants_to_know(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("my pairs.csv", "sentence1,sentence2,label\na,b,0\na,b,1\n")
    monkeypatch.chdir(tmp_path)
    metadata = own_task("my pairs.csv").metadata
    assert (metadata.name, metadata.type) == ("my-pairs", "PairClassification")
    assert metadata.dataset["path"] == str(tmp_path / "my pairs.csv")
    assert (metadata.modalities, metadata.eval_splits) == (["text"], ["test"])
    assert metadata.hf_subsets == ["default"]
    beir(write)
    monkeypatch.chdir(tmp_path / "beir")
    assert own_task(".").metadata.name == "beir"
    assert own_task("../beir/qrels/..").metadata.name == "beir"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("mrpc-pairs.csv", "mrpc-pairs"),
        ("a/My Data (v2).JSONL", "My-Data-v2"),
        ("folder.with.dots", "folder.with.dots"),
        ("a.b.parquet", "a.b"),
        ("über & unter.tsv", "über-unter"),
        ("..csv", "own-data"),
        ("???.csv", "own-data"),
        ('a\\b:c*"d".csv', "a-b-c-d"),
        ("x" * 200 + ".csv", "x" * 80),
    ],
)
def test_names_are_safe_in_file_names(path: str, name: str) -> None:
    assert task_name(Path(path)) == name


# reading


def test_every_type_of_file_gives_the_same_rows(write: Write, tmp_path: Path) -> None:
    rows = {"text": ['a "b", c', "d\ne", "f\tg", "h\u2028i", "ü" * 200_000], "label": [3, -1, 3, -1, 3]}
    frame = pd.DataFrame(rows).assign(extra=None)
    csv.field_size_limit(131_072)  # what Python starts with
    for name, separator in (("csv", ","), ("tsv", "\t")):
        frame.to_csv(tmp_path / f"a.{name}", sep=separator, index=False)
        frame.to_csv(tmp_path / f"b.{name}", sep=separator, index=False, encoding="utf-8-sig", lineterminator="\r\n")
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    frame.astype({"label": "category"}).to_parquet(tmp_path / "b.parquet", index=False)
    lines = frame.to_json(orient="records", lines=True, force_ascii=False)
    write("a.jsonl", lines)
    write("b.json", "\ufeff\r\n" + lines.replace("\n", "\r\n\r\n"))
    for file in sorted(tmp_path.iterdir()):
        task = own_task(file, "clustering")
        task.load_data()
        assert task.dataset["test"]["text"][:] == rows["text"], file.name
        assert task.dataset["test"]["label"][:] == [1, 0, 1, 0, 1], file.name


def test_a_label_is_the_same_however_it_is_written(write: Write) -> None:
    labels = [True, "true ", False, "false", 1, "1", 1.0, " 1"]
    rows = [{"text": str(row), "label": label} for row, label in enumerate(labels)]
    task = own_task(write("t.jsonl", json_lines(*rows)), "clustering")
    task.load_data()
    assert task.dataset["test"]["label"][:] == [2, 2, 1, 1, 0, 0, 0, 0]


def test_a_single_file_is_split_in_halves_by_label(write: Write) -> None:
    labels = ["a"] * 20 + ["b"] * 7 + ["c"]
    file = write("t.csv", "text,label\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels)))
    task = own_task(file)
    task.load_data()
    train, test = (task.dataset[name]["text"][:] for name in ("train", "test"))
    assert Counter(labels[int(text)] for text in train) == {"a": 10, "b": 4, "c": 1}
    assert Counter(labels[int(text)] for text in test) == {"a": 10, "b": 3}
    assert sorted(map(int, [*train, *test])) == list(range(28))
    assert not {tuple(train[:10]), tuple(test[:10])} & {tuple(map(str, range(10)))}  # not simply the first ones
    again = own_task(write("other/t.csv", file.read_bytes()))
    again.load_data()
    assert again.dataset["train"]["text"][:] == train


@pytest.mark.parametrize(
    ("present", "chosen"), [("train dev test", "test"), ("train validation dev", "dev"), ("validation x", "validation")]
)
def test_the_judgements_of_the_test_split_are_used_if_there_are_any(write: Write, present: str, chosen: str) -> None:
    folder = beir(write, split="only")
    assert own_task(folder).metadata.eval_splits == ["test"]  # a single file has whatever name
    (folder / "qrels" / "only.tsv").unlink()
    for split in present.split():
        grade = 7 if split == chosen else 1
        write(f"beir/qrels/{split}.tsv", f"query-id\tcorpus-id\tscore\nq1\td3\t{grade}\n")
    task = own_task(folder)
    task.load_data()
    assert task.dataset["default"]["test"]["relevant_docs"] == {"q1": {"d3": 7}}


# errors

PAIRS = "sentence1,sentence2,score\n"
LABELLED = "sentence1,sentence2,label\n"
TEXTS = "text,label\n"
GOOD = '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", PAIRS + "a,b,1\na,b\n", "t.csv, line 3: has 2 cells where the header has 3"),
        ("t.csv", PAIRS + '"a\nb\nc",b,1\na,b,2,3\n', "line 5: has 4 cells"),
        ("t.csv", PAIRS + "\r\na,b,1\r\n\r\na, ,2\r\n", "line 5: sentence2 is empty"),
        ("t.csv", "\ufeff" + PAIRS + '"x\r\ny",b,1\r\n,b,2\r\n', "line 4: sentence1 is empty"),
        ("t.csv", PAIRS + "a,b,1\na,b,high\n", "line 3: score is 'high', not a number"),
        ("t.csv", PAIRS + "a,b,\na,b,1\n", "line 2: score is empty"),
        ("t.csv", PAIRS + "a,b,nan\n", "line 2: score is 'nan', not a finite number"),
        ("t.csv", PAIRS + "a,b,-inf\n", "line 2: score is '-inf', not a finite number"),
        ("t.csv", PAIRS + "a,b,1_0\n", "line 2: score is '1_0', not a number"),
        ("t.csv", PAIRS + 'a,b,1\n"a" b,c,2\na,b,3\n', "line 3: its quotes do not match"),
        ("t.csv", PAIRS + 'a,b,1\n"a,c,2\na,b,3\n', "line 3: its quotes do not match"),
        ("t.tsv", PAIRS.replace(",", "\t") + "a\tb\t1\na\tb\n", "t.tsv, line 3: has 2 cells"),
        ("t.csv", LABELLED + "a,b,1\na,b,2\n", "line 3: label is '2': the label of a pair is 0 or 1"),
        ("t.csv", LABELLED + "a,b,yes\n", "line 2: label is 'yes': the label of a pair is 0 or 1"),
        ("t.csv", LABELLED + "a,b,nan\n", "line 2: label is 'nan': the label of a pair is 0 or 1"),
        ("t.csv", TEXTS + "a,\nb,2\n", "line 2: label is empty"),
        ("t.jsonl", GOOD + "{'text': 1}\n", "t.jsonl, line 3: is not valid JSON (Expecting property name"),
        ("t.jsonl", GOOD + "\n[1]\n", "line 4: is [1], not a JSON object"),
        ("t.jsonl", GOOD + '{"text": "a"}\n', "line 3: label is missing"),
        ("t.jsonl", '{"text": "a"}\n' + GOOD, "line 1: label is missing"),
        ("t.jsonl", GOOD + '{"text": null, "label": 1}\n', "line 3: text is missing"),
        ("t.jsonl", GOOD + '{"text": 5, "label": 1}\n', "line 3: text is 5, not text"),
        ("t.jsonl", GOOD + '{"text": ["a"], "label": 1}\n', "line 3: text is ['a'], not text"),
        ("t.jsonl", GOOD + '{"text": " ", "label": 1}\n', "line 3: text is empty"),
        ("t.jsonl", GOOD + '{"text": "a", "label": 1.5}\n', "line 3: label is 1.5, not text"),
        ("t.jsonl", GOOD + '{"text": "\\ud800", "label": 1}\n', "line 3: text is '\\ud800', which holds half a"),
        ("t.jsonl", GOOD + "[" * 100_000 + "\n", "line 3: is not valid JSON"),
        ("t.jsonl", '{"sentence1": "a", "sentence2": "b", "score": NaN}', "line 1: score is nan, not a finite"),
        ("t.jsonl", '{"sentence1": "a", "sentence2": "b", "score": "1"}', "line 1: score is '1', not a number"),
        ("t.jsonl", '{"sentence1": "a", "sentence2": "b", "score": 1' + "0" * 400 + "}", "line 1: score is 1000"),
        ("t.jsonl", '{"sentence1": "a", "sentence2": "b", "label": true}', "line 1: label is True: the label of a"),
    ],
)
def test_a_malformed_row_is_named_with_its_line(write: Write, name: str, content: str, expected: str) -> None:
    with pytest.raises(ValueError) as raised:
        own_task(write(name, content))
    assert str(raised.value).startswith(str(write(name, content)) + " has 1 problem to fix: ")
    assert expected in str(raised.value)


def test_rows_of_parquet_are_counted_from_one(tmp_path: Path) -> None:
    rows = {"sentence1": ["a", None, "c", " "], "sentence2": ["a"] * 4, "score": [1.0, 2.0, float("inf"), 3.0]}
    pd.DataFrame(rows).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError) as raised:
        own_task(tmp_path / "t.parquet")
    assert [part.split(": ", 1)[0] for part in str(raised.value).split("fix: ")[1].split("; ")] == [
        f"t.parquet, row {row}" for row in (2, 3, 4)
    ]
    pd.DataFrame({"text": [1, 2], "label": [1, 2]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"2 problems .* row 1: text is 1, not text"):
        own_task(tmp_path / "t.parquet")


def test_five_problems_are_shown_in_order_and_the_others_counted(write: Write) -> None:
    rows = ["a,b,1"] * 6 + ["a,b,1", ",b,1", "a,b,x", "a,b", ",,y", "a,b,nan", "a,b,1", "a,,1"]
    with pytest.raises(ValueError) as raised:
        own_task(write("t.csv", PAIRS + "\n".join(rows)))
    shown = str(raised.value).split("fix: ")[1].split("; ")
    assert [part.split(":")[0] for part in shown] == [f"t.csv, line {line}" for line in (9, 10, 11, 12, 12)] + [
        "... and 3 more"
    ]
    assert "has 8 problems" in str(raised.value)


JUDGED = "query-id\tcorpus-id\tscore\n"
TITLED = '{"_id": "d1", "title": "the", "text": "a"}\n{"_id": "d2", "text": "b"}\n'
ASKED = '{"_id": "q1", "text": "a"}\n{"_id": "q2", "text": "b"}\n'


@pytest.mark.parametrize(
    ("part", "content", "expected"),
    [
        ("corpus", TITLED + '{"_id": "d1", "text": "c"}\n', ["corpus.jsonl, line 3: _id 'd1' is used before"]),
        ("corpus", TITLED + '{"_id": "d3", "text": 5}\n', ["corpus.jsonl, line 3: text is 5, not text"]),
        ("corpus", TITLED + '{"_id": "d3"}\n', ["corpus.jsonl, line 3: text is missing"]),
        ("corpus", TITLED + '{"text": "c"}\n', ["corpus.jsonl, line 3: _id is missing"]),
        ("corpus", TITLED + '{"_id": 1.5, "text": "c"}\n', ["corpus.jsonl, line 3: _id is 1.5, not text"]),
        ("corpus", TITLED + '{"_id": "d3", "text": "c", "title": 1}\n', ["line 3: title is 1, not text"]),
        ("corpus", TITLED + "nothing\n", ["corpus.jsonl, line 3: is not valid JSON"]),
        ("queries", ASKED + '{"_id": "q2", "text": "c"}\n', ["queries.jsonl, line 3: _id 'q2' is used before"]),
        ("queries", ASKED + '{"_id": "q3", "text": ""}\n', ["queries.jsonl, line 3: text is empty"]),
        ("qrels", JUDGED + "q1\td1\t1\nq3\td1\t1\n", ["test.tsv, line 3: query-id 'q3' is not in queries.jsonl"]),
        ("qrels", JUDGED + "q1\td1\t1\nq1\td4\t1\n", ["test.tsv, line 3: corpus-id 'd4' is not in corpus.jsonl"]),
        ("qrels", JUDGED + "q1\td1\t1\nq1\td2\t-1\n", ["test.tsv, line 3: score is '-1', not a whole number from 0"]),
        ("qrels", JUDGED + "q1\td1\t0.5\n", ["test.tsv, line 2: score is '0.5', not a whole number from 0"]),
        ("qrels", JUDGED + "q1\td1\tyes\n", ["test.tsv, line 2: score is 'yes', not a number"]),
        ("qrels", JUDGED + "q1\td1\t1\nq1\td1\n", ["test.tsv, line 3: has 2 cells"]),
        ("qrels", JUDGED + "q1\td1\t1\nq1\td1\t2\n", ["test.tsv, line 3: judges 'q1' and 'd1' as 2", "earlier"]),
        ("qrels", JUDGED + "q1\td1\t0\nq2\td1\t0\n", ["test.tsv has no positive judgement"]),
        (
            "qrels",
            "q1\td1\t1\nq2\td1\t1\n",
            ["test.tsv has the columns 'q1', 'd1', '1'; it needs (query-id, corpus-id, score)"],
        ),
        ("qrels", "query_id\tcorpus-id\tscore\n", ["test.tsv has no rows under its columns 'query_id'"]),
        ("qrels", "query_id\tcorpus-id\tscore\na\tb\t1\n", ["for 'query_id' did you mean 'query-id'?"]),
        ("queries", '{"id": "q1", "text": "a"}\n', ["test.tsv, line 3: query-id 'q2' is not in queries.jsonl"]),
        ("corpus", '{"name": "d1", "text": "a"}\n', ["corpus.jsonl has the columns 'name', 'text'", "add _id"]),
    ],
)
def test_a_malformed_beir_folder_is_named_with_file_and_line(
    write: Write, part: str, content: str, expected: list[str]
) -> None:
    with pytest.raises(ValueError) as raised:
        own_task(beir(write, **{"corpus": TITLED, "queries": ASKED, part: content}))
    for words in expected:
        assert words in str(raised.value)


def test_problems_of_all_files_are_reported_together(write: Write) -> None:
    folder = beir(
        write,
        corpus=TITLED + '{"_id": "d3"}\n',
        queries=ASKED + "x\n",
        qrels=JUDGED + "q1\td3\t1\nq9\td1\t1\n",  # d3 has no text, but it is known
    )
    with pytest.raises(ValueError, match=r"beir has 3 problems .*corpus.*queries.*line 3: query-id 'q9'"):
        own_task(folder)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (TEXTS.encode() + b"a,1\nb\xe4,2\n", "t.csv, line 3: is not UTF-8 .byte 0xe4 behind 'b'.: save it as UTF-8"),
        ("text".encode("utf-16"), "t.csv is UTF-16: save it as UTF-8"),
    ],
)
def test_a_file_that_is_not_utf8_is_named_with_line_and_byte(write: Write, content: bytes, place: str) -> None:
    with pytest.raises(ValueError, match=place):
        own_task(write("t.csv", content))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "", "is empty"),
        ("t.csv", "\ufeff\r\n", "is empty"),
        ("t.jsonl", " \n", "is empty"),
        ("t.parquet", b"", "is empty"),
        ("t.csv", TEXTS, "has no rows"),
        ("t.csv", "text,label,text\na,b,c\n", "names the column 'text' twice"),
        ("t.csv", "Text,label\na,b\n", "'Text', 'label'; it needs .*: for 'Text' did you mean 'text'?"),
        ("t.csv", "sentence1,sentence2,labels\na,b,1\n", "for 'labels' did you mean 'label'?"),
        ("t.csv", "sentence1,sentence2\na,b\n", r"\(text, label\): add score, or add label"),
        (
            "t.csv",
            "foo,bar\na,b\n",
            (
                r"'foo', 'bar'; it needs pairs with a score \(sentence1, sentence2, score\) or pairs labelled 0 or 1"
                r" \(sentence1, sentence2, label\) or labelled texts \(text, label\): say which is which,"
                r" as --columns text=f"
            ),
        ),
        (
            "t.csv",
            "question,answer,label\na,b,1\n",
            r"as --columns sentence1=question,sentence2=answer, or --columns text=question$",
        ),
        ("t.csv", "sentence1,sentence2,score,label\na,b,1,1\n", "fit .* and .*: leave out"),
        ("t.csv", '"text"s,label\na,b\nc,d\n', "line 1: its quotes do not match"),
        ("t.json", '[{"text": "a", "label": "b"}, 7]', "row 2: is 7, not a JSON object"),
        ("t.parquet", b"PAR1 and nothing", "cannot be read as Parquet"),
        ("t.xlsx", "x", "none of the types that can be read: .jsonl, .ndjson, .json, .csv, .tsv, .parquet"),
        ("t.csv", TEXTS + "a,x\nb,x\n", "the only label is 'x'; at least two"),
        ("t.csv", TEXTS + "a,x\nb,y\n", "no label has two rows"),
        ("t.csv", LABELLED + "a,b,1\na,c,1\n", "every label is 1; at least two different"),
        ("t.csv", PAIRS + "a,b,2.5\na,c,2.5\n", "every score is 2.5; at least two different"),
    ],
)
def test_data_that_cannot_be_evaluated_is_refused(write: Write, name: str, content: str | bytes, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        own_task(write(name, content))


def test_what_is_not_there_is_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no data file at .*nothing\.csv"):
        own_task(tmp_path / "nothing.csv")
    with pytest.raises(FileNotFoundError, match=r"none of train\.jsonl.*corpus\.jsonl"):
        own_task(tmp_path)
    folder = beir(write)
    write("beir/qrels/first.tsv", JUDGED)
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "second.tsv")
    with pytest.raises(FileNotFoundError, match=r"qrels has first, second: name .* test\.tsv"):
        own_task(folder)
    (folder / "corpus.jsonl").unlink()
    (folder / "qrels" / "first.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"beir lacks corpus\.jsonl"):
        own_task(folder)


def test_the_files_of_a_beir_folder_may_be_compressed(write: Write) -> None:
    folder = beir(write)
    plain = read_own_data(folder)
    for file in [file for file in folder.rglob("*.*") if file.is_file()]:
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    found = read_own_data(folder)
    assert sorted(file.name for file in found.parts.values()) == ["corpus.jsonl.gz", "queries.jsonl.gz", "test.tsv.gz"]
    assert (found.kind, found.tables, found.relevant) == (plain.kind, plain.tables, plain.relevant)


def test_only_labelled_texts_can_be_clustered(write: Write) -> None:
    with pytest.raises(ValueError, match=r"as 'clusters' is unknown; did you mean 'clustering'\?"):
        own_task("t.csv", "clusters")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"it needs labelled texts \(text, label\)"):
        own_task(write("t.csv", PAIRS + "a,b,1\n"), "clustering")
    with pytest.raises(ValueError, match="retrieval"):
        own_task(beir(write), "classification")
    write("split/train.csv", TEXTS + "a,x\n")
    folder = write("split/test.csv", TEXTS + "a,x\n").parent
    with pytest.raises(ValueError, match="clustering takes one table"):
        own_task(folder, "clustering")
    write("split/test.csv", PAIRS + "a,b,1\n")
    with pytest.raises(ValueError, match=r"test\.csv has pairs"):
        own_task(folder)
    write("split/test.tsv", TEXTS)
    with pytest.raises(ValueError, match=r"test\.csv and test\.tsv: keep one"):
        own_task(folder)


def test_empty_documents_and_labels_without_training_rows_are_told(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    own_task(beir(write, corpus=json_lines(*({"_id": f"d{i}", "text": " " * i} for i in (1, 2, 3)))))
    assert "3 of 3 documents are empty" in caplog.text
    write("split/train.csv", TEXTS + "a,x\nb,y\n")
    own_task(write("split/test.csv", TEXTS + "a,x\nb,z\n").parent)
    assert "no row to train on has the label z" in caplog.text


# real data


@pytest.mark.data
def test_cranfield(test_data: Path) -> None:
    task = own_task(test_data / "own-data" / "cranfield")
    task.load_data()
    split = task.dataset["default"]["test"]
    relevant = split["relevant_docs"]
    assert (len(split["corpus"]), len(split["queries"]), sum(map(len, relevant.values()))) == (1400, 225, 1612)
    encoder = Counting()
    texts = [f"{row['title']} {row['text']}".strip() for row in split["corpus"]]
    grades = np.array([[relevant[query].get(name, 0) for name in split["corpus"]["id"]] for query in relevant])
    queries = dict(zip(split["queries"]["id"], split["queries"]["text"], strict=True))
    expected = ndcg_at_10(encoder.embed([queries[query] for query in relevant]), encoder.embed(texts), grades)
    assert expected > 0.05
    assert evaluate(encoder, task)["main_score"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.data
def test_mrpc_pairs(test_data: Path) -> None:
    task = own_task(test_data / "own-data" / "mrpc-pairs.csv")
    task.load_data()
    data = task.dataset["test"]
    assert (task.metadata.name, task.metadata.type, len(data)) == ("mrpc-pairs", "PairClassification", 1725)
    assert Counter(data["labels"]) == {0: 578, 1: 1147}
    encoder = Counting()
    left, right = (encoder.embed(data[name][:]) for name in ("sentence1", "sentence2"))
    expected = average_precision((left * right).sum(axis=1), np.array(data["labels"]))
    assert evaluate(encoder, task)["cosine_ap"] == pytest.approx(expected, abs=1e-3)  # equal cosines have no order


@pytest.mark.data
@pytest.mark.parametrize(
    ("as_", "rows", "least"),  # drawing lots gives 0.05 and less than 0.01
    [("classification", {"train": 3004, "test": 2996}, 0.15), ("clustering", {"test": 6000}, 0.05)],
)
def test_stackoverflow(test_data: Path, as_: Any, rows: dict[str, int], least: float) -> None:
    task = own_task(test_data / "own-data" / "stackoverflow-clustering.csv", as_)
    task.load_data()
    assert {name: len(split) for name, split in task.dataset.items()} == rows
    assert set(task.dataset["test"]["label"]) == set(range(20))
    if as_ == "clustering":
        task.n_clusters = 1  # ten experiments on 16,384 draws take long for a test
    assert evaluate(Counting(), task)["main_score"] > least
