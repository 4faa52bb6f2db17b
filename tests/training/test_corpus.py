from __future__ import annotations

import functools
import itertools
import json
import logging
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset
from sentence_transformers import SentenceTransformerTrainingArguments
from sentence_transformers.base.training_args import BatchSamplers

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.training.batches import SAMPLERS, WeightedBatchSampler
from mrl_text.training.corpus import (
    batch_arguments,
    check_batches,
    check_data,
    load_training_data,
    source_prompts,
    source_samplers,
    training_prompts,
)
from mrl_text.training.recipe import Recipe

Row = dict[str, Any]
ROWS: list[Row] = [
    {"anchor": f"anchor number {index}", "positive": f"its positive number {index}"} for index in range(8)
]
LEAK: Row = {"anchor": "a QUESTION  that is asked", "positive": "and an answer to it"}


def write(file: Path, rows: list[Row]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def recipe(
    sources: list[Any],
    *,
    training: Any = None,
    prompts: Any = None,
    tasks: Any = (),
    loss: Any = None,
    name: str = "some/model",
    **data: Any,
) -> Recipe:
    train = [source if isinstance(source, dict) else {"source": source} for source in sources]
    return Recipe.model_validate(
        {
            "model": {"name": name, "prompts": prompts or {}},
            "data": {"train": train, **data},
            "loss": {"dims": [8], **(loss or {})},
            "training": training or {},
            "eval": {"tasks": list(tasks)},
        }
    )


def test_repeated_rows_are_left_out_inside_sources_and_across(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shouted = {name: f" {text.upper()} " for name, text in ROWS[1].items()}
    half = {"anchor": ROWS[0]["anchor"], "positive": "another positive"}  # not the same row
    first = write(tmp_path / "a.jsonl", [*ROWS[:4], ROWS[0], shouted, half])
    second = write(tmp_path / "b.jsonl", [ROWS[2], *ROWS[4:]])
    with caplog.at_level(logging.INFO):
        loaded = load_training_data(recipe([first, second]))
    assert isinstance(loaded, DatasetDict)
    assert [part.to_list() for part in loaded.values()] == [[*ROWS[:4], half], ROWS[4:]]
    assert "1 a: 2 of 7 rows were there before and are left out" in caplog.text
    assert "2 b: 1 of 5 rows were there before and are left out" in caplog.text
    kept = load_training_data(recipe([first, second], deduplicate=False))
    assert [len(part) for part in kept.values()] == [7, 5]


def test_a_source_of_repeats_alone_is_refused(tmp_path: Path) -> None:
    sources = [write(tmp_path / f"{name}.jsonl", ROWS) for name in "ab"]
    with pytest.raises(ValueError, match=r"^2 b: no row is left without repeats and evaluation texts"):
        load_training_data(recipe(sources))


@pytest.fixture
def leaking(tmp_path: Path) -> dict[str, Any]:
    """A source with a text of an evaluation file in its sixth row and another in its last."""
    train = write(tmp_path / "train.jsonl", [*ROWS[:5], LEAK, *ROWS[5:], {**ROWS[0], "positive": "It is asked, too."}])
    queries = write(tmp_path / "eval.jsonl", [{"text": "A question that is asked"}, {"text": "it is asked, too."}])
    return {"sources": [train], "check_against": [queries]}


def test_evaluation_texts_in_the_training_data_are_refused(leaking: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as refused:
        load_training_data(recipe(**leaking))
    message = str(refused.value)
    assert "2 of 10 rows of train have a text that is also in" in message
    assert f"{leaking['check_against'][0]}, first row 6: 'a QUESTION  that is asked'" in message
    assert "data.on_leak=drop" in message
    assert "\n" not in message


def test_leaking_rows_are_dropped_or_kept_as_told(leaking: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    dropped = load_training_data(recipe(**leaking, on_leak="drop"))
    assert isinstance(dropped, Dataset)
    assert dropped.to_list() == ROWS
    assert "2 of 10 rows of train have a text" in caplog.text
    assert "they are left out" in caplog.text
    allowed = load_training_data(recipe(**leaking, on_leak="allow"))
    assert len(allowed) == 10
    assert "trained on as told" in caplog.text
    leaking["check_against"] = []
    assert len(load_training_data(recipe(**leaking))) == 10


def test_the_evaluation_tasks_are_checked_unless_told_otherwise(
    leaking: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the task's data the warning shows what was looked for."""
    leaking["check_against"] = None
    load_training_data(recipe(**leaking, tasks=["STSBenchmark"], mirror=str(tmp_path)))
    assert "NOT CHECKED: whether texts of STSBenchmark are" in caplog.text


@pytest.mark.data
def test_sentences_of_a_task_are_found_in_training_data(test_data: Path, tmp_path: Path) -> None:
    task = test_data / "mteb-mirror" / "mteb" / "stsbenchmark-sts"
    test = datasets.Dataset.from_parquet(str(task / "test.parquet"), cache_dir=str(tmp_path / "cache"))
    rows = [{"anchor": test[index]["sentence1"].upper(), "positive": "a fine and new text"} for index in range(100)]
    source = write(tmp_path / "train.jsonl", [*ROWS, *rows])
    options = {"tasks": ["STSBenchmark"], "mirror": str(test_data / "mteb-mirror")}
    with pytest.raises(ValueError, match=r"rows of train have a text that is also in STSBenchmark, first row"):
        load_training_data(recipe([source], **options))
    kept = load_training_data(recipe([source], **options, on_leak="drop"))
    short = sum(len(row["anchor"].split()) < 4 for row in rows)
    assert len(kept) == len(ROWS) + short


@pytest.mark.data
def test_no_training_text_of_the_test_data_is_in_its_evaluation_data(test_data: Path) -> None:
    tasks = ["STSBenchmark", "STS12", "STS13", "SICK-R", "SciFact"]
    files = ["captions", "parasci", "nli-triplets"]
    sources = [str(test_data / "train" / f"{name}.parquet") for name in files]
    load_training_data(recipe(sources, tasks=tasks, mirror=str(test_data / "mteb-mirror")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "data.stream: nobody knows where a stream ends: set training.max_steps"),
        ({"training": {"max_steps": -1}}, "set training.max_steps"),
        ({"training": {"max_steps": 5}, "tasks": ["STSBenchmark"]}, "set data.on_leak=drop"),
        ({"training": {"max_steps": 5}, "loss": {"distill_weight": 1.0}}, "distil with loss.teacher=self"),
        ({"training": {"max_steps": 5}, "loss": {"name": "rotation"}}, "leave stream out, or the rotation"),
        ({"loss": {"name": "rotation"}}, "leave stream out, or the rotation"),
    ],
)
def test_a_stream_needs_an_end_and_no_surprises(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    source = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(ValueError, match=message):
        check_data(recipe([source], stream=True, **options))


def test_a_stream_leaves_out_evaluation_texts_as_they_come(leaking: dict[str, Any]) -> None:
    options: dict[str, Any] = {"stream": True, "training": {"max_steps": 5}}
    stream = load_training_data(recipe(**leaking, **options, on_leak="drop"))
    assert isinstance(stream, IterableDataset)
    found = [row["anchor"] for row in itertools.islice(stream, 16)]
    assert sorted(found) == sorted(2 * [row["anchor"] for row in ROWS])
    allowed = load_training_data(recipe(**leaking, **options, on_leak="allow"))
    assert LEAK in list(itertools.islice(allowed, 10))


def test_check_data_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no training data at .*missing.csv"):
        check_data(recipe([str(tmp_path / "missing.csv")]))


@pytest.mark.parametrize(
    ("prompts", "default", "query", "document"),
    [
        ({"query": "query: ", "document": "passage: "}, None, "query: ", "passage: "),
        ({"query": "query: ", "passage": "passage: "}, None, "query: ", "passage: "),
        ({"query": "find: "}, None, "find: ", ""),
        ({"all": "text: ", "query": ""}, "all", "", "text: "),
    ],
)
def test_anchors_get_the_models_query_prompt_and_all_others_its_document_prompt(
    tiny_bert: Path, prompts: dict[str, str], default: str | None, query: str, document: str
) -> None:
    data = DatasetDict(
        {
            "a": Dataset.from_list([{"anchor": "a", "positive": "b", "label": 1.0}]),
            "b": Dataset.from_list([{"anchor": "a", "positive": "b", "negative": "c", "negative_2": "d"}]),
        }
    )
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    assert training_prompts(model, data) is None
    model.prompts = dict(prompts)
    model.default_prompt_name = default
    assert training_prompts(model, data) == {
        "anchor": query,
        **dict.fromkeys(["positive", "negative", "negative_2"], document),
    }
    assert training_prompts(model, data["a"]) == {"anchor": query, "positive": document}


def faq(questions: int, answers: int, **columns: Any) -> Dataset:
    rows = [{"anchor": f"question {row}", "positive": f"answer {row % answers}", **columns} for row in range(questions)]
    return Dataset.from_list(rows)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (
            faq(1000, 20),
            {"batch_size": 64, "drop_last": True},
            "1,000 rows with only 20 different texts .* batch of 64",
        ),
        (faq(64, 64), {"batch_size": 100_000, "drop_last": True}, "64 rows make no batch of 100,000 .* to 64 at most$"),
        (faq(1, 1), {"batch_size": 8}, "there is only one row: name more data, and a batch of one row has"),
        (faq(9, 1), {"batch_size": 8}, "all 9 rows share a text"),
        (faq(9, 9), {"batch_size": 1}, "training.per_device_train_batch_size=1: set 2 or more, and a batch of one row"),
        (
            faq(1000, 20),
            {"batch_size": 64, "processes": 2},
            "50 of 1,000 rows share a text, .* 2 processes .*train_batch_size=20 .*dataloader_drop_last=true",
        ),
    ],
)
def test_data_of_which_no_batch_can_be_made_is_refused(data: Dataset, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^a: {words}" if "processes" not in options else words):
        check_batches(recipe(["a.csv"]), data, **{"drop_last": False, **options})


def test_one_row_is_enough_where_it_brings_something_to_tell_apart() -> None:
    check_batches(recipe(["a.csv"]), faq(1, 1, negative="no answer"), batch_size=8, drop_last=False)
    distilled = recipe(["a.csv"], loss={"name": "self_distillation"})
    check_batches(distilled, faq(1, 1), batch_size=8, drop_last=False)
    with pytest.raises(ValueError, match="a batch of one row"):
        check_batches(distilled, faq(1, 1).select_columns("anchor"), batch_size=8, drop_last=False)


@pytest.mark.parametrize(
    ("data", "batch_size", "drop_last", "words"),
    [
        (
            faq(1000, 20),
            64,
            False,
            "50 of 1000 rows share a text, .* 50 batches of at most 20 rows, not of 64; .*_steps=3 ",
        ),
        (faq(100, 100), 64, True, "an epoch has 1 batches of 64 rows; 36 of 100 rows, others each time, are left out"),
        (faq(10, 10), 64, False, "a batch has 10 rows, which is all there are, not 64"),
        (faq(128, 128), 64, True, None),
        (faq(100, 50), 20, False, None),
    ],
)
def test_smaller_batches_and_rows_left_out_of_an_epoch_are_said(
    caplog: pytest.LogCaptureFixture, data: Dataset, batch_size: int, drop_last: bool, words: str | None
) -> None:
    with caplog.at_level(logging.INFO):
        check_batches(recipe(["a.csv"]), data, batch_size=batch_size, drop_last=drop_last)
    assert re.search(words, caplog.text) if words else not caplog.records


def test_a_source_without_a_batch_beside_others_is_named(caplog: pytest.LogCaptureFixture) -> None:
    data = DatasetDict({"1 large": faq(64, 64), "2 small": faq(5, 5)})
    check_batches(recipe(["a.csv", "b.csv"]), data, batch_size=8, drop_last=True)
    assert "NOT TRAINED ON: 2 small: 5 rows make no batch of 8" in caplog.text


def test_wrong_columns_are_found_before_an_evaluation_task_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrl_text.training.corpus.evaluation_hashes", lambda *_: pytest.fail("a task was loaded"))
    file = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(ValueError, match="has no column 'question'"):
        load_training_data(recipe([{"source": file, "columns": ["question", "positive"]}], tasks=["STSBenchmark"]))


def test_a_missing_mirror_is_no_reason_not_to_check(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(FileNotFoundError, match=r"^data.mirror: no folder at /nowhere; mrl-text mirror makes one"):
        check_data(recipe([file], mirror="/nowhere"))


@pytest.mark.parametrize("batches", SAMPLERS)
def test_the_batches_of_the_recipe_are_training_arguments(batches: str, tmp_path: Path) -> None:
    arguments = batch_arguments(recipe(["a.csv", "b.csv"], batches=batches))
    assert arguments == {"batch_sampler": SAMPLERS[batches]}  # type: ignore[index]
    weighted = recipe([{"source": "a.csv", "weight": 1}, {"source": "b.csv", "weight": 2.5}], batches=batches)
    mixed = batch_arguments(weighted)["multi_dataset_batch_sampler"]
    assert isinstance(mixed, functools.partial)
    assert (mixed.func, mixed.keywords) == (WeightedBatchSampler, {"weights": [1.0, 2.5]})
    taken = SentenceTransformerTrainingArguments(output_dir=str(tmp_path), **batch_arguments(weighted))
    assert taken.batch_sampler is SAMPLERS[batches]  # type: ignore[index]
    alone = batch_arguments(recipe([{"source": "a.csv", "weight": 3}]))
    assert "multi_dataset_batch_sampler" not in alone
    stream = recipe(["a.csv"], stream=True, training={"max_steps": 3})
    assert batch_arguments(stream) == {"batch_sampler": BatchSamplers.BATCH_SAMPLER}


LISTS = {
    "MarginMSELoss": (
        {"name": "matryoshka", "inner": "MarginMSELoss"},
        ["a", "b", "c", "d"],
        [1.0],
        "4 texts are lists of 1 .* 3 or 2",
    ),
    "DistillKLDivLoss": (
        {"name": "matryoshka", "inner": "DistillKLDivLoss"},
        ["a", "b", "c"],
        [1.0, 2, 3],
        "3 texts are lists of 3 .* 2",
    ),
    "MSELoss": ({"name": "matryoshka", "inner": "MSELoss"}, ["a"], [1.0, 2, 3], "1 text are lists of 3 .* takes 32"),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_numbers_are_as_long_as_the_loss_takes_them(tmp_path: Path, name: str, tiny_bert: Path) -> None:
    loss, columns, numbers, words = LISTS[name]
    file = write(tmp_path / "a.jsonl", [dict.fromkeys(columns, "text") | {"label": numbers}])
    asked = recipe([{"source": file, "columns": [*columns, "label"]}], loss=loss, name=str(tiny_bert))
    with pytest.raises(ValueError, match=rf"a.jsonl: beside {words} in every row"):
        load_training_data(asked)


def test_classes_make_batches_of_several_and_what_is_left_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    loss = {"name": "matryoshka", "inner": "BatchAllTripletLoss"}
    asked = recipe([{"source": "a.csv", "columns": ["text", "class"]}], loss=loss)
    rows = [{"anchor": f"text {row}", "label": int(row >= 10)} for row in range(17)]
    data = Dataset.from_list(rows).cast_column("label", ClassLabel(names=["art", "sport"]))
    (sampler,) = source_samplers(asked)
    batches = list(sampler(data, batch_size=4, drop_last=False, valid_label_columns=["label"]))
    assert all(sorted(data[batch]["label"]) == [0, 0, 1, 1] for batch in batches)
    check_batches(asked, data, batch_size=4, drop_last=False)
    assert "a: 5 of 17 rows, others each time, are left out of an epoch" in caplog.text
    with pytest.raises(ValueError, match="a: a batch needs two classes with two rows each: name more data"):
        check_batches(asked, data.select(range(11)), batch_size=4, drop_last=False)
    with pytest.raises(ValueError, match=r"per_device_train_batch_size=7: .* set an even number of at least 4"):
        check_data(recipe(["org/data"], loss=loss, training={"per_device_train_batch_size": 7}))


def test_texts_repeat_in_a_batch_where_other_rows_are_no_negatives() -> None:
    data = faq(40, 2, label=0.5)
    for inner, rows in (("CoSENTLoss", 20), ("MultipleNegativesRankingLoss", 2)):
        columns = ["a", "b", "c"][: 3 if inner == "CoSENTLoss" else 2]
        asked = recipe([{"source": "a.csv", "columns": columns}], loss={"name": "matryoshka", "inner": inner})
        batches = list(source_samplers(asked)[0](data, batch_size=20, drop_last=False))
        assert {len(batch) for batch in batches} == {rows}
        assert sorted(row for batch in batches for row in batch) == list(range(40))


def test_texts_of_a_symmetric_loss_have_the_default_prompt(tiny_bert: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu", prompts={"query": "red ", "document": "blue "})
    pairs = {"source": "a.csv", "columns": ["a", "b"]}
    scored = {**pairs, "columns": ["a", "b", "c"], "loss": {"name": "matryoshka", "inner": "CoSENTLoss"}}
    data = DatasetDict({"1 a": faq(4, 4), "2 a": faq(4, 4, label=0.5)})
    asked = recipe([pairs, scored])
    by_source = {"1 a": {"anchor": "red ", "positive": "blue "}, "2 a": {}}
    assert source_prompts(asked, model, data) == by_source
    model.default_prompt_name = "document"
    assert source_prompts(asked, model, data)["2 a"] == {"anchor": "blue ", "positive": "blue "}
    assert source_prompts(recipe([pairs, pairs]), model, data) == {"anchor": "red ", "positive": "blue "}
