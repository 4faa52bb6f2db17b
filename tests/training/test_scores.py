from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from mrl_text.models import find_model
from mrl_text.training.scores import add_scores, check_cross_encoder


@pytest.fixture
def data(triplets: list[dict[str, str]]) -> Dataset:
    rows = [{**row, "negative_2": triplets[index - 1]["positive"]} for index, row in enumerate(triplets)]
    return Dataset.from_list(rows)


def logits(folder: Path, anchors: list[str], texts: list[str]) -> np.ndarray:
    """Transformers' own, one pair at a time."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer
    reader = tokenizer.from_pretrained(folder)
    with torch.no_grad():
        found = [model(**reader(*pair, return_tensors="pt")).logits for pair in zip(anchors, texts, strict=True)]
    return np.asarray(torch.cat(found)[:, 0])


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Pairs that went through the model."""
    pairs: list[tuple[str, str]] = []
    plain = CrossEncoder.predict

    def predict(self: CrossEncoder, inputs: Sequence[tuple[str, str]], **options: Any) -> Any:
        pairs.extend(inputs)
        return plain(self, inputs, **options)

    monkeypatch.setattr(CrossEncoder, "predict", predict)
    return pairs


def test_the_label_holds_the_logits_of_every_candidate(cross_encoder: Path, data: Dataset) -> None:
    some = data.select(range(20, 4, -1))
    found = add_scores(some, find_model(str(cross_encoder)))
    assert found.column_names == [*data.column_names, "label"]
    assert found.select_columns(data.column_names).to_list() == some.to_list()
    texts = {name: some[name][:] for name in some.column_names}
    anchors = texts.pop("anchor")
    expected = np.stack([logits(cross_encoder, anchors, column) for column in texts.values()], axis=1)
    label = found[:]["label"]
    assert label.dtype == torch.float32
    np.testing.assert_allclose(label.numpy(), expected, atol=1e-5)
    assert expected.std() > 0.1
    assert np.abs(expected).max() > 1, "no activation has squeezed them"


def test_every_pair_is_scored_once_and_never_again(
    cross_encoder: Path, data: Dataset, scored: list[tuple[str, str]], tmp_path: Path
) -> None:
    source = find_model(str(cross_encoder))
    first = add_scores(data.select(range(30)), source, cache=tmp_path / "scores")
    half = len(scored)
    add_scores(data, source, cache=tmp_path / "scores")
    columns = [data[name][:] for name in data.column_names]
    assert sorted(scored) == sorted({(columns[0][row], other[row]) for row in range(64) for other in columns[1:]})
    assert 0 < half < len(scored)
    again = add_scores(data.select(range(30)), source, cache=tmp_path / "scores")
    assert torch.equal(again[:]["label"], first[:]["label"])
    assert len(scored) == len(set(scored))


def test_another_model_has_other_scores(cross_encoder: Path, data: Dataset, tmp_path: Path) -> None:
    other = Path(shutil.copytree(cross_encoder, tmp_path / "other"))
    model = BertForSequenceClassification.from_pretrained(other)
    with torch.no_grad():
        model.classifier.bias.add_(1.0)
    model.save_pretrained(other)
    some = data.select(range(6))
    first, second = (add_scores(some, find_model(str(one)))[:]["label"] for one in (cross_encoder, other))
    np.testing.assert_allclose(second, first + 1, atol=1e-5)


def test_a_label_is_not_overwritten(cross_encoder: Path, data: Dataset) -> None:
    with pytest.raises(ValueError, match="the data has a column 'label' already"):
        add_scores(data.add_column("label", [1.0] * 64), find_model(str(cross_encoder)))


def test_what_scores_no_pairs_is_refused_by_its_files(
    cross_encoder: Path, tiny_bert: Path, other_model: Path, tmp_path: Path
) -> None:
    check_cross_encoder(find_model(str(cross_encoder)))
    CrossEncoder(str(cross_encoder), device="cpu").save_pretrained(str(tmp_path / "saved"))
    check_cross_encoder(find_model(str(tmp_path / "saved")))
    for folder in (tiny_bert, other_model):
        with pytest.raises(ValueError, match="is no cross-encoder: name one, which scores pairs"):
            check_cross_encoder(find_model(str(folder)))
    for classes in (2, 3):  # transformers leaves out the names of two
        folder = tmp_path / f"classes-{classes}"
        config = BertConfig.from_pretrained(tiny_bert, num_labels=classes)
        BertForSequenceClassification(config).save_pretrained(folder)
        with pytest.raises(ValueError, match=f"tells {classes} classes apart: name one that gives one score"):
            check_cross_encoder(find_model(str(folder)))


def test_a_damaged_cross_encoder_is_told_in_one_line(cross_encoder: Path, data: Dataset, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(cross_encoder, tmp_path / "damaged"))
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"^cross-encoder local/damaged cannot be loaded from ") as caught:
        add_scores(data, find_model(str(damaged)))
    assert "\n" not in str(caught.value)
