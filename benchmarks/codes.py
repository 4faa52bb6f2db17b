"""Quality and speed of few-bit codes against product quantisation and sentence-transformers' codes of equal bytes.

    python benchmarks/codes.py MODEL --beir scifact cranfield --fit train/*.parquet

Retrieval of BEIR folders, nDCG@10 kept of the model's own float32 vectors, documents coded. Codes of this package,
plain and fitted, are asked by float queries; so is FAISS's product quantiser of as many bytes, trained on the same
``--fit`` texts (column ``positive``). sentence-transformers' bits (ST) are compared with bits, by Hamming distance. The
interval is of the difference from the product quantiser, queries resampled, both on the same ones. "Turned" is what the
plain codec keeps behind random rotations of the prefix, ``--draws`` of them, mean and deviation: to show what turning
brings, and what is luck. With ``--adapt`` our codes are of vectors behind the rotation of ``mrl-text adapt``, fitted on
the same texts; the others code vectors as they are. Then it prints how many of the ten documents nearest to a query in
float32 each precision finds, at the full width and a sixth of it, and what FAISS's own codes find there, and codes and
compares ``--speed`` vectors on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pandas as pd
from search_data import add_beir
from sentence_transformers.util import quantize_embeddings

from mrl_text.adapt import fit
from mrl_text.codes import FEW_BITS, Codec, FewBits
from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.eval.statistics import bootstrap_mean
from mrl_text.loading import cached
from mrl_text.models import find_model
from mrl_text.search.measure import threads
from mrl_text.search.sample_queries import Judged, K, recall
from mrl_text.truncation import bytes_per_vector, truncate

CELLS: tuple[tuple[int, FewBits], ...] = (
    *((dim, "binary") for dim in (64, 96, 128, 192, 256, 384, 768)),
    *((dim, "int2") for dim in (128, 192, 256, 384, 768)),
    *((dim, "int4") for dim in (256, 384, 768)),
)


FAISS_WORDS = ("SQ8", "SQtqmse4", "RaBitQ4", "SQtqmse2", "RaBitQ2", "SQtqmse1", "RaBitQ")


class Data:
    """Vectors of one BEIR folder, and what each query asks for."""

    def __init__(self, folder: Path, cache: EmbeddingCache) -> None:
        corpus: dict[str, str] = {}
        queries: dict[str, str] = {}
        qrels: dict[str, dict[str, int]] = {}
        add_beir(folder, corpus, queries, qrels)
        self.ids = np.array(list(corpus), dtype=object)
        self.judged = Judged(list(queries), list(queries.values()), qrels)
        self.documents = truncate(cache.embed(list(corpus.values()), role="document"))
        self.queries = truncate(cache.embed(self.judged.texts, role="query"))
        self.full = self.ndcg(self.queries @ self.documents.T).mean()

    def ndcg(self, scores: np.ndarray) -> np.ndarray:
        """nDCG@10 of each query."""
        return self.judged.ndcg(self.ids[np.argsort(-scores, axis=1, kind="stable")[:, :K]])


def main() -> None:
    """Print the table and the speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--beir", type=Path, nargs="+", required=True)
    parser.add_argument("--fit", type=Path, nargs="+", required=True)
    parser.add_argument("--fit-texts", type=int, default=20_000)
    parser.add_argument("--adapt", action="store_true")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--speed", type=int, default=200_000)
    arguments = parser.parse_args()
    cache = cached(find_model(arguments.model))
    sets = [Data(folder, cache) for folder in arguments.beir]
    texts = pd.concat([pd.read_parquet(file)["positive"] for file in arguments.fit]).drop_duplicates()
    chosen = texts.sample(min(len(texts), arguments.fit_texts), random_state=0)
    sample = truncate(cache.embed(list(chosen), role="document"))
    print("float32, nDCG@10: " + ", ".join(f"{100 * one.full:.2f}" for one in sets))
    print("bytes  size  code    fitted   plain   turned          PQ      ST      fitted - PQ, 95 %")
    width = sample.shape[1]
    matrix = fit(sample).matrix if arguments.adapt else np.eye(width, dtype=np.float32)
    for dim, precision in CELLS:
        if dim <= width:
            _compare(sets, sample, matrix, dim, precision, arguments.draws)
    for dim in (width, width // 6):
        codec = Codec.fit(sample @ matrix)
        finders = {one: partial(_coded, codec, dim, one) for one in FEW_BITS}
        finders |= {word: partial(_by_faiss, word) for word in FAISS_WORDS}
        found = ", ".join(f"{name} {100 * _nearest(sets, matrix, dim, finder):.1f}" for name, finder in finders.items())
        print(f"% of the ten nearest in float32 at {dim}: {found}", flush=True)
    with threads(1):
        _time(arguments.speed, width)


def _compare(
    sets: list[Data], sample: np.ndarray, matrix: np.ndarray, dim: int, precision: FewBits, draws: int
) -> None:
    fitted, size = Codec.fit(sample @ matrix), bytes_per_vector(dim, precision)

    def ours(codec: Codec) -> Callable[[Data], np.ndarray]:
        def scores(data: Data) -> np.ndarray:
            codes = codec.encode(data.documents @ matrix, dim, precision)
            return codec.scores(data.queries @ matrix, codes, dim, precision)

        return scores

    def turned(rotation: np.ndarray) -> Callable[[Data], np.ndarray]:
        codec = Codec.plain(dim)

        def scores(data: Data) -> np.ndarray:
            codes = codec.encode(truncate(data.documents @ matrix, dim) @ rotation, dim, precision)
            return codec.scores(truncate(data.queries @ matrix, dim) @ rotation, codes, dim, precision)

        return scores

    rotations = [np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0] for seed in range(draws)]
    others = [_kept(sets, turned(one.astype(np.float32))).mean() for one in rotations]
    kept, coded = _kept(sets, ours(fitted)), _kept(sets, _product(sample, size))
    plain = _kept(sets, ours(Codec.plain(sample.shape[1]))).mean()
    peer = _kept(sets, lambda data: _peer(data, dim)).mean() if precision == "binary" else np.nan
    difference = bootstrap_mean(kept - coded)
    shown = [100 * one for one in (kept.mean(), plain, np.mean(others), np.std(others), coded.mean(), peer)]
    against = [100 * one for one in ((kept - coded).mean(), difference.low, difference.high)]
    print(
        f"{size:5d}  {dim:4d}  {precision:7}",
        "{:6.2f}  {:6.2f}  {:6.2f} +- {:4.2f}  {:6.2f}  {:6.2f}".format(*shown),
        "{:+5.2f} [{:+.2f}, {:+.2f}]".format(*against),
        flush=True,
    )


