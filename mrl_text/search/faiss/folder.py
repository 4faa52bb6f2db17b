"""What an index keeps on disk, and how a change becomes the state that a reader or a later run finds.

A folder holds rows, and ``index.json`` says which of them count. Vectors are appended to files of raw float16; ids and
texts come in Arrow files, one per save; everything else is written anew under another name. Replacing ``index.json``
is the one moment at which a save happens: a process killed at any other leaves what was saved before, and the bytes it
wrote beyond that are dropped by the next writer.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import AcquireReturnProxy

from mrl_text.files import hold, write_atomically

MANIFEST = "index.json"
VECTORS = "vectors.f16"
_VERSION = 1
_ROW_TYPE = np.dtype("<f2")
_SCHEMA = pa.schema([("id", pa.large_string()), ("text", pa.large_string())])


class IndexFolder:
    """The files of one index.

    Attributes:
        manifest: what was saved last: ``width``, ``count``, ``segments``, ``files`` and what the index adds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {}
        self._lock: AcquireReturnProxy | None = None
        self._tables: dict[str, pa.Table] = {}

    @classmethod
    def create(cls, path: Path, manifest: dict[str, Any]) -> IndexFolder:
        """A new folder with no rows; FileExistsError where it has files already."""
        if path.exists() and any(path.iterdir()):
            what = "is an index already: load it" if (path / MANIFEST).exists() else "has files already"
            raise FileExistsError(f"{path} {what}, or choose another folder")
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder.manifest = {"version": _VERSION, "generation": 0, "count": 0, "segments": [], "files": {}, **manifest}
        folder.lock()
        folder._write_manifest()
        return folder

    @classmethod
    def load(cls, path: Path) -> IndexFolder:
        """What was saved last.

        Raises:
            FileNotFoundError: no index there, or one of its files is missing.
            ValueError: a file is shorter or other than when it was saved, or a newer version wrote it.
        """
        folder = cls(path)
        folder.manifest = read_manifest(path)
        for name, size in folder._expected_sizes().items():
            file = path / name
            if not file.is_file():
                raise FileNotFoundError(f"{file} is missing: the index is incomplete, copy it again or build it anew")
            if file.stat().st_size < size:
                found, mend = file.stat().st_size, "the index is damaged, copy it again or build it anew"
                raise ValueError(f"{file} has {found} bytes and {size} were saved: {mend}")
        return folder

    @property
    def count(self) -> int:
        """Rows saved, removed ones included."""
        return int(self.manifest["count"])

    def lock(self) -> None:
        """Become the one process that may write, and drop what an interrupted writer left behind.

        ValueError where another process writes, or has saved since this one read.
        """
        if self._lock is not None:
            return
        self._lock = hold(self.path)
        if not (self.path / MANIFEST).exists():
            return
        if read_manifest(self.path)["generation"] != self.manifest["generation"]:
            self._lock.lock.release()
            self._lock = None
            raise ValueError(f"{self.path} was changed by another process since it was loaded: load it again")
        self._drop_leftovers()

    def release(self) -> None:
        """Let other processes write."""
        if self._lock is not None:
            if (self.path / MANIFEST).exists():
                self._drop_leftovers()
            self._lock.lock.release()
            self._lock = None

    def _drop_leftovers(self) -> None:
        expected = self._expected_sizes()
        for file in self.path.iterdir():
            if file.name in expected and file.suffix == ".f16":
                os.truncate(file, expected[file.name])
            elif file.name not in expected and file.suffix in (".f16", ".arrow", ".npy", ".faiss"):
                file.unlink()

    def write_rows(self, name: str, rows: np.ndarray, first: int) -> None:
        """Write float rows (n, size) as float16 to a file of vectors from position ``first`` on, and nothing behind.

        They count from the next :meth:`commit` on. What a failed or interrupted write left is overwritten.
        """
        file = self.path / name
        file.touch()
        with file.open("r+b") as stream:
            stream.seek(first * rows.shape[1] * _ROW_TYPE.itemsize)
            stream.truncate()
            stream.write(np.ascontiguousarray(rows, dtype=_ROW_TYPE).tobytes())

    def rows(self, name: str, size: int, count: int) -> np.ndarray:
        """The first ``count`` rows of a file of vectors: float16 (count, size), memory-mapped, read-only."""
        if not count:
            return np.zeros((0, size), dtype=_ROW_TYPE)
        with (self.path / name).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), count * size * _ROW_TYPE.itemsize, access=mmap.ACCESS_READ)
        # candidates lie all over the file, and reading ahead would fetch 128 KB for each
        with contextlib.suppress(AttributeError, OSError, ValueError):
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, _ROW_TYPE).reshape(count, size)

    def blocks(
        self, name: str, size: int, count: int, *, first: int = 0, block: int = 16_384
    ) -> Iterator[tuple[int, np.ndarray]]:
        """``count`` rows of a file of vectors from ``first`` on, read and not mapped: position, float16 (m, size)."""
        if not count:
            return
        with (self.path / name).open("rb") as stream:
            stream.seek(first * size * _ROW_TYPE.itemsize)
            for start in range(first, first + count, block):
                some = min(block, first + count - start)
                yield start, np.fromfile(stream, dtype=_ROW_TYPE, count=some * size).reshape(some, size)

    def write(self, name: str, content: bytes) -> dict[str, Any]:
        """Write a file whole; returns what the manifest needs to recognise it: name, bytes and checksum."""
        write_atomically(self.path / name, content)
        return {"name": name, "bytes": len(content), "blake2b": _digest(content)}

    def write_texts(
        self, ids: Sequence[str], texts: Sequence[str | None], columns: Mapping[str, pa.Array] | None = None
    ) -> dict[str, Any]:
        """Write ids, texts and further columns of the rows since the last commit as an Arrow file.

        Returns what the manifest needs: as :meth:`write`, the number of rows, and a checksum of their vectors.
        """
        stream = io.BytesIO()
        table = pa.table({"id": list(ids), "text": list(texts)}, schema=_SCHEMA)
        for name, values in (columns or {}).items():
            table = table.append_column(name, values)
        with pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)
        number = int(self.manifest["generation"]) + 1
        vectors = self._vectors_digest(self.count, len(ids))
        return {**self.write(f"rows-{number:06d}.arrow", stream.getvalue()), "rows": len(ids), "vectors": vectors}

    def texts(self, segment: dict[str, Any]) -> pa.Table:
        """Ids, texts and further columns of a saved segment, memory-mapped."""
        name = segment["name"]
        if name not in self._tables:
            self._tables[name] = pa.ipc.open_file(pa.memory_map(str(self.path / name))).read_all()
        return self._tables[name]

    def commit(self, manifest: dict[str, Any], appended: Sequence[str]) -> None:
        """Make a new state the one that counts, and delete files that only older ones needed.

        Args:
            manifest: the new state, complete but for ``generation``.
            appended: files of vectors that grew; they are on the disk before the state is.
        """
        for name in appended:
            with (self.path / name).open("rb") as stream:
                os.fsync(stream.fileno())
        before = set(self._expected_sizes())
        self.manifest = {**manifest, "generation": int(self.manifest["generation"]) + 1}
        self._write_manifest()
        for name in before - set(self._expected_sizes()):
            (self.path / name).unlink(missing_ok=True)

    def verify(self) -> None:
        """Read every file that has a checksum; ValueError where one is not what was saved."""
        for entry in [*self.manifest["files"].values(), *self.manifest["segments"]]:
            if _digest((self.path / entry["name"]).read_bytes()) != entry["blake2b"]:
                raise ValueError(f"{self.path / entry['name']} is not what was saved: copy the index again")
        first = 0
        for segment in self.manifest["segments"]:
            if self._vectors_digest(first, segment["rows"]) != segment["vectors"]:
                raise ValueError(f"{self.path / VECTORS} is not what was saved: copy the index again")
            first += segment["rows"]

    def _vectors_digest(self, first: int, count: int) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for _, rows in self.blocks(VECTORS, self.manifest["width"], count, first=first):
            digest.update(rows.tobytes())
        return digest.hexdigest()

    def _expected_sizes(self) -> dict[str, int]:
        entries = [*self.manifest["files"].values(), *self.manifest["segments"]]
        sizes = {entry["name"]: int(entry["bytes"]) for entry in entries}
        rows = {name: self.count * size * _ROW_TYPE.itemsize for name, size in self.manifest.get("vectors", {}).items()}
        return {**sizes, **{name: size for name, size in rows.items() if size}}

    def _write_manifest(self) -> None:
        write_atomically(self.path / MANIFEST, json.dumps(self.manifest, indent=1).encode())


def read_manifest(path: Path) -> dict[str, Any]:
    """The state that counts now; ValueError for another file or a newer version, FileNotFoundError without an index."""
    file = path / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"no index at {path} (it has no {MANIFEST}): build one with mrl-text index build")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["version"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} is not the description of an index") from None
    if version != _VERSION:
        raise ValueError(f"{path} was written in version {version} of the layout, this is {_VERSION}: update mrl-text")
    return manifest


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
