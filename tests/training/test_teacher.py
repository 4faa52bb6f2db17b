from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.losses import self_distillation
from mrl_text.streaming import EncodedWindow, encode_windows
from mrl_text.training.teacher import VectorsCollator, add_teacher


@pytest.fixture
def model(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MatryoshkaEncoder:
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))
    return MatryoshkaEncoder(str(tiny_bert), device="cpu")


def reference(model: MatryoshkaEncoder, data: Dataset, prompts: dict[str, str] | None = None) -> np.ndarray:
    """The parent class's own vectors, column by column."""
    columns = [
        SentenceTransformer.encode(model, data[name][:], prompt=(prompts or {}).get(name), normalize_embeddings=True)
        for name in ("anchor", "positive", "negative")
    ]
    return np.concatenate(columns, axis=1)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts that went through the model."""
    texts: list[str] = []

    def encode(model: MatryoshkaEncoder, lists: list[list[str]], **options: Any) -> Iterator[EncodedWindow]:
        texts.extend(text for some in lists for text in some)
        yield from encode_windows(model, lists, **options)

    monkeypatch.setattr("mrl_text.embedding_cache.encode_windows", encode)
    return texts


def test_the_label_holds_the_unit_vectors_of_all_columns(
    model: MatryoshkaEncoder, triplets: list[dict[str, str]]
) -> None:
    data = Dataset.from_list(triplets).select(range(63, 20, -2))  # a selection in another order
    taught = add_teacher(data, model)
    assert taught.column_names == ["anchor", "positive", "negative", "label"]
    assert taught.select_columns(["anchor", "positive", "negative"]).to_list() == data.to_list()
    label = taught[:]["label"]
    assert label.dtype == torch.float32
    np.testing.assert_allclose(label.numpy(), reference(model, data), atol=1e-6)
    np.testing.assert_allclose(label.reshape(-1, 32).norm(dim=1).numpy(), 1, atol=1e-6)


def test_prompts_and_a_choice_of_columns(model: MatryoshkaEncoder, triplets: list[dict[str, str]]) -> None:
    data, prompts = Dataset.from_list(triplets[:8]), {"anchor": "the cat ", "positive": "a dog ", "negative": "a dog "}
    model.prompts["query"] = "green "  # the model's own are not those of the training
    np.testing.assert_allclose(
        add_teacher(data, model, prompts=prompts)[:]["label"], reference(model, data, prompts), atol=1e-6
    )
    plain = add_teacher(data, model, columns=["anchor"])[:]["label"]
    np.testing.assert_allclose(
        plain, SentenceTransformer.encode(model, data["anchor"][:], prompt="", normalize_embeddings=True), atol=1e-6
    )


def test_the_full_width_is_taken_and_the_model_is_left_as_it_was(
    model: MatryoshkaEncoder, triplets: list[dict[str, str]]
) -> None:
    data = Dataset.from_list(triplets[:8])
    model.truncate_dim = 8
    model.train()
    assert add_teacher(data, model)[:]["label"].shape == (8, 3 * 32)
    assert model.training
    assert model.truncate_dim == 8


def test_each_text_is_encoded_once_and_never_again(
    model: MatryoshkaEncoder, triplets: list[dict[str, str]], encoded: list[str]
) -> None:
    data = Dataset.from_list(triplets * 2)
    first = add_teacher(data, model)
    distinct = {text for row in triplets for text in row.values()}
    assert sorted(encoded) == sorted(distinct)
    encoded.clear()
    again = add_teacher(DatasetDict({"a": data.select(range(10)), "b": data.select(range(10, 128))}), model)
    assert encoded == []
    joined = torch.cat([again["a"][:]["label"], again["b"][:]["label"]])
    assert torch.equal(joined, first[:]["label"])


def test_an_interrupted_run_goes_on_where_it_was(
    model: MatryoshkaEncoder, triplets: list[dict[str, str]], encoded: list[str], tmp_path: Path
) -> None:
    data = Dataset.from_list(triplets)
    add_teacher(data.select(range(32)), model, cache=tmp_path / "vectors")
    before = set(encoded)
    encoded.clear()
    add_teacher(data, model, cache=tmp_path / "vectors")
    assert before.isdisjoint(encoded)
    assert before | set(encoded) == {text for row in triplets for text in row.values()}


def test_another_model_has_other_vectors(model: MatryoshkaEncoder, triplets: list[dict[str, str]]) -> None:
    data = Dataset.from_list(triplets[:8])
    first = add_teacher(data, model)[:]["label"]
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    second = add_teacher(data, model)[:]["label"]
    assert not torch.allclose(first, second)
    np.testing.assert_allclose(second, reference(model, data), atol=1e-6)


def test_a_label_is_not_overwritten(model: MatryoshkaEncoder, triplets: list[dict[str, str]]) -> None:
    data = Dataset.from_list([{**row, "label": 1} for row in triplets])
    with pytest.raises(ValueError, match="the data has a column 'label' already"):
        add_teacher(data, model)


def test_a_batch_has_texts_label_and_vectors_apart(model: MatryoshkaEncoder, triplets: list[dict[str, str]]) -> None:
    data = Dataset.from_list([{**row, "label": number} for number, row in enumerate(triplets)])
    taught = add_teacher(
        add_teacher(data, model, names=["teacher", "base"]), model, names=["guide"], columns=["anchor"]
    )
    rows = taught.__getitems__([5, 2, 9])
    batch = VectorsCollator(preprocess_fn=model.preprocess)(rows)
    plain = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)(data.__getitems__([5, 2, 9]))
    assert batch.keys() == plain.keys() | {"vectors"}
    assert all(bool(np.all(np.asarray(batch[name]) == np.asarray(plain[name]))) for name in plain)
    assert batch["vectors"].keys() == {"teacher", "guide"}
    expected = reference(model, data)[[5, 2, 9]]
    np.testing.assert_allclose(batch["vectors"]["teacher"], expected, atol=1e-6)
    np.testing.assert_allclose(batch["vectors"]["guide"], expected[:, :32], atol=1e-6)


def test_the_loss_reads_the_label_as_it_reads_a_teacher(
    model: MatryoshkaEncoder, triplets: list[dict[str, str]], tiny_bert: Path
) -> None:
    taught = add_teacher(Dataset.from_list(triplets[:16]), model)
    collator = SentenceTransformerDataCollator(preprocess_fn=model.preprocess)
    batch = collator(taught.__getitems__(list(range(16))))  # as the data loader reads
    assert list(taught[0]) == ["anchor", "positive", "negative", "label"]  # otherwise the collator complains
    assert batch["label"].shape == (16, 96)
    assert batch["label"].dtype == torch.float32
    student = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    student.eval()
    columns = [
        {key.removeprefix(f"{name}_"): value for key, value in batch.items() if key.startswith(f"{name}_")}
        for name in ("anchor", "positive", "negative")
    ]
    by_label = self_distillation(student, [8, 32])([dict(column) for column in columns], batch["label"])
    by_model = self_distillation(student, [8, 32], teacher=model)([dict(column) for column in columns], None)
    for name, value in by_model.items():
        torch.testing.assert_close(by_label[name], value, rtol=1e-5, atol=1e-6)
    without = self_distillation(student, [8, 32])([dict(column) for column in columns], None)
    assert abs(float(sum(without.values()).detach()) - float(sum(by_label.values()).detach())) > 1e-4
