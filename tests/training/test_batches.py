from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch.utils.data import ConcatDataset

from mrl_text.losses import nested_infonce
from mrl_text.training import batches as module
from mrl_text.training.batches import (
    SAMPLERS,
    LengthBatchSampler,
    NeighbourBatchSampler,
    NoDuplicatesBatchSampler,
    WeightedBatchSampler,
    rows_used,
)

CLASSES = list(SAMPLERS.values())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))


def pairs(rows: int, *, distinct: int | None = None, centres: int = 4) -> Dataset:
    """Pairs with a teacher's label around ``centres`` directions; anchor i is that of row i + ``distinct``."""
    random = np.random.default_rng(0)
    directions = np.eye(8, dtype=np.float32)[random.integers(0, centres, rows)]
    first = directions + 0.01 * random.standard_normal((rows, 8)).astype(np.float32)
    words = ["word " * int(number) for number in random.integers(1, 50, rows)]
    data = {
        "anchor": [f"Anchor {index % (distinct or rows)}" for index in range(rows)],
        "positive": [f"positive {index} {word}" for index, word in enumerate(words)],
        "label": np.concatenate([first, np.zeros_like(first)], axis=1),
    }
    return Dataset.from_dict(data)


def epoch(sampler: Any, number: int = 0) -> list[list[int]]:
    sampler.set_epoch(number)
    return [list(batch) for batch in sampler]


