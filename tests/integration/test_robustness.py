"""What a team meets in the end: kill -9, two runs in one folder, broken models."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mrl_text.eval import sweep
from mrl_text.eval.leaderboard import load_results
from mrl_text.streaming import EncodedWindow, encode_windows
from tests.conftest import WORDS
from tests.processes import Started, command

pytestmark = pytest.mark.slow


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """Enough pairs to be encoded in several shards."""
    generator = np.random.default_rng(0)
    words = np.array(WORDS)
    sentences = [" ".join(generator.choice(words, 8)) for _ in range(6000)]
    rows = {"sentence1": sentences[:3000], "sentence2": sentences[3000:], "score": generator.uniform(0, 5, 3000)}
    pd.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)
    return tmp_path / "pairs.csv"


def _start(model: Path, data: Path, output: Path) -> Started:
    places = ("--output", output, "--cache", output / "embeddings")
    return command("eval", model, "--data", data, "--dims", "8,32", *places, OMP_NUM_THREADS="1")


def _table(folder: Path) -> str:
    return (folder / "scores.csv").read_text(encoding="utf-8")


def test_an_evaluation_killed_while_encoding_and_while_evaluating_ends_with_the_same_table(
    tiny_bert: Path, own_data: Path, tmp_path: Path
) -> None:
    undisturbed = _start(tiny_bert, own_data, tmp_path / "whole")
    assert undisturbed.wait() == 0, undisturbed.errors
    folder = tmp_path / "killed"
    for pattern in ("embeddings/*/vectors.bin", "results/*/*/experiments/*/pairs.json"):
        process = _start(tiny_bert, own_data, folder)
        while process.poll() is None and not any(folder.glob(pattern)):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "scores.csv").exists()
    finished = {file: file.stat().st_mtime_ns for file in folder.glob("results/*/*/experiments/*/pairs.json")}
    assert finished
    resumed = _start(tiny_bert, own_data, folder)
    assert resumed.wait() == 0, resumed.errors
    assert _table(folder) == _table(tmp_path / "whole")
    assert {file: file.stat().st_mtime_ns for file in finished} == finished


def test_two_evaluations_at_once_in_one_folder_leave_the_tables_of_both(
    tiny_bert: Path, own_data: Path, tmp_path: Path
) -> None:
    alone = _start(tiny_bert, own_data, tmp_path / "alone")
    second_data = tmp_path / "other.csv"
    pd.DataFrame({"text": [f"{word} {word}" for word in WORDS], "label": [len(word) % 2 for word in WORDS]}).to_csv(
        second_data, index=False
    )
    runs = [_start(tiny_bert, data, tmp_path / "shared") for data in (own_data, own_data, second_data)]
    for run in (alone, *runs):
        assert run.wait() == 0, run.errors
    together = load_results([tmp_path / "shared"])
    assert set(together.tasks) == {"pairs", "other"}
    columns = ["dim", "precision", "method", "seed", "score", "ci_low", "retention_high"]
    expected = pd.read_parquet(tmp_path / "alone" / "scores.parquet")[columns]
    found = together.scores[together.scores["task"] == "pairs"][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def _broken(fault: str) -> Any:
    """Encoding that answers for one text with what no index can hold."""

    def encode(model: Any, lists: list[list[str]], **options: Any) -> Iterator[EncodedWindow]:
        for texts, window in zip(lists, encode_windows(model, lists, **options), strict=True):
            vectors, bad = window.vectors, [row for row, text in enumerate(texts) if "piano piano" in text]
            if fault == "nan":
                vectors[bad] = np.nan
            yield replace(window, vectors=vectors[:, :-1] if bad and fault == "width" else vectors)

    return encode


@pytest.mark.parametrize(
    ("fault", "words"), [("nan", "NaN or infinity"), ("width", "31 numbers where 32 were expected")]
)
def test_a_broken_embedding_stops_the_task_and_names_the_text(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    bad, good = tmp_path / "bad.csv", tmp_path / "good.csv"
    texts = [f"the {word}" for word in WORDS[:20]]
    labels = [index % 2 for index in range(20)]
    pd.DataFrame({"text": texts, "label": labels}).to_csv(good, index=False)
    pd.DataFrame({"text": [*texts, "piano piano"], "label": [*labels, 0]}).to_csv(bad, index=False)
    monkeypatch.setattr("mrl_text.embedding_cache.encode_windows", _broken(fault))
    with pytest.raises(ValueError, match=words) as stopped:
        sweep([str(tiny_bert)], data=[bad], output=tmp_path / "stops", dims=[8], as_="clustering")
    assert "piano piano" in str(stopped.value)
    result = sweep(
        [str(tiny_bert)], data=[bad, good], output=tmp_path / "goes-on", dims=[8], as_="clustering", keep_going=True
    )
    assert set(result.tasks) == {"good"}
    assert words in result.failed["bad"]
