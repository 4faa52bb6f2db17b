"""What mteb sees: one encoder per size, all of them slices of the same vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.models import ModelMeta, SearchEncoderWrapper
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType

from mrl_text.truncation import truncate

from .cache import EmbeddingCache

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput, RetrievalOutputType
    from torch.utils.data import DataLoader

    from mrl_text.models import ModelSource


class PrefixEncoder(AbsEncoder):
    """An mteb encoder that answers with the first ``dim`` numbers of cached full-width vectors.

    Args:
        cache: embeddings of the model.
        dim: numbers to keep.
        meta: what the result is filed under; see :func:`model_meta`.
    """

    def __init__(self, cache: EmbeddingCache, dim: int, meta: ModelMeta) -> None:
        self.model = None
        self.cache = cache
        self.dim = dim
        self.mteb_model_meta = meta
        prompts = {name: text for name, text in cache.model.prompts.items() if text}
        self.model_prompts, _ = self.validate_task_to_prompt_name(prompts, raise_for_invalid_keys=False)

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """float32 array (n, dim): unit rows where the model compares by cosine, plain slices otherwise."""
        texts = [text for batch in inputs for text in batch["text"]]
        name = self.get_prompt_name(task_metadata, prompt_type)
        prompt = self.model_prompts.get(name) if self.model_prompts and name else None
        role = prompt_type.value if prompt_type is not None else None
        vectors = self.cache.embed(texts, prompt=prompt, role=role)
        return truncate(vectors, self.dim, normalize=self.cache.model.similarity_fn_name == "cosine")


class RecordingSearch(SearchEncoderWrapper):
    """mteb's own exact search, which also keeps the ranking of every query."""

    def __init__(self, model: PrefixEncoder) -> None:
        super().__init__(model)
        self.rankings: dict[tuple[str, str], RetrievalOutputType] = {}
        """(split, subset) -> query id -> document id -> similarity."""

    def search(self, queries: Any, *, hf_split: str, hf_subset: str, **kwargs: Any) -> RetrievalOutputType:
        """Search as the parent does and remember the answer."""
        ranking = super().search(queries, hf_split=hf_split, hf_subset=hf_subset, **kwargs)
        self.rankings[hf_split, hf_subset] = ranking
        return ranking


def model_meta(source: ModelSource, dim: int, dtype: str = "float32", similarity: str = "cosine") -> ModelMeta:
    """mteb's description of a model at one size.

    The size is in ``experiment_kwargs``: mteb files results under it, and without it every size of a model would
    read the first size's scores. A dtype other than float32 is there for the same reason.
    """
    experiment = {"embed_dim": dim} if dtype == "float32" else {"embed_dim": dim, "dtype": dtype}
    return ModelMeta.create_empty(
        overwrites={
            "name": source.name,
            "revision": source.revision,
            "embed_dim": dim,
            "experiment_kwargs": experiment,
            "similarity_fn_name": ScoringFunction(similarity),
            "adapted_from": source.base_model,
            "framework": ["Sentence Transformers", "PyTorch"],
        }
    )
