"""What mteb sees: one encoder per size and precision, all of them cut from the same vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from datasets import Dataset
from mteb.models import ModelMeta, SearchEncoderWrapper
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType

from mrl_text.embedding_cache import EmbeddingCache

from .grid import Variant
from .reduction import Corpus, Reduction

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput, RetrievalOutputType
    from torch.utils.data import DataLoader

    from mrl_text.models import ModelSource


class Call(NamedTuple):
    """What mteb asked to be encoded."""

    split: str
    subset: str
    texts: list[str]
    prompt: str | None
    role: str | None


class CellEncoder(AbsEncoder):
    """An mteb encoder that answers with cached full-width vectors, cut to a size and a precision.

    Args:
        cache: embeddings of the model.
        variant: size, precision and method.
        meta: what the result is filed under; see :func:`model_meta`.
        corpus: subset -> the corpus side of the task, for what is fitted on it.
    """

    def __init__(
        self, cache: EmbeddingCache, variant: Variant, meta: ModelMeta, corpus: Callable[[str], Corpus]
    ) -> None:
        self.model = None
        self.cache = cache
        self.variant = variant
        self.mteb_model_meta = meta
        self.calls: list[Call] = []
        """Every call of :meth:`encode`."""
        self._corpus = corpus
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
        name = self.get_prompt_name(task_metadata, prompt_type)
        prompt = self.model_prompts.get(name) if self.model_prompts and name else None
        role = prompt_type.value if prompt_type is not None else None
        call = Call(hf_split, hf_subset, _texts(inputs), prompt, role)
        self.calls.append(call)
        vectors = self.cache.embed(call.texts, prompt=prompt, role=role)
        normalize = self.cache.model.similarity_fn_name == "cosine"
        return Reduction(self.variant, normalize, lambda: self._corpus(hf_subset))(vectors)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Similarities (n, m) by the model's own measure; mteb knows cosine and dot product only."""
        if self._is_distance:
            return self.cache.model.similarity(embeddings1, embeddings2)
        return super().similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Similarities (n,) of pairs by the model's own measure."""
        if self._is_distance:
            return self.cache.model.similarity_pairwise(embeddings1, embeddings2)
        return super().similarity_pairwise(embeddings1, embeddings2)

    @property
    def _is_distance(self) -> bool:
        return self.cache.model.similarity_fn_name in ("euclidean", "manhattan")


class RecordingSearch(SearchEncoderWrapper):
    """mteb's own exact search, which also keeps the ranking of every query."""

    def __init__(self, model: CellEncoder) -> None:
        super().__init__(model)
        self.rankings: dict[tuple[str, str], RetrievalOutputType] = {}
        """(split, subset) -> query id -> document id -> similarity."""

    def search(self, queries: Any, *, hf_split: str, hf_subset: str, **kwargs: Any) -> RetrievalOutputType:
        """Search as the parent does and remember the answer."""
        ranking = super().search(queries, hf_split=hf_split, hf_subset=hf_subset, **kwargs)
        self.rankings[hf_split, hf_subset] = ranking
        return ranking


def corpus_calls(task: AbsTask, calls: list[Call], subset: str) -> list[Call]:
    """Which of the calls of an evaluation encoded what an index would hold.

    Documents where there are any; the training split of a task that trains a classifier; else everything.
    """
    own = list({(call.split, call.role, tuple(call.texts)): call for call in calls if call.subset == subset}.values())
    documents = [call for call in own if call.role == "document"]
    training = [call for call in own if call.split == getattr(task, "train_split", None)]
    return documents or training or own


def model_meta(source: ModelSource, variant: Variant, similarity: str = "cosine") -> ModelMeta:
    """mteb's description of a model at one size and precision."""
    return ModelMeta.create_empty(
        overwrites={
            "name": source.name,
            "revision": source.revision,
            "embed_dim": variant.cell.dim,
            "experiment_kwargs": variant.experiment,
            "similarity_fn_name": ScoringFunction(similarity),
            "adapted_from": source.base_model,
            "framework": ["Sentence Transformers", "PyTorch"],
            "loader_kwargs": dict(source.trusted),
        }
    )


def _texts(inputs: DataLoader[BatchedInput]) -> list[str]:
    dataset = inputs.dataset
    if isinstance(dataset, Dataset) and "text" in dataset.column_names:
        return list(dataset["text"][:])  # what the batches hold, without making dictionaries of every row
    return [text for batch in inputs for text in batch["text"]]