def flat(batches: Iterable[Iterable[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("sampler_class", CLASSES)
@pytest.mark.parametrize(("rows", "batch_size"), [(100, 16), (96, 16), (5, 16), (1, 1)])
def test_every_row_comes_once_in_as_many_batches_as_promised(
    sampler_class: type[NoDuplicatesBatchSampler], rows: int, batch_size: int
) -> None:
    data = pairs(rows)
    whole = sampler_class(data, batch_size, drop_last=False, seed=3)
    found = epoch(whole)
    assert sorted(flat(found)) == list(range(rows))
    assert len(found) == len(whole) == -(-rows // batch_size)
    full = sampler_class(data, batch_size, drop_last=True, seed=3)
    assert [len(batch) for batch in epoch(full)] == [batch_size] * (rows // batch_size)
    assert len(full) == rows // batch_size


@pytest.mark.parametrize("sampler_class", CLASSES)
def test_seed_and_epoch_alone_decide_the_order(sampler_class: type[NoDuplicatesBatchSampler]) -> None:
    def order(seed: int, number: int, noise: int) -> list[list[int]]:
        torch.manual_seed(noise)
        np.random.seed(noise)
        generator = torch.Generator().manual_seed(noise)
        return epoch(sampler_class(pairs(200), 16, False, ["label"], generator, seed), number)

    assert order(1, 2, 5) == order(1, 2, 6)
    assert len({str(order(*key, 5)) for key in [(1, 2), (1, 3), (2, 2)]}) == 3


@pytest.mark.parametrize("sampler_class", CLASSES)
def test_no_text_comes_twice_in_a_batch_whatever_its_case_and_column(
    sampler_class: type[NoDuplicatesBatchSampler],
) -> None:
    data = pairs(120, distinct=60)
    swapped = data.select(range(40)).map(lambda row: {"anchor": row["positive"].upper(), "positive": row["anchor"]})
    data = Dataset.from_list([*data.to_list(), *swapped.to_list()])
    found = epoch(sampler_class(data, 16, drop_last=False, seed=1))
    assert sorted(flat(found)) == list(range(160))
    for batch in found:
        texts = [" ".join(data[row][name].lower().split()) for row in batch for name in ("anchor", "positive")]
        assert len(set(texts)) == len(texts)


def test_rows_that_fit_nowhere_come_last_and_alone() -> None:
    data = Dataset.from_dict(
        {"anchor": ["the same"] * 9 + [f"a{i}" for i in range(9)], "positive": list("abcdefghijklmnopqr")}
    )
    found = epoch(NoDuplicatesBatchSampler(data, 4, drop_last=False, seed=1))
    assert sorted(flat(found)) == list(range(18))
    assert all(sum(row < 9 for row in batch) <= 1 for batch in found)


def faq(counts: list[int]) -> Dataset:
    """Questions, all different, and their answers: answer i has ``counts[i]`` of them."""
    answers = [f"answer {number}" for number, count in enumerate(counts) for _ in range(count)]
    return Dataset.from_dict(
        {
            "anchor": [f"question {row} {'word ' * (row % 7)}" for row in range(len(answers))],
            "positive": answers,
            "label": np.random.default_rng(0).standard_normal((len(answers), 8)).astype(np.float32),
        }
    )


@pytest.mark.parametrize("sampler_class", CLASSES)
@pytest.mark.parametrize(
    ("counts", "batch_size", "sizes"),
    [
        ([50] * 20, 64, [20] * 50),
        ([50] * 20, 16, [16] * 61 + [12] * 2),
        ([60] + [1] * 940, 64, [17] * 40 + [16] * 20),
        ([10] + [1] * 90, 25, [10] * 10),
        ([4, 3, 2, 1], 8, [3, 3, 2, 2]),
        ([6, 1, 1], 8, [2, 2, 1, 1, 1, 1]),
        ([3], 8, [1, 1, 1]),
        ([1] * 129, 128, [65, 64]),  # rather than a batch of one row, which has nothing to be told from
    ],
)
def test_every_row_is_used_where_texts_repeat_in_no_more_batches_than_that_takes(
    sampler_class: type[NoDuplicatesBatchSampler], counts: list[int], batch_size: int, sizes: list[int]
) -> None:
    data = faq(counts)
    sampler = sampler_class(data, batch_size, drop_last=False, seed=3)
    assert (len(sampler), sampler.largest) == (len(sizes), max(sizes))
    for number in range(2):
        found = epoch(sampler, number)
        assert sorted(map(len, found), reverse=True) == sizes
        assert sorted(flat(found)) == list(range(len(data)))
        assert all(len({data[row]["positive"] for row in batch}) == len(batch) for batch in found)


@pytest.mark.parametrize("sampler_class", CLASSES)
@pytest.mark.parametrize(
    ("counts", "batch_size", "batches"),
    [([8] * 5, 4, 10), ([50] * 20, 20, 50), ([50] * 20, 21, 0), ([10, 2, 2, 2], 3, 3), ([10, 1, 1], 2, 2), ([3], 4, 0)],
)
def test_full_batches_alone_are_as_many_as_can_be_made_without_a_text_twice(
    sampler_class: type[NoDuplicatesBatchSampler], counts: list[int], batch_size: int, batches: int
) -> None:
    data = faq(counts)
    sampler = sampler_class(data, batch_size, drop_last=True, seed=0)
    assert len(sampler) == batches
    for number in range(2):
        found = epoch(sampler, number)
        assert [len(batch) for batch in found] == [batch_size] * batches
        assert len(set(flat(found))) == batches * batch_size
        assert all(len({data[row]["positive"] for row in batch}) == batch_size for batch in found)


def test_rows_for_which_there_is_no_place_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    ring = {"anchor": ["a", "b", "a"], "positive": ["x", "x", "y"], "negative": ["m", "n", "n"]}  # each pair shares one
    found = epoch(NoDuplicatesBatchSampler(Dataset.from_dict(ring), 2, drop_last=False, seed=0))
    assert [len(batch) for batch in found] == [1, 1]
    assert "1 of 3 rows fit into no batch without a text twice and are left out of epoch 1" in caplog.text


@pytest.mark.parametrize(
    ("drop_last", "steps", "per_step", "used"),
    [
        (False, 3, 1, 9),  # of ten batches of three rows
        (False, 3, 2, 18),
        (False, 5, 2, 30),
        (False, 100, 4, 30),
        (True, 2, 1, 4),
        (True, 40, 1, 30),
    ],
)
def test_rows_used_are_those_of_the_batches_taken(drop_last: bool, steps: int, per_step: int, used: int) -> None:
    sampler = NoDuplicatesBatchSampler(faq([10] * 3), 2 if drop_last else 8, drop_last, seed=0)
    assert rows_used(sampler, steps, per_step) == used


def test_no_batch_at_all_ends_the_epoch() -> None:
    data = Dataset.from_dict({"anchor": ["the same"] * 8, "positive": list("abcdefgh")})
    assert epoch(NoDuplicatesBatchSampler(data, 4, drop_last=True, seed=0)) == []


def test_batches_by_length_have_hardly_any_padding() -> None:
    data = pairs(2000)
    lengths = np.array([len(row["anchor"]) + len(row["positive"]) for row in data])

    def padding(sampler_class: type[NoDuplicatesBatchSampler]) -> float:
        found = epoch(sampler_class(data, 16, drop_last=False, seed=1))
        return sum(len(batch) * lengths[batch].max() for batch in found) / lengths.sum() - 1

    assert padding(LengthBatchSampler) < 0.1
    assert padding(NoDuplicatesBatchSampler) > 0.5


def test_batches_by_length_do_not_come_in_the_order_of_their_length() -> None:
    data = pairs(2000)
    lengths = np.array([len(row["positive"]) for row in data])
    means = [lengths[batch].mean() for batch in epoch(LengthBatchSampler(data, 16, drop_last=True, seed=1))]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_neighbours_share_a_batch_far_more_often_than_by_chance() -> None:
    data = pairs(1200, centres=8)
    centre = np.asarray(data["label"])[:, :8].argmax(axis=1)

    def together(sampler_class: type[NoDuplicatesBatchSampler]) -> float:
        found = epoch(sampler_class(data, 24, drop_last=True, seed=1))
        return float(np.mean([(centre[batch][:, None] == centre[batch]).mean() for batch in found]))

    assert together(NoDuplicatesBatchSampler) < 0.25
    assert together(NeighbourBatchSampler) > 0.4


@pytest.mark.parametrize("column", ["label", "teacher", "base"])
def test_neighbours_are_found_by_the_vectors_of_the_first_texts_and_kept(
    monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    seen: list[np.ndarray] = []

    def groups(vectors: np.ndarray, *, seed: int) -> np.ndarray:
        seen.append(vectors)
        return np.arange(len(vectors), dtype=np.int32) % 3

    monkeypatch.setattr(module, "neighbour_groups", groups)
    data = pairs(50)
    if column != "label":  # which holds a source's own numbers then
        data = data.rename_column("label", column).add_column("label", [[0.5] * 4] * 50)
    first = epoch(NeighbourBatchSampler(data, 8, False, seed=1))
    assert first == epoch(NeighbourBatchSampler(data, 8, False, seed=1))
    assert len(seen) == 1
    assert np.array_equal(seen[0], np.asarray(data[column], dtype=np.float32)[:, :8])
    NeighbourBatchSampler(data.select(range(40)), 8, False, seed=1).__iter__().__next__()
    NeighbourBatchSampler(data, 8, False, seed=2).__iter__().__next__()
    assert len(seen) == 3  # other data, another seed


def test_neighbours_need_a_teachers_vectors() -> None:
    with pytest.raises(ValueError, match=r"^data.batches: neighbours needs a teacher's vectors"):
        NeighbourBatchSampler(pairs(10).remove_columns("label"), 8, False)


def weighted(sizes: list[int], weights: list[float], seed: int = 1) -> WeightedBatchSampler:
    parts = [pairs(size) for size in sizes]
    samplers = [NoDuplicatesBatchSampler(part, 8, drop_last=True, seed=seed) for part in parts]
    return WeightedBatchSampler(ConcatDataset(parts), samplers, None, seed, weights=weights)


@pytest.mark.parametrize(
    ("sizes", "weights", "expected"),
    [
        ([80, 80], [1, 1], [10, 10]),
        ([80, 80], [3, 1], [15, 5]),
        ([160, 8], [1, 1], [10, 11]),
        ([80, 80, 80], [1, 1, 1e-9], [15, 15, 0]),
        ([80, 40], [0.2, 0.1], [10, 5]),
    ],
)
def test_weights_are_shares_of_the_batches(sizes: list[int], weights: list[float], expected: list[int]) -> None:
    sampler = weighted(sizes, weights)
    found = epoch(sampler)
    starts = np.cumsum([0, *sizes])
    sources = [int(np.searchsorted(starts, batch[0], side="right")) - 1 for batch in found]
    assert all(
        starts[source] <= min(batch) and max(batch) < starts[source + 1]
        for source, batch in zip(sources, found, strict=True)
    )
    counts = [Counter(sources)[index] for index in range(len(sizes))]
    assert sum(counts) == len(found) == len(sampler)
    assert np.abs(np.array(counts) - expected).max() <= (1 if sizes == [160, 8] else 0)


def test_a_small_source_starts_over_in_another_order_and_a_large_one_shows_new_rows() -> None:
    sampler = weighted([32, 320], [3, 1])
    first, second = epoch(sampler, 0), epoch(sampler, 1)
    small = [tuple(batch) for batch in first if batch[0] < 32]
    assert len(small) == 33
    for start in range(0, 32, 4):
        assert sorted(flat(small[start : start + 4])) == list(range(32))
    assert len(set(small)) == 33
    large = [{row for batch in found for row in batch if row >= 32} for found in (first, second)]
    assert large[0] != large[1]
    assert epoch(sampler, 0) == first


def test_a_source_without_a_batch_leaves_its_share_to_the_others() -> None:
    sampler = weighted([80, 5], [1, 3])
    found = epoch(sampler)
    assert len(found) == len(sampler) == 10
    assert sorted(flat(found)) == list(range(80))
    assert epoch(weighted([5, 5], [1, 1])) == []


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0], [1.0, 0.0], [-1.0, 2.0]])
def test_one_positive_weight_per_source(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 2 positive weights, one per source"):
        weighted([16, 16], weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_resumed_trainer_sees_the_batches_it_would_have_seen(
    tiny_bert: Path, triplets: list[dict[str, str]], tmp_path: Path, name: str
) -> None:
    labels = np.random.default_rng(0).standard_normal((64, 3 * 4)).astype(np.float32)
    rows = [{**row, "label": label} for row, label in zip(triplets, labels, strict=True)]
    data = DatasetDict({"a": Dataset.from_list(rows[:40]), "b": Dataset.from_list(rows[40:])})
    seen: list[str] = []

    class Recording(SentenceTransformerTrainer):
        def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            seen.append(str(inputs["anchor_input_ids"].tolist()))
            return super().compute_loss(model, inputs, *args, **kwargs)

    def run(folder: str, checkpoint: str | None = None) -> tuple[list[str], torch.Tensor]:
        seen.clear()
        torch.manual_seed(0)
        model = SentenceTransformer(str(tiny_bert), device="cpu")
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / folder),
            max_steps=14,  # into the second epoch of 8 batches
            save_steps=5,
            per_device_train_batch_size=8,
            batch_sampler=SAMPLERS[name],  # type: ignore[index]
            multi_dataset_batch_sampler=functools.partial(WeightedBatchSampler, weights=[1, 2]),
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Recording(model=model, args=arguments, train_dataset=data, loss=nested_infonce(model, [8, 32]))
        trainer.train(resume_from_checkpoint=checkpoint)
        return list(seen), torch.cat([value.flatten() for value in model.state_dict().values() if value.ndim])

    whole, weights = run("whole")
    assert len(set(whole[:8])) == 8
    for step in (5, 10):
        rest, same = run("resumed", str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert rest == whole[step:]
        assert torch.equal(same, weights)
