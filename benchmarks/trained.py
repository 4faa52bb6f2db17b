"""Models trained in one way against models trained in another: paired, means over seeds, in numbers and in bytes.

Give the models of one side after ``--before`` (a base, or the same training without something: one, or one per seed)
and of the other after ``--after``. Retrieval is nDCG@10 of folders in BEIR layout, the mean over them: at prefix sizes
in float32, and with documents coded and queries in float32 as :mod:`mrl_text.codes` compares them, the codec fitted on
the documents. STS is Spearman's correlation, the mean over STSBenchmark, STS12, STS13 and SICK-R. ``mean`` is that of
the two. All x100, means over the seeds of a side. ``kept`` is the share of the first side's full width in float32.
Intervals (95 %) are paired: queries and pairs of sentences are resampled, for all seeds alike. At the end of a row is
the difference of each seed of ``--after``. Vectors are kept in the cache folder.

    python benchmarks/trained.py --before runs/plain-*/model --after runs/coded-*/model --beir scifact cranfield \\
        --mirror mirror/
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from adapt import STS
from codes import Data
from pyarrow import parquet

from mrl_text.codes import Codec, FewBits
from mrl_text.embedding_cache import EmbeddingCache
from mrl_text.eval.statistics import Estimate, Units, bootstrap, mean_estimate, mean_units
from mrl_text.loading import cached
from mrl_text.models import find_model
from mrl_text.truncation import bytes_per_vector, truncate, usable

CELLS: tuple[tuple[int, FewBits], ...] = (
    *((64, "binary"), (96, "binary"), (128, "binary"), (64, "int2"), (192, "binary"), (256, "binary"), (128, "int2")),
    *((64, "int4"), (384, "binary"), (192, "int2"), (256, "int2"), (512, "binary"), (384, "int2"), (768, "binary")),
)
Side = list[dict[str, "Retrieval | Similarity"]]  # of each seed its tasks


class Retrieval:
    """A folder in BEIR layout as one model sees it."""

    kind = "retrieval"

    def __init__(self, folder: Path, cache: EmbeddingCache) -> None:
        self.data = Data(folder, cache)
        self.width = self.data.documents.shape[1]

    def units(self, dim: int, precision: FewBits | None) -> Units:
        """nDCG@10 of each query."""
        queries, documents = self.data.queries, self.data.documents
        if precision is None:
            return mean_units(self.data.ndcg(truncate(queries, dim) @ truncate(documents, dim).T))
        read = usable(documents)  # an empty text has no vector in a model of averaged tokens
        codec = Codec.fit(documents[read])
        scores = np.full((len(queries), len(documents)), -np.inf)
        scores[:, read] = codec.scores(queries, codec.encode(documents[read], dim, precision), dim, precision)
        return mean_units(self.data.ndcg(scores))


class Similarity:
    """Scored pairs of sentences as one model sees them."""

    kind = "STS"

    def __init__(self, file: Path, cache: EmbeddingCache) -> None:
        rows = parquet.read_table(file).to_pydict()
        self.sides = [truncate(cache.embed(rows[name])) for name in ("sentence1", "sentence2")]
        self.gold = np.array(rows["score"], np.float64)

    def units(self, dim: int, precision: FewBits | None) -> Units | None:
        """Similarity and score of each pair; codes are not compared here."""
        if precision is not None:
            return None
        left, right = (truncate(side, dim).astype(np.float64) for side in self.sides)
        ids = np.arange(len(self.gold)).astype(np.str_)
        return Units(ids, {"value": (left * right).sum(axis=1), "gold": self.gold}, "spearman")


def main() -> None:
    """Print a row for every kind of task at every size and code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", nargs="+", required=True)
    parser.add_argument("--after", nargs="+", required=True)
    parser.add_argument("--beir", type=Path, nargs="+", default=[])
    parser.add_argument("--mirror", type=Path, help="holds mteb/stsbenchmark-sts and so on; leave it out for no STS")
    parser.add_argument("--dims", type=int, nargs="+", default=[768, 512, 384, 256, 128, 64, 32, 16])
    arguments = parser.parse_args()
    files = [arguments.mirror / "mteb" / name / "test.parquet" for name in STS] if arguments.mirror else []
    sides = [[_tasks(name, arguments.beir, files) for name in names] for names in (arguments.before, arguments.after)]
    width = min(task.width for side in sides for seed in side for task in seed.values() if isinstance(task, Retrieval))
    full = {kind: before for kind, before, _, _ in _compared(*sides, width, None)}
    print("bytes  size  code     of           before   after   difference              kept %")
    cells = [(dim, None) for dim in arguments.dims if dim <= width]
    for dim, precision in [*cells, *((dim, one) for dim, one in CELLS if dim <= width)]:
        for kind, before, after, seeds in _compared(*sides, dim, precision):
            print(
                f"{bytes_per_vector(dim, precision or 'float32'):5d}  {dim:4d}  {precision or 'float32':7}  {kind:9}",
                f" {100 * before.value:7.2f} {100 * after.value:7.2f}   {_shown(after - before, '+')}",
                f"  {_shown(after / full[kind])}   {' '.join(f'{100 * one:+.2f}' for one in seeds)}",
                flush=True,
            )


def _tasks(name: str, folders: list[Path], files: list[Path]) -> dict[str, Retrieval | Similarity]:
    cache = cached(find_model(name), dtype="auto")
    return {str(one): Retrieval(one, cache) for one in folders} | {str(one): Similarity(one, cache) for one in files}


def _compared(
    before: Side, after: Side, dim: int, precision: FewBits | None
) -> Iterator[tuple[str, Estimate, Estimate, list[float]]]:
    """Each kind of task: the means of both sides over tasks and seeds, and the difference of each later seed."""
    found: dict[str, list[tuple[Estimate, Estimate, list[float]]]] = {}
    for name, task in before[0].items():
        units = [one for seed in (*before, *after) if (one := seed[name].units(dim, precision)) is not None]
        if units:
            estimates = bootstrap(units, name)
            old, new = estimates[: len(before)], estimates[len(before) :]
            mean = mean_estimate(old)
            found.setdefault(task.kind, []).append((mean, mean_estimate(new), [one.value - mean.value for one in new]))
    kinds = {kind: _mean(each) for kind, each in found.items()}
    yield from ((kind, *each) for kind, each in kinds.items())
    if len(kinds) > 1:
        yield "mean", *_mean(list(kinds.values()))


def _mean(each: list[tuple[Estimate, Estimate, list[float]]]) -> tuple[Estimate, Estimate, list[float]]:
    before, after, seeds = zip(*each, strict=True)
    return mean_estimate(before), mean_estimate(after), [float(np.mean(one)) for one in zip(*seeds, strict=True)]


def _shown(estimate: Estimate, sign: str = "") -> str:
    interval = estimate.interval()
    low, high = (estimate.value, estimate.value) if interval is None else (interval.low, interval.high)
    value, low, high = (f"{100 * one:{sign}.2f}" for one in (estimate.value, low, high))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
