from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from mrl_text.training.recipe import Recipe
from tests.conftest import WORDS


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of data sets for each module, so that none reads what another left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model with another width (20), another tokenizer and prompts of its own: a static one."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({word: row for row, word in enumerate(["[UNK]", *reversed(WORDS)])}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    vectors = np.random.default_rng(3).normal(size=(len(WORDS) + 1, 20)).astype(np.float32)
    table = StaticEmbedding(tokenizer, embedding_weights=vectors)
    folder = tmp_path_factory.mktemp("models") / "other-model"
    model = SentenceTransformer(modules=[table], prompts={"query": "the ", "document": "a green "}, device="cpu")
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def small_recipe(
    tiny_bert: Path, triplets: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Recipe]:
    """A recipe on the tiny BERT and 24 rows, in float32 on the CPU: six steps of eight, every second one validated.

    Options are those of ``model``, besides ``loss`` and ``training``.
    """
    file = tmp_path_factory.mktemp("small") / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in triplets[:24]), encoding="utf-8")

    def recipe(*, loss: dict[str, Any] | None = None, training: dict[str, Any] | None = None, **model: Any) -> Recipe:
        own = {"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "bf16": False, "use_cpu": True}
        own |= {"logging_steps": 1, "eval_steps": 2, "save_steps": 2, "save_total_limit": None}
        return Recipe.model_validate(
            {
                "model": {"name": str(tiny_bert), **model},
                "data": {"train": [{"source": str(file)}], "validation": [{"source": str(file)}]},
                "loss": {"dims": [8, 16, 32], **(loss or {})},
                "training": {**own, **(training or {})},
            }
        )

    return recipe


@pytest.fixture(scope="session")
def cross_encoder(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a cross-encoder: a two-layer BERT with random weights, a head of one number and large scores."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "cross-encoder"
    torch.manual_seed(5)
    config = BertConfig.from_pretrained(tiny_bert, num_labels=1, initializer_range=0.5)
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    return folder
