from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest

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
