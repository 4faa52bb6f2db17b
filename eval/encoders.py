"""What mteb sees: one encoder per size and precision, all of them cut from the same vectors."""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from datasets import Dataset
from mteb.models import ModelMeta, SearchEncoderWrapper
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType
from sentence_transformers.util import dot_score, pairwise_dot_score

from mrl_text.codes import Codec, FewBits
from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.truncation import Precision, dequantize, quantize, truncate, usable

from .grid import Cell, Variant

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import BatchedInput, RetrievalOutputType
    from torch.utils.data import DataLoader

    from mrl_text.models import ModelSource

    from .quantisers import Quantiser


Blocks = Callable[[], Iterator[np.ndarray]]
BLOCK = 50_000
"""Texts whose vectors are looked at together."""
RESULTS = 10
"""Results asked for, of which a multiple are candidates of a second stage."""
SAMPLE = 65_536
"""Vectors that codecs and quantisers are fitted on, at most: what FAISS's product quantiser takes."""
_OF_INDEX = ("task_metadata", "hf_split", "hf_subset", "encode_kwargs")
_MEASURES = ("cosine", "dot", "euclidean", "manhattan", "max")  # in mteb's names of metrics: cosine_spearman, max_ap


class Corpus:
    """What is measured on the side of a task that an index would hold.

    PCA, codecs, quantisers and the ranges of int8 are fitted here: on documents where a task has them, on the training
    texts of a classification task, else on all texts of the task. No label is used. ``blocks`` returns that side at
    full width, in blocks of float32 (n, width), ``pca_blocks`` what PCA is fitted on instead.
    """

    def __init__(self, blocks: Blocks, pca_blocks: Blocks | None = None) -> None:
        self._blocks = blocks
        self._pca_blocks = pca_blocks or blocks
        self._pca: tuple[np.ndarray, np.ndarray] | None = None
        self._ranges: dict[tuple[str, int | None, int], np.ndarray] = {}
        self._codecs: dict[tuple[str, int | None], Codec] = {}
        self._quantisers: dict[Cell, Quantiser] = {}

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
            vectors = turned(self._sample())
            known = vectors[usable(vectors)]
            self._codecs[key] = Codec.fit(known) if len(known) else Codec.plain(vectors.shape[1])
        return self._codecs[key]

    def quantiser(self, variant: Variant, cut: Callable[[np.ndarray], np.ndarray]) -> Quantiser:
        """FAISS's quantiser of vectors after ``cut``."""
        from .quantisers import Quantiser

        if variant.cell not in self._quantisers:
            self._quantisers[variant.cell] = Quantiser(variant.cell.precision, cut(self._sample()))
        return self._quantisers[variant.cell]

    def _sample(self) -> np.ndarray:
        """At most :data:`SAMPLE` vectors of full width, each equally likely, in their order."""
        drawn = np.random.default_rng(0)
        vectors, places = np.empty((0, 0), np.float32), np.empty(0)
        for block in self._blocks():
            vectors = np.concatenate([vectors.reshape(-1, block.shape[1]), block])
            places = np.concatenate([places, drawn.random(len(block))])
            kept = np.sort(np.argsort(places)[:SAMPLE])
            vectors, places = vectors[kept], places[kept]
        return vectors

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
    a codec, a quantiser or ranges are needed. Codes keep directions only: what is coded, and what is compared with it,
    has unit length, whatever the model compares by.
    """

    variant: Variant
    normalize: bool
    corpus: Callable[[], Corpus]

    def __call__(self, vectors: np.ndarray, role: str | None = None) -> np.ndarray:
        """float32 (n, width) to float32 (n, dim), as an index of this variant would compare them.

        ``role`` is ``query`` or ``document`` where a task has both: queries are coded in symmetric comparisons alone.
        """
        cell = self.variant.cell
        if self.variant.quantised:
            return self._quantised(vectors, role)
        precision = "float32" if role == "query" and cell.comparison == "asymmetric" else cell.precision
        if precision == "float32" or not len(vectors):
            return self._cut(vectors, cell.dim)
        if cell.few_bits is not None:
            return self._decoded(vectors, cell.few_bits)
        cut, stored_in = functools.partial(self._cut, dim=cell.dim), cast(Precision, precision)
        ranges = self.corpus().ranges(self.variant, cut) if precision == "int8" else None
        return dequantize(quantize(cut(vectors), stored_in, ranges=ranges), stored_in, cell.dim, ranges=ranges)

    def _quantised(self, vectors: np.ndarray, role: str | None) -> np.ndarray:
        """What FAISS's codes stand for; where there are queries, with one number more, which is 1 for these."""
        cut = functools.partial(self._cut, dim=self.variant.cell.dim)
        whole = cut(vectors)
        if role == "query" or not len(whole):
            return np.pad(whole, ((0, 0), (0, int(role is not None))), constant_values=1)
        quantiser = self.corpus().quantiser(self.variant, cut)
        decoded = quantiser.decode(whole)
        return decoded if role is None else np.hstack([decoded, quantiser.beside(whole, decoded)])

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
        directions = self.variant.cell.few_bits is not None or self.variant.quantised
        return truncate(vectors, dim, normalize=self.normalize or directions)


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
        return self.answer(Call(hf_split, hf_subset, _texts(inputs), prompt, role))

    def answer(self, call: Call) -> np.ndarray:
        """What :meth:`encode` returns."""
        self.calls.append(call)
        vectors = self.cache.embed(call.texts, prompt=call.prompt, role=call.role)
        normalize = self.cache.model.similarity_fn_name == "cosine"
        return Reduction(self.variant, normalize, lambda: self._corpus(call.subset))(vectors, call.role)

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
        if self.variant.quantised:
            return dot_score(embeddings1, embeddings2)
        if self._is_distance:
            return self.cache.model.similarity(embeddings1, embeddings2)
        return super().similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Similarities (n,) of pairs by the model's own measure; of binary vectors as for :meth:`similarity`."""
        if self.by_hamming:
            return (_signs(embeddings1) * _signs(embeddings2)).sum(dim=1) / self.variant.cell.dim
        if self.variant.quantised:
            return pairwise_dot_score(embeddings1, embeddings2)
        if self._is_distance:
            return self.cache.model.similarity_pairwise(embeddings1, embeddings2)
        return super().similarity_pairwise(embeddings1, embeddings2)

    @property
    def _is_distance(self) -> bool:
        return self.cache.model.similarity_fn_name in ("euclidean", "manhattan")


