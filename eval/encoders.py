"""What mteb sees: one encoder per size and precision, all of them cut from the same vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from datasets import Dataset
from mteb.models import ModelMeta, SearchEncoderWrapper
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType

from mrl_text.codes import Codec, FewBits
from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.truncation import Precision, dequantize, quantize, truncate, usable

from .grid import Variant

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput, RetrievalOutputType
    from torch.utils.data import DataLoader

    from mrl_text.models import ModelSource


Blocks = Callable[[], Iterator[np.ndarray]]
_MEASURES = ("cosine", "dot", "euclidean", "manhattan", "max")  # in mteb's names of metrics: cosine_spearman, max_ap


class Corpus:
    """What is measured on the side of a task that an index would hold.

    PCA, codecs and the ranges of int8 are fitted here: on documents where a task has them, on the training texts of a
    classification task, else on all texts of the task. No label is used.
    ``blocks`` returns that side at full width, in blocks of float32 (n, width), ``pca_blocks`` what PCA is fitted on
    instead.
    """

    def __init__(self, blocks: Blocks, pca_blocks: Blocks | None = None) -> None:
        self._blocks = blocks
        self._pca_blocks = pca_blocks or blocks
        self._pca: tuple[np.ndarray, np.ndarray] | None = None
        self._ranges: dict[tuple[str, int | None, int], np.ndarray] = {}
        self._codecs: dict[tuple[str, int | None], Codec] = {}

    def pca(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (width,) and components (width, width) in columns, largest variance first."""
        if self._pca is None:
            count, total, products = 0, np.zeros(1), np.zeros((1, 1))
            for block in self._pca_blocks():
                wide = block.astype(np.float64)
                count, total, products = count + len(wide), total + wide.sum(axis=0), products + wide.T @ wide
            mean = total / count
            # the covariance has a full basis even where there are fewer texts than numbers
            _, components = np.linalg.eigh(products / count - np.outer(mean, mean))
            self._pca = mean.astype(np.float32), np.ascontiguousarray(components[:, ::-1], dtype=np.float32)
        return self._pca

    def ranges(self, variant: Variant, cut: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Smallest and largest value (2, dim) of each dimension after ``cut``."""
        key = variant.line.method, variant.seed, variant.cell.dim
        if key not in self._ranges:
            extremes = [(values.min(axis=0), values.max(axis=0)) for block in self._blocks() for values in [cut(block)]]
            low, high = zip(*extremes, strict=True)
            self._ranges[key] = np.stack([np.min(low, axis=0), np.max(high, axis=0)])
        return self._ranges[key]

    def codec(self, variant: Variant, turned: Callable[[np.ndarray], np.ndarray]) -> Codec:
        """The codec of vectors that ``turned`` makes of those of full width."""
        key = variant.line.method, variant.seed
        if key not in self._codecs:
            count, squares = 0, np.zeros(1)
            for block in self._blocks():
                vectors = turned(block)
                vectors = vectors[usable(vectors)]
                if len(vectors):  # the same as of all vectors at once, which may not fit into memory
                    squares = squares + len(vectors) * np.square(Codec.fit(vectors).scales, dtype=np.float64)
                    count += len(vectors)
                width = block.shape[1]
            self._codecs[key] = Codec(np.sqrt(squares / count).astype(np.float32)) if count else Codec.plain(width)
        return self._codecs[key]

    def measured(self, variant: Variant) -> np.ndarray | None:
        """The scales (width,) of a variant's codec, or else its ranges (2, dim), where they were needed."""
        if variant.cell.few_bits is None:
            return self._ranges.get((variant.line.method, variant.seed, variant.cell.dim))
        codec = self._codecs.get((variant.line.method, variant.seed))
        return codec.scales if codec else None


@dataclass(frozen=True)
class Reduction:
    """Cuts vectors to a variant's size and passes them through its precision.

    With ``normalize``, for models that compare by cosine, cut vectors have unit length. ``corpus`` is called when PCA,
    a codec or ranges are needed. A codec keeps directions only: with one all vectors have unit length, whatever the
    model compares by.
    """

    variant: Variant
    normalize: bool
    corpus: Callable[[], Corpus]

    def __call__(self, vectors: np.ndarray, *, queries: bool = False) -> np.ndarray:
        """float32 (n, width) to float32 (n, dim), as an index of this variant would compare them.

        ``queries`` says that these are queries, which are coded in symmetric comparisons alone.
        """
        cell = self.variant.cell
        precision = "float32" if queries and cell.comparison == "asymmetric" else cell.precision
        if precision == "float32" or not len(vectors):
            return self._cut(vectors, cell.dim)
        if cell.few_bits is not None:
            return self._decoded(vectors, cell.few_bits)
        cut, stored_in = functools.partial(self._cut, dim=cell.dim), cast(Precision, precision)
        ranges = self.corpus().ranges(self.variant, cut) if precision == "int8" else None
        return dequantize(quantize(cut(vectors), stored_in, ranges=ranges), stored_in, cell.dim, ranges=ranges)

    def _decoded(self, vectors: np.ndarray, precision: FewBits) -> np.ndarray:
        """What the codes of vectors stand for; a vector that is zero has none and stays zero."""
        dim, width = self.variant.cell.dim, vectors.shape[1]
        turned = functools.partial(self._cut, dim=width)
        # signs need no scales
        codec = Codec.plain(width) if precision == "binary" else self.corpus().codec(self.variant, turned)
        whole, found = turned(vectors), np.zeros((len(vectors), dim), np.float32)
        known = usable(whole)
        found[known] = codec.decode(codec.encode(whole[known], dim, precision), dim, precision)
        return found

    def _cut(self, vectors: np.ndarray, dim: int) -> np.ndarray:
        line = self.variant.line
        if line.method == "pca":
            mean, components = self.corpus().pca()
            vectors = (vectors - mean) @ components[:, :dim]
        elif line.method == "random":
            chosen = np.random.default_rng(self.variant.seed).permutation(vectors.shape[1])[:dim]
            vectors = vectors[:, chosen]
        return truncate(vectors, dim, normalize=self.normalize or self.variant.cell.few_bits is not None)


class Call(NamedTuple):
    """What mteb asked to be encoded."""

    split: str
    subset: str
    texts: list[str]
    prompt: str | None
    role: str | None


class CellEncoder(AbsEncoder):
    """An mteb encoder that answers with cached full-width vectors, cut to a size and a precision.

    The result is filed under ``meta`` (:func:`model_meta`); ``corpus`` gives the corpus side of a subset, for what is
    fitted on it.
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
        reduction = Reduction(self.variant, normalize, lambda: self._corpus(hf_subset))
        return reduction(vectors, queries=prompt_type is PromptType.query)

    @property
    def by_hamming(self) -> bool:
        """Whether all vectors are bits: queries are coded, too, or the task has none."""
        queries = any(call.role == PromptType.query.value for call in self.calls)
        return self.variant.by_hamming or (self.variant.cell.precision == "binary" and not queries)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Similarities (n, m) by the model's own measure; mteb knows cosine and dot product only.

        Binary vectors are compared by Hamming distance, in whole numbers: 1 - 2 * distance / dim.
        """
        if self.by_hamming:
            return _signs(embeddings1) @ _signs(embeddings2).T / self.variant.cell.dim
        if self._is_distance:
            return self.cache.model.similarity(embeddings1, embeddings2)
        return super().similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Similarities (n,) of pairs by the model's own measure; of binary vectors as for :meth:`similarity`."""
        if self.by_hamming:
            return (_signs(embeddings1) * _signs(embeddings2)).sum(dim=1) / self.variant.cell.dim
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


def with_hamming(scores: dict[str, Any], main: str) -> None:
    """Replace, in mteb's scores of binary vectors, what it computed from floats by what Hamming distances give.

    For some tasks mteb takes cosines and distances of vectors itself, besides the model's own similarity. In floats
    equal Hamming distances become cosines that differ in the last digit, by the order in which a sum is taken, and
    that splits ties by luck. For plus and minus ones every measure orders as Hamming distance does, and all but the
    Euclidean one are linear in it, so the metrics of the model's own similarity, which is exact, stand for theirs.

    Args:
        scores: of one subset: metric -> value; changed in place.
        main: the task's main score.
    """
    for name in list(scores):
        kind, _, metric = name.rpartition("_")
        exact = scores.get(f"similarity_{metric}", scores.get(metric) if metric in ("spearman", "pearson") else None)
        known = exact is not None and not np.isnan(exact)  # of summaries that tie no correlation is known
        if known and kind in _MEASURES and (kind, metric) != ("euclidean", "pearson"):
            scores[name] = exact
    scores["main_score"] = scores[main]


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


def _signs(vectors: Any) -> torch.Tensor:
    """Plus and minus ones, float32 (n, dim): sums of their products are whole numbers, and exact."""
    values = torch.as_tensor(vectors)
    return torch.where(values.reshape(-1, values.shape[-1]) > 0, 1.0, -1.0)


def _texts(inputs: DataLoader[BatchedInput]) -> list[str]:
    dataset = inputs.dataset
    if isinstance(dataset, Dataset) and "text" in dataset.column_names:
        return list(dataset["text"][:])  # what the batches hold, without making dictionaries of every row
    return [text for batch in inputs for text in batch["text"]]
