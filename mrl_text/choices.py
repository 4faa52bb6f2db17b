"""The words that options take, in functions and commands alike. Nothing heavy is imported: ``--help`` stays quick."""

from __future__ import annotations

from typing import Literal

AdaptMethod = Literal["rotation", "pca", "linear"]
"""How the matrix behind a frozen model is fitted."""

AutoDtype = Literal["auto", "float32", "bfloat16"]
"""What a model computes in; ``auto`` takes bfloat16 where the device has it."""

CardChoice = Literal["local", "hub"]
"""Whose text stays where a model card was changed in both places."""

Code = Literal["float32", "float16", "int8", "int4", "binary"]
"""What the prefix of an index is stored in."""

Cost = Literal["largest", "sum"]
"""What a cascade keeps low: the largest size used, or the sum of all."""

Dtype = Literal["float32", "bfloat16", "float16"]
"""What a model computes in."""

EncodedFormat = Literal["parquet", "npy"]
"""How a folder of vectors holds them: shards, or one memory-mapped array."""

EngineName = Literal["local", "ray"]
"""What encodes a corpus: this process, or a Ray cluster."""

Kind = Literal["flat", "hnsw", "ivf"]
"""How an index looks for candidates: all rows, a graph of neighbours, or some of many cells."""

LabelledAs = Literal["classification", "clustering"]
"""What a file of texts and labels is evaluated as."""

Metric = Literal["ndcg@10", "recall@10"]
"""What tuning keeps a share of."""

OnDuplicate = Literal["fail", "first", "last"]
"""What happens to an id that comes more than once."""

OnError = Literal["skip", "fail"]
"""What happens to rows without text."""

OnLong = Literal["cut", "skip", "fail"]
"""What happens to texts longer than the model reads."""

TableFormat = Literal["terminal", "csv", "markdown", "html"]
"""What a leaderboard is written as."""