def _nearest(sets: list[Data], matrix: np.ndarray, dim: int, finder: Callable[[np.ndarray, np.ndarray], Any]) -> float:
    """Mean over sets of the share of the ten nearest at that size in float32 that a finder names."""
    shares = []
    for data in sets:
        queries, documents = (truncate(one @ matrix, dim) for one in (data.queries, data.documents))
        best = np.argsort(-queries @ documents.T, axis=1, kind="stable")[:, :K]
        shares.append(recall(finder(queries, data.documents @ matrix), best).mean())
    return float(np.mean(shares))


def _coded(codec: Codec, dim: int, precision: FewBits, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    scores = codec.scores(queries, codec.encode(documents, dim, precision), dim, precision)
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]


def _by_faiss(word: str, queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    cut = truncate(documents, queries.shape[1])
    index = faiss.index_factory(cut.shape[1], word, faiss.METRIC_INNER_PRODUCT)
    index.train(cut)
    index.add(cut)
    found: np.ndarray = index.search(queries, K)[1]
    return found


def _kept(sets: list[Data], scores: Callable[[Data], np.ndarray]) -> np.ndarray:
    """What each query adds to the mean over sets of the share kept."""
    total = sum(len(data.judged) for data in sets)
    parts = [data.ndcg(scores(data)) / data.full * total / len(data.judged) / len(sets) for data in sets]
    return np.concatenate(parts)


def _product(sample: np.ndarray, size: int) -> Callable[[Data], np.ndarray]:
    """Product quantisation of so many bytes: 8 bits for each part of the vector."""
    width = sample.shape[1]
    padded = -(-width // size) * size
    index = faiss.IndexPQ(padded, size, 8, faiss.METRIC_INNER_PRODUCT)
    index.train(np.pad(sample, ((0, 0), (0, padded - width))))

    def scores(data: Data) -> np.ndarray:
        fill = ((0, 0), (0, padded - width))
        decoded = index.sa_decode(index.sa_encode(np.pad(data.documents, fill)))
        return np.pad(data.queries, fill) @ decoded.T

    return scores


def _peer(data: Data, dim: int) -> np.ndarray:
    """sentence-transformers' own bits on both sides, by Hamming distance."""
    cut = truncate(data.queries, dim), truncate(data.documents, dim)
    left, right = (2.0 * np.unpackbits(quantize_embeddings(one, "ubinary"), axis=1) - 1 for one in cut)
    return left @ right.T


def _time(count: int, width: int) -> None:
    vectors = truncate(np.random.default_rng(0).normal(size=(count, width)).astype(np.float32))
    codec = Codec.plain(width)
    print(f"one thread, {count:,} vectors of {width} numbers, in a million a minute; queries 100 at a time:")
    chosen: tuple[FewBits, ...] = ("int8", "int2", "binary")
    for precision in chosen:
        started = time.perf_counter()
        codes = codec.encode(vectors, width, precision)
        coded = time.perf_counter() - started
        started = time.perf_counter()
        codec.scores(vectors[:100], codes, width, precision)
        compared = time.perf_counter() - started
        print(f"  {precision:7} coded {count * 60e-6 / coded:6.1f}   compared {count * 60e-6 / compared:6.1f}")


if __name__ == "__main__":
    main()
