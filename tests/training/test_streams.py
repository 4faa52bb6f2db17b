from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import IterableDataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.training_args import BatchSamplers

from mrl_text.losses import nested_infonce
from mrl_text.training.data import load_source
from mrl_text.training.recipe import SourceConfig
from mrl_text.training.streams import stream_sources
from mrl_text.training.texts import text_hash

Row = dict[str, Any]
ROWS: list[Row] = [{"anchor": f"anchor {index}", "positive": f'"the", positive\n{index}'} for index in range(60)]


def write(file: Path, rows: list[Row]) -> SourceConfig:
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return SourceConfig(source=str(file))


def take(stream: IterableDataset, rows: int) -> list[Row]:
    """The first rows of an endless stream."""
    return list(itertools.islice(stream, rows))


def ordered(rows: Any) -> list[tuple[str, ...]]:
    return sorted(tuple(row.values()) for row in rows)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_stream_has_the_rows_that_loading_gives(tmp_path: Path, name: str) -> None:
    rows = [*ROWS, {"anchor": " ", "positive": "blank"}, {"anchor": "none", "positive": None}]
    source = write(tmp_path / name, rows)
    stream = stream_sources([source], seed=1)
    assert isinstance(stream, IterableDataset)
    assert stream.column_names == ["anchor", "positive"]
    assert ordered(take(stream, 60)) == ordered(load_source(source)) == ordered(ROWS)


def test_columns_are_chosen_and_renamed_as_in_loading(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [{"n": 1, "q": "q", "positive": "b", "anchor": "a"}])
    for columns in (["q", "anchor", "positive"], ["positive", "anchor"], None):
        chosen = source.model_copy(update={"columns": columns})
        assert take(stream_sources([chosen], seed=1), 1) == load_source(chosen).to_list()


def test_every_pass_has_all_rows_in_an_order_of_its_own(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", ROWS * 2)  # repeats are left out in each pass anew
    found = take(stream_sources([source], seed=1), 180)
    passes = [found[:60], found[60:120], found[120:]]
    assert [ordered(rows) for rows in passes] == [ordered(ROWS)] * 3
    assert passes[0] != passes[1] != passes[2] != ROWS
    assert take(stream_sources([source], seed=1), 180) == found
    assert take(stream_sources([source], seed=9), 180) != found


def test_repeats_stay_where_told_and_the_limit_counts_rows_read(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [ROWS[0], *ROWS])
    assert ordered(take(stream_sources([source], seed=1, deduplicate=False), 61)) == ordered([ROWS[0], *ROWS])
    limited = source.model_copy(update={"limit": 5})
    assert ordered(take(stream_sources([limited], seed=1), 4)) == ordered(ROWS[:4])


def test_rows_with_an_evaluation_text_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write(tmp_path / "mine.jsonl", [*ROWS, ROWS[1], {"anchor": "", "positive": "x"}])
    evaluation = np.array([text_hash("ANCHOR 3"), text_hash(ROWS[7]["positive"])], dtype=np.uint64)
    found = take(stream_sources([source], seed=1, evaluation=evaluation), 3 * 58)
    assert ordered(found) == ordered([row for index, row in enumerate(ROWS) if index not in (3, 7)] * 3)
    assert caplog.text.count("rows left out") == 1
    assert "mine: rows left out: 1 for blank cells, 2 for evaluation texts, 1 for repeats" in caplog.text


def test_a_source_of_which_nothing_is_left_does_not_run_for_ever(tmp_path: Path) -> None:
    source = write(tmp_path / "mine.jsonl", ROWS[:3])
    evaluation = np.array([text_hash(row["anchor"]) for row in ROWS[:3]], dtype=np.uint64)
    with pytest.raises(ValueError, match="mine: no row is left without blank cells and evaluation texts"):
        take(stream_sources([source], seed=1, evaluation=evaluation), 1)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "share"), [((None, None), 0.5), ((3.0, 1.0), 0.75)])
def test_sources_are_mixed_by_their_weights(
    tmp_path: Path, weights: tuple[float | None, float | None], share: float
) -> None:
    sources = [
        write(
            tmp_path / f"{name}.jsonl",
            [{"anchor": f"{name} {index}", "positive": f"p {index}"} for index in range(900)],
        ).model_copy(update={"weight": weight})
        for name, weight in zip("ab", weights, strict=True)
    ]
    found = [row["anchor"] for row in take(stream_sources(sources, seed=1), 4800)]
    assert len(set(found)) == 1800  # the smaller share went through all of its rows, too
    counts = Counter(anchor[0] for anchor in found)
    assert abs(counts["a"] / counts.total() - share) < 0.04


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[{"anchor": "a", "positive": 1}]], "0.jsonl: column 'positive' holds numbers such as 1, not text"),
        ([[{"anchor": "a", "text": "b"}]], "name those to use with columns"),
        (
            [[{"anchor": "a", "positive": "b"}], [{"anchor": "a", "positive": "b", "negative": "c"}]],
            "all sources need the same columns, and they have anchor, positive; anchor, positive, negative",
        ),
    ],
)
def test_what_cannot_be_streamed_is_told_before_training(tmp_path: Path, rows: list[list[Row]], message: str) -> None:
    sources = [write(tmp_path / f"{number}.jsonl", part) for number, part in enumerate(rows)]
    with pytest.raises(ValueError, match=message):
        stream_sources(sources, seed=1)


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"anchor": \n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a.jsonl, line 1: is not valid JSON"):
        stream_sources([SourceConfig(source=str(tmp_path / "a.jsonl"))], seed=1)
    (tmp_path / "b.csv").write_text("anchor,positive\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"b.csv (has no row|cannot be read)"):
        stream_sources([SourceConfig(source=str(tmp_path / "b.csv"))], seed=1)
    with pytest.raises(FileNotFoundError, match=r"no training data at .*c.csv"):
        stream_sources([SourceConfig(source=str(tmp_path / "c.csv"))], seed=1)


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_stream_where_it_was(
    tmp_path: Path, tiny_bert: Path, triplets: list[dict[str, str]]
) -> None:
    sources = [write(tmp_path / "a.jsonl", list(triplets[:40])), write(tmp_path / "b.jsonl", list(triplets[40:]))]
    seen: list[str] = []

    class Recording(SentenceTransformerTrainer):
        def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            seen.append(str(inputs["anchor_input_ids"].tolist()))
            return super().compute_loss(model, inputs, *args, **kwargs)

    def run(folder: str, checkpoint: str | None = None) -> list[str]:
        seen.clear()
        model = SentenceTransformer(str(tiny_bert), device="cpu")
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / folder),
            max_steps=12,  # both sources have started over by then
            save_steps=3,
            per_device_train_batch_size=8,
            batch_sampler=BatchSamplers.BATCH_SAMPLER,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        loss = nested_infonce(model, [8, 32])
        trainer = Recording(model=model, args=arguments, train_dataset=stream_sources(sources, seed=1), loss=loss)
        assert trainer.train(resume_from_checkpoint=checkpoint).global_step == 12
        return list(seen)

    whole = run("whole")
    assert len(set(whole)) == 12
    for step in (3, 9):
        assert run("resumed", str(tmp_path / "whole" / f"checkpoint-{step}")) == whole[step:]
