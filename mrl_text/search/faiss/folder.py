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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import AcquireReturnProxy

from mrl_text.files import check_writable, hold, holds_files, write_atomically
from mrl_text.truncation import truncate

MANIFEST = "index.json"
VECTORS = "vectors.f16"
_VERSION = 1
_GROWING = ".f16"  # files that may hold rows beyond what was saved
_MEND = "copy it again or build it anew"
_LOOKED_AT = 64
_ROUNDING = 0.02  # of unit vectors in float16, far less
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
        """A new folder with no rows; errors as of :meth:`check_place`."""
        cls.check_place(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder.manifest = {"version": _VERSION, "generation": 0, "count": 0, "segments": [], "files": {}, **manifest}
        folder.lock()
        folder._write_manifest()
        return folder

    @staticmethod
    def check_place(path: Path) -> None:
        """Raise FileExistsError where a new folder has files already or is one, OSError where none can be written."""
        check_writable(path, "choose another folder")
        if holds_files(path):
            what = "is an index already: load it, or" if (path / MANIFEST).exists() else "has files already:"
            raise FileExistsError(f"{path} {what} choose another folder")

    @classmethod
    def load(cls, path: Path) -> IndexFolder:
        """What was saved last.

        Raises:
            FileNotFoundError: no index there.
            ValueError: a file is missing or other than when it was saved, or a newer version wrote it.
        """
        folder = cls(path)
        folder.manifest = read_manifest(path)
        for name, size in folder._expected_sizes().items():
            file = path / name
            if not file.is_file():
                raise ValueError(f"{file} is missing: the index is damaged, {_MEND}")
            found = file.stat().st_size
            if found < size or (found > size and file.suffix != _GROWING):
                raise ValueError(f"{file} has {found} bytes and {size} were saved: the index is damaged, {_MEND}")
        state = folder.manifest
        known = sum(segment["rows"] for segment in state["segments"]), state["vectors"][VECTORS]
        if known != (folder.count, state["width"]):
            raise not_described(path)
        folder._check_vectors()
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

    def delete(self) -> None:
        """Delete the files, the one that says what counts first, and the folder where it has no others."""
        self.lock()
        for name in (MANIFEST, *self._expected_sizes(), ".lock"):
            (self.path / name).unlink(missing_ok=True)
        self.release()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _drop_leftovers(self) -> None:
        expected = self._expected_sizes()
        for file in self.path.iterdir():
            if file.name in expected and file.suffix == _GROWING:
                os.truncate(file, expected[file.name])
            elif file.name not in expected and file.suffix in (_GROWING, ".arrow", ".npy", ".faiss"):
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
            try:
                table = pa.ipc.open_file(pa.memory_map(str(self.path / name))).read_all()
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(name) from error
            if len(table) != segment["rows"]:
                raise self._damaged(name)
            self._tables[name] = table
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
            self.checked(entry)
        first = 0
        for segment in self.manifest["segments"]:
            if self._vectors_digest(first, segment["rows"]) != segment["vectors"]:
                raise self._damaged(VECTORS)
            first += segment["rows"]

    def checked(self, entry: dict[str, Any]) -> Path:
        """A file that :meth:`write` wrote, read once; ValueError where it is not what was saved."""
        file: Path = self.path / entry["name"]
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, _new_digest).hexdigest() != entry["blake2b"]:
                raise self._damaged(file.name)
        return file

    def _check_vectors(self) -> None:
        """Look at some vectors: full ones have length 1, smaller sizes are cut from them. All would take minutes."""
        sizes: dict[str, int] = self.manifest["vectors"]
        step = max(1, self.count // _LOOKED_AT)
        some = {name: self.rows(name, size, self.count)[::step].astype(np.float32) for name, size in sizes.items()}
        full = some.pop(VECTORS)
        with np.errstate(all="ignore"):
            if not np.allclose(np.linalg.norm(full, axis=1), 1, atol=_ROUNDING):
                raise self._damaged(VECTORS)
            for name, rows in some.items():
                if not np.allclose(rows, truncate(full, sizes[name]), atol=_ROUNDING):
                    raise self._damaged(name)

    def _damaged(self, name: str) -> ValueError:
        return ValueError(f"{self.path / name} is not what was saved: the index is damaged, {_MEND}")

    def _vectors_digest(self, first: int, count: int) -> str:
        digest = _new_digest()
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
        raise not_described(path) from None
    if version != _VERSION:
        raise ValueError(f"{path} was written in version {version} of the layout, this is {_VERSION}: update mrl-text")
    if "generation" not in manifest:
        raise not_described(path)
    return manifest


def not_described(path: Path) -> ValueError:
    """The error for a state that is there and says too little."""
    return ValueError(f"{path / MANIFEST} is not the description of an index, or damaged: {_MEND}")


_new_digest = partial(hashlib.blake2b, digest_size=16)


def _digest(content: bytes) -> str:
    return _new_digest(content).hexdigest()
