"""A frozen model cut to small sizes as it is, and after each way of adapting it: scores x100 and seconds of the fit.

Texts are fitted on, never the evaluation data. STS is the mean Spearman correlation of STSBenchmark, STS12, STS13 and
SICK-R; retrieval the mean nDCG@10 of SciFact and of a folder in BEIR layout; kept is which part of the mean of both at
full width is left, in per cent. Each set's score at full width comes first. Vectors are encoded once and kept in the
cache folder; all sides use the same ones.

    python benchmarks/adapt.py --texts data/*.parquet --mirror mirror/ --beir my-corpus/
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet
from scipy.stats import spearmanr

from mrl_text.adapt import fit
from mrl_text.adapt.run import embed
from mrl_text.adapt.texts import read_pairs, read_texts
from mrl_text.models import find_model
from mrl_text.truncation import truncate

STS = ("stsbenchmark-sts", "sts12-sts", "sts13-sts", "sickr-sts")
Embed = Callable[[list[str]], np.ndarray]
Table = dict[str, np.ndarray]
"""Vectors of the evaluation by what they are."""


def main() -> None:
    """Print one block per kind of task, and the seconds of each fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--mirror", type=Path, required=True, help="holds mteb/stsbenchmark-sts and so on")
    parser.add_argument("--beir", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[16, 32, 64, 128, 256, 384])
    parser.add_argument("--methods", nargs="+", default=["rotation", "pca", "linear"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    source = find_model(arguments.model)

    def vectors_of(texts: list[str]) -> np.ndarray:
        return truncate(embed(source, texts))

    texts = read_texts(arguments.texts)
    order = np.random.default_rng(arguments.seed).permutation(len(texts))[: arguments.limit]
    chosen = [texts[index] for index in order]
    vectors = vectors_of(chosen)
    evaluated = evaluation(arguments.mirror / "mteb", arguments.beir, vectors_of)
    sides = {"truncated": scores(evaluated, np.eye(vectors.shape[1], dtype=np.float32), arguments.dims)}
    for method in arguments.methods:
        pairs = rows_of_pairs(arguments.texts, chosen) if method == "linear" else None
        found = fit(vectors, method=method, dims=arguments.dims, pairs=pairs, seed=arguments.seed)
        sides[method] = scores(evaluated, found.matrix, arguments.dims)
        print(f"{method}: fitted on {len(vectors):,} vectors in {found.facts['seconds']} s", flush=True)
    whole = vectors.shape[1]
    for task in evaluated:
        [score] = scores([task], np.eye(whole, dtype=np.float32), [whole])[task["kind"]]
        print(f"{task['name']} at {whole}: {score:.2f}")
    for kind in ("STS", "retrieval"):
        print(f"\n{kind:12}" + "".join(f"{dim:>16}" for dim in sorted(arguments.dims, reverse=True)))
        for side, table in sides.items():
            gains = table[kind] - sides["truncated"][kind]
            print(f"{side:12}" + "".join(f"{s:>9.2f} {g:+6.2f}" for s, g in zip(table[kind], gains, strict=True)))
    full = scores(evaluated, np.eye(whole, dtype=np.float32), [whole])
    reference = float(full["STS"][0] + full["retrieval"][0]) / 2
    print(f"\n{'mean, kept':12}" + "".join(f"{dim:>16}" for dim in sorted(arguments.dims, reverse=True)))
    for side, table in sides.items():
        means = (table["STS"] + table["retrieval"]) / 2
        print(f"{side:12}" + "".join(f"{mean:>9.2f} {100 * mean / reference:6.2f}" for mean in means))


def rows_of_pairs(files: list[Path], texts: list[str]) -> np.ndarray:
    """Positions of the pairs of which both texts were taken."""
    place = {text: index for index, text in enumerate(texts)}
    pairs = [pair for file in files for pair in read_pairs(file)]
    return np.array([[place[a], place[b]] for a, b in pairs if a in place and b in place])


def evaluation(mirror: Path, beir: Path, vectors_of: Embed) -> list[dict[str, Any]]:
    """Vectors and gold of every task."""
    tasks: list[dict[str, Any]] = []
    for name in STS:
        rows = parquet.read_table(mirror / name / "test.parquet").to_pydict()
        sides = [vectors_of(rows[column]) for column in ("sentence1", "sentence2")]
        tasks.append({"kind": "STS", "name": name, "sides": sides, "gold": rows["score"]})
    scifact = mirror / "scifact"
    judged = parquet.read_table(scifact / "qrels/test.parquet").to_pylist()
    qrels = [(row["query-id"], row["corpus-id"], row["score"]) for row in judged]
    corpus, queries = (parquet.read_table(scifact / f"{name}.parquet").to_pylist() for name in ("corpus", "queries"))
    tasks.append(retrieval("SciFact", corpus, queries, qrels, vectors_of))
    corpus, queries = ([json.loads(line) for line in (beir / f"{name}.jsonl").open()] for name in ("corpus", "queries"))
    lines = (beir / "qrels/test.tsv").read_text().splitlines()[1:]
    tasks.append(retrieval(beir.name, corpus, queries, [line.split("\t") for line in lines], vectors_of))
    return tasks


def retrieval(name: str, corpus: list[Any], queries: list[Any], qrels: list[Any], vectors_of: Embed) -> dict[str, Any]:
    """A retrieval task: vectors of queries and documents, and the gain of each document for each query."""
    place = {str(row["_id"]): index for index, row in enumerate(corpus)}
    gains: dict[str, dict[int, float]] = {}
    for query, document, gain in qrels:
        if float(gain) > 0:
            gains.setdefault(str(query), {})[place[str(document)]] = float(gain)
    queries = [row for row in queries if str(row["_id"]) in gains]
    documents = [f"{row.get('title') or ''} {row['text']}".strip() for row in corpus]
    sides = [vectors_of([row["text"] for row in queries]), vectors_of(documents)]
    return {"kind": "retrieval", "name": name, "sides": sides, "gold": [gains[str(row["_id"])] for row in queries]}


def scores(tasks: list[dict[str, Any]], matrix: np.ndarray, dims: list[int]) -> Table:
    """Kind of task -> mean score x100 per size, largest size first."""
    found: dict[str, list[list[float]]] = {}
    for task in tasks:
        left, right = (side @ matrix for side in task["sides"])
        measure = correlation if task["kind"] == "STS" else ndcg
        row = [measure(truncate(left, dim), truncate(right, dim), task["gold"]) for dim in sorted(dims, reverse=True)]
        found.setdefault(task["kind"], []).append(row)
    return {kind: 100 * np.mean(rows, axis=0) for kind, rows in found.items()}


def correlation(left: np.ndarray, right: np.ndarray, gold: list[float]) -> float:
    """Spearman correlation of cosines and gold."""
    return float(spearmanr((left * right).sum(axis=1), gold)[0])


def ndcg(queries: np.ndarray, documents: np.ndarray, gold: list[dict[int, float]], at: int = 10) -> float:
    """Mean nDCG@10."""
    discounts = 1 / np.log2(np.arange(2, at + 2))
    values = []
    for similarities, gains in zip(queries @ documents.T, gold, strict=True):
        top = np.argsort(-similarities, kind="stable")[:at]
        best = np.sort(list(gains.values()))[::-1][:at]
        values.append(discounts @ [gains.get(int(index), 0) for index in top] / (discounts[: len(best)] @ best))
    return float(np.mean(values))


if __name__ == "__main__":
    main()
