"""The end of an encoding: problems collected, .npy files put together, the manifest completed."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from mrl_text.encoding.folder import IDS, PROBLEMS, SHARDS, readable, vectors_of
from mrl_text.encoding.job import Job, column_name
from mrl_text.encoding.manifest import write_manifest
from mrl_text.encoding.shards import METADATA


def lost_files(folder: Path, manifest: dict[str, Any] | None) -> list[str]:
    """Names of shards, and of the list of problems, that a finished folder had and that can be made again."""
    if manifest is None or not manifest["complete"] or manifest["format"] == "npy":
        return []
    files = [*(folder / SHARDS / shard["file"] for shard in manifest["shards"]), folder / PROBLEMS]
    return [file.name for file in files if not file.exists()]


def finish(folder: Path, job: Job, manifest: dict[str, Any], count: int) -> dict[str, Any]:
    """Complete a folder whose shards are all there; may be interrupted and called again. Gives the manifest."""
    files = [folder / SHARDS / f"{number:05d}.parquet" for number in range(count)]
    counts: Counter[str] = Counter()
    shards = []
    partial = folder / f".{PROBLEMS}"
    with partial.open("w", encoding="utf-8") as stream:
        for file in files:
            with readable(file):
                metadata = parquet.read_metadata(file)
            facts = json.loads(metadata.metadata[METADATA])
            counts.update(problem["kind"] for problem in facts["problems"])
            stream.writelines(json.dumps(problem, ensure_ascii=False) + "\n" for problem in facts["problems"])
            shards.append({"file": file.name, "rows": metadata.num_rows})
        _sync(stream)
    partial.replace(folder / PROBLEMS)
    rows = sum(shard["rows"] for shard in shards)
    as_npy = manifest["format"] == "npy"
    if as_npy:
        _assemble(folder, job, files, rows)
    problems = {kind: counts[kind] for kind in manifest["problems"]}
    manifest = {**manifest, "rows": rows, "problems": problems, "shards": [] if as_npy else shards, "complete": True}
    write_manifest(folder, manifest)
    if as_npy:
        shutil.rmtree(folder / SHARDS, ignore_errors=True)
    return manifest


def _assemble(folder: Path, job: Job, files: list[Path], rows: int) -> None:
    """One .npy per size and precision, and ids with the kept columns, shard by shard."""
    names = [column_name(dim, precision) for dim in job.dims for precision in job.precisions]
    for name in names:
        partial = folder / f".{name}.npy"
        with partial.open("wb") as stream:  # not mapped: pages count as memory, and a full disk would be a crash
            for file in files:
                vectors = vectors_of(parquet.read_table(file, columns=[name]).column(0).combine_chunks())
                if not stream.tell():
                    header = np.lib.format.header_data_from_array_1_0(vectors)
                    np.lib.format.write_array_header_1_0(stream, {**header, "shape": (rows, vectors.shape[1])})
                stream.write(vectors.tobytes())
            _sync(stream)
        partial.replace(folder / f"{name}.npy")
    partial = folder / f".{IDS}"
    others = [name for name in parquet.read_schema(files[0]).names if name not in names]
    with partial.open("wb") as stream:
        writer = None
        for file in files:
            table = parquet.read_table(file, columns=others).replace_schema_metadata(None)
            writer = writer or parquet.ParquetWriter(stream, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()
        _sync(stream)
    partial.replace(folder / IDS)


def _sync(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())
