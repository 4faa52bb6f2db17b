"""The words that options take, in functions and commands alike. Nothing heavy is imported: ``--help`` stays quick."""

from __future__ import annotations

from typing import Literal

AdaptMethod = Literal["rotation", "pca", "linear"]  # how the matrix behind a frozen model is fitted

AutoDtype = Literal["auto", "float32", "bfloat16", "int8"]
"""What a model computes in; ``auto`` takes bfloat16 where the device has it, ``int8`` is for others than torch."""

Backend = Literal["torch", "onnx", "openvino"]  # what computes a model's transformer

AutoBackend = Literal["auto", "torch", "onnx", "openvino"]
"""Likewise; ``auto`` is the fastest of those that are installed, by a short trial."""

BackendDtype = Literal["float32", "bfloat16", "int8"]  # what other backends than torch compute in

CardChoice = Literal["local", "hub"]  # whose text stays where a model card was changed in both places

RaBitQ = Literal[
    "RaBitQfs",
    "RaBitQ2",
    "RaBitQfs2",
    "RaBitQ3",
    "RaBitQfs3",
    "RaBitQ4",
    "RaBitQfs4",
    "RaBitQ5",
    "RaBitQfs5",
    "RaBitQ6",
    "RaBitQfs6",
    "RaBitQ7",
    "RaBitQfs7",
    "RaBitQ8",
    "RaBitQfs8",
]  # FAISS's words, with the bits of a number; ``fs`` is FastScan

Code = Literal["float32", "float16", "int8", "int4", "int2", "int1.5", "int1", "binary", RaBitQ]
"""What the prefix of an index is stored in."""

Cost = Literal["largest", "sum"]  # what a cascade keeps low: the largest size used, or the sum of all

Dtype = Literal["float32", "bfloat16", "float16", "int8"]  # what a model computes in; int8 is for others than torch

EncodedFormat = Literal["parquet", "npy"]  # how a folder of vectors holds them: shards, or one memory-mapped array

EngineName = Literal["local", "ray"]  # what encodes a corpus: this process, or a Ray cluster

EngineWord = Literal[
    "faiss",
    "pgvector",
    "qdrant",
    "elasticsearch",
    "opensearch",
    "milvus",
    "lancedb",
    "vespa",
    "weaviate",
    "redis",
    "sqlite-vec",
    "usearch",
]
"""What holds vectors and finds near ones; ``eval/engines.toml`` says what each can store."""

Kind = Literal["flat", "hnsw", "ivf"]
"""How an index looks for candidates: all rows, a graph of neighbours, or some of many cells."""

LabelledAs = Literal["classification", "clustering"]  # what a file of texts and labels is evaluated as

Metric = Literal["ndcg@10", "recall@10"]  # what tuning keeps a share of

OnDuplicate = Literal["fail", "first", "last"]  # what happens to an id that comes more than once

OnError = Literal["skip", "fail"]  # what happens to rows without text

OnLong = Literal["cut", "skip", "fail"]  # what happens to texts longer than the model reads

RunFormat = Literal["jsonl", "csv", "trec"]  # what the results of a file of queries are written as

TableFormat = Literal["terminal", "csv", "markdown", "html"]  # what a leaderboard is written as
