from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers.util
from datasets import Dataset, DatasetDict

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.training.negatives import mine_negatives, mine_sources
from mrl_text.training.recipe import MiningConfig, SourceConfig


@pytest.fixture
def model(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MatryoshkaEncoder:
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))
    return MatryoshkaEncoder(str(tiny_bert), device="cpu")


@pytest.fixture
def pairs(triplets: list[dict[str, str]]) -> Dataset:
    return Dataset.from_list(triplets).select_columns(["anchor", "positive"])


def by_hand(pairs: Dataset, config: MiningConfig, model: MatryoshkaEncoder) -> dict[str, list[str]]:
    """Anchor -> its negatives, from a full similarity matrix."""
    anchors, positives = pairs["anchor"][:], pairs["positive"][:]
    scores = model.encode(anchors) @ model.encode(positives).T
    found = {}
    for row, anchor in enumerate(anchors):
        own = scores[row, row]
        limit = own - abs(own) * (config.relative_margin or 0)
        ranking = [other for other in np.argsort(-scores[row]) if other != row]
        ranking = ranking[: config.range_max]
        allowed = [other for other in ranking if scores[row, other] <= limit or config.relative_margin is None]
        chosen = allowed[config.range_min :][: config.num]
        if len(chosen) == config.num:
            found[anchor] = [positives[other] for other in chosen]
    return found


@pytest.mark.parametrize(
    "config",
    [
        MiningConfig(num=2, range_min=3, range_max=30, relative_margin=None),
        MiningConfig(num=1, range_min=0, range_max=63, relative_margin=0.02),
        MiningConfig(num=4, range_min=10, range_max=40, relative_margin=0.001),
    ],
)
def test_the_negatives_are_those_of_a_full_search(
    pairs: Dataset, model: MatryoshkaEncoder, config: MiningConfig, caplog: pytest.LogCaptureFixture
) -> None:
    expected = by_hand(pairs, config, model)
    assert expected
    mined = mine_negatives(pairs, config, model)
    names = ["negative", *(f"negative_{number}" for number in range(2, config.num + 1))]
    assert mined.column_names == ["anchor", "positive", *names]
    assert {row["anchor"]: [row[name] for name in names] for row in mined} == expected
    positive_of = dict(zip(pairs["anchor"], pairs["positive"], strict=True))
    assert all(positive_of[row["anchor"]] == row["positive"] for row in mined)
    dropped = len(pairs) - len(expected)
    message = f"{dropped} of {len(pairs)} rows have too few hard negatives and are left out"
    assert (message in caplog.text) == (dropped > 0)


def test_what_was_mined_is_kept_and_said_to_be(
    pairs: Dataset, model: MatryoshkaEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = MiningConfig(num=2, range_min=0, range_max=30, relative_margin=None)
    first = mine_negatives(pairs, config, model)

    calls: list[Any] = []
    original = sentence_transformers.util.mine_hard_negatives

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(sentence_transformers.util, "mine_hard_negatives", counted)
    with caplog.at_level(logging.INFO):
        assert mine_negatives(pairs, config, model).to_list() == first.to_list()
    assert "hard negatives mined before" in caplog.text
    assert not calls
    mine_negatives(pairs, config.model_copy(update={"num": 3}), model)
    mine_negatives(pairs.select(range(40)), config, model)
    mine_negatives(pairs, config, model, prompts={"anchor": "the cat "})
    model.max_seq_length = 6
    mine_negatives(pairs, config, model)
    assert len(calls) == 4
    assert calls[2]["query_prompt"] == "the cat "
    assert calls[2]["corpus_prompt"] == ""


def test_only_the_sources_that_ask_for_it_are_mined(
    pairs: Dataset, triplets: list[dict[str, str]], model: MatryoshkaEncoder
) -> None:
    data = DatasetDict({"a": Dataset.from_list(triplets), "b": pairs})
    options = {"num": 1, "range_min": 0, "range_max": 30, "relative_margin": None}
    sources = [SourceConfig(source="a.csv"), SourceConfig(source="b.csv", mine_negatives=MiningConfig(**options))]
    mined = mine_sources(data, sources, model)
    assert mined["a"].to_list() == triplets
    assert mined["b"].column_names == ["anchor", "positive", "negative"]
    alone = mine_sources(pairs, sources[1:], model)
    assert alone.to_list() == mined["b"].to_list()
    assert mine_sources(pairs, sources[:1], model) is pairs


def test_data_with_negatives_or_without_candidates_is_refused(
    pairs: Dataset, triplets: list[dict[str, str]], model: MatryoshkaEncoder
) -> None:
    config = MiningConfig(num=1, range_min=0, range_max=30)
    with pytest.raises(ValueError, match="mine_negatives is for pairs, and the columns are anchor, positive, negative"):
        mine_negatives(Dataset.from_list(triplets), config, model)
    few = MiningConfig(num=3, range_min=10, range_max=50)
    for _ in range(2):  # the second time from what was kept
        with pytest.raises(ValueError, match=r"no row of 5 has 3 candidates for negatives: lower mine_negatives.num"):
            mine_negatives(pairs.select(range(5)), few, model)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_damaged_negatives_are_mined_again(
    pairs: Dataset, model: MatryoshkaEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, keep: float
) -> None:
    config = MiningConfig(num=1, range_min=0, relative_margin=None)
    mined = mine_negatives(pairs, config, model)
    [file] = (tmp_path / "cache" / "negatives").glob("*.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    assert mine_negatives(pairs, config, model).to_list() == mined.to_list()
    assert f"{file} is damaged" in caplog.text
    assert file.read_bytes() == whole