class RecordingSearch(SearchEncoderWrapper):
    """mteb's own exact search, which also keeps the ranking of every query.

    ``calls`` are those of an earlier evaluation of the task, if there was one: the same texts are then compared without
    being prepared by mteb again, which takes longer than all else. Where the cell of ``model`` has two stages,
    ``whole`` encodes at full width, and mteb's reranking puts the best candidates in order by that. What comes after
    them stays in its order.
    """

    def __init__(self, model: CellEncoder, calls: Sequence[Call] = (), whole: CellEncoder | None = None) -> None:
        super().__init__(model, corpus_chunk_size=BLOCK)
        self.known = calls
        self.candidates = model.variant.cell.rescore * RESULTS if whole else 0
        self.whole = whole
        self.rankings: dict[tuple[str, str], RetrievalOutputType] = {}
        """(split, subset) -> query id -> document id -> similarity."""

    def search(self, queries: Any, *, hf_split: str, hf_subset: str, **kwargs: Any) -> RetrievalOutputType:
        """Search as the parent does and remember the answer."""
        corpus, where = self.task_corpus, {"hf_split": hf_split, "hf_subset": hf_subset}
        known = [call for call in self.known if (call.split, call.subset) == (hf_split, hf_subset)]
        if known and corpus is not None and kwargs.get("top_ranked") is None:
            ranking = self._again(known, queries["id"][:], corpus["id"][:], kwargs["top_k"])
        else:
            ranking = super().search(queries, **where, **kwargs)
        if self.whole is not None and corpus is not None:
            ranking = self._rescored(ranking, queries, corpus, **where, **kwargs)
        self.rankings[hf_split, hf_subset] = ranking
        return ranking

    def _again(self, known: Sequence[Call], queries: list[str], names: list[str], top_k: int) -> RetrievalOutputType:
        """What mteb's search finds: the documents most similar to each query."""
        (asked,) = (call for call in known if call.role == PromptType.query.value)
        vectors, start, best = self.model.answer(asked), 0, []
        for call in known:
            if call.role == PromptType.document.value:
                scores = torch.as_tensor(self.model.similarity(vectors, self.model.answer(call)))
                values, rows = scores.topk(min(top_k, scores.shape[1]))
                best.append((values, rows + start))
                start += len(call.texts)
        values, rows = (torch.cat(parts, dim=1) for parts in zip(*best, strict=True))
        values, places = values.topk(min(top_k, values.shape[1]))
        found = zip(rows.gather(1, places).tolist(), values.tolist(), strict=True)
        return {
            query: {names[row]: value for row, value in zip(*one, strict=True)}
            for query, one in zip(queries, found, strict=True)
        }

    def _rescored(self, ranking: RetrievalOutputType, queries: Any, corpus: Any, **kwargs: Any) -> RetrievalOutputType:
        best = {
            query: heapq.nlargest(self.candidates, found, key=found.__getitem__) for query, found in ranking.items()
        }
        wanted = set(itertools.chain.from_iterable(best.values()))
        rows = [row for row, name in enumerate(corpus["id"]) if name in wanted]
        second = SearchEncoderWrapper(self.whole)
        second.index(corpus.select(rows), **{name: kwargs[name] for name in _OF_INDEX})
        ordered = second.search(queries, **{**kwargs, "top_ranked": best, "top_k": self.candidates})
        for query, found in ranking.items():
            rest = {name: score for name, score in found.items() if name not in ordered[query]}
            below = min(ordered[query].values(), default=0.0) - max(rest.values(), default=0.0) - 1
            ordered[query] |= {name: score + below for name, score in rest.items()}
        return ordered


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
            "framework": ["API"] if source.api else ["Sentence Transformers", "PyTorch"],
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
