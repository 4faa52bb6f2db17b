"""What an index keeps on disk, and how a change becomes the state that a reader or a later run finds.

A folder holds rows, and ``index.json`` says which of them count. Vectors are appended to files of raw float16; ids and
texts come in Arrow files, one per save; everything else is written anew under another name. Replacing ``index.json``
is the one moment at which a save happens: a process killed at any other leaves what was saved before, and the bytes it
wrote beyond that are dropped by the next writer. A reader opens all files when it loads, so that a writer can take
them away by name at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import AcquireReturnProxy

from mrl_text.files import check_writable, hold, holds_files, write_atomically
from mrl_text.truncation import truncate

MANIFEST = "index.json"
ROW_TYPE = np.dtype("<f2")
_VERSION = 1
_GROWING = ".f16"  # files that may hold rows beyond what was saved
_MEND = "copy it again or build it anew"
_LOOKED_AT = 64
_ROUNDING = 0.02  # of unit vectors in float16, far less
_TEXTS_TOGETHER = 65_536
_UNFINISHED = re.compile(r"\.(index\.json|(rows|removed|shortlist)-\d+\.(arrow|npy|faiss))\.\w+")
"""What a writer that was killed leaves beside a file."""


class IndexFolder:
    """The files of one index.

    Attributes:
        manifest: what was saved last: ``width``, ``count``, ``segments``, ``files``, ``vectors`` and what the index
            adds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {}
        self._lock: AcquireReturnProxy | None = None
        self._tables: dict[str, pa.Table] = {}
        self._opened: dict[str, int] = {}  # files of vectors, which stay readable when their names are gone
        weakref.finalize(self, _close, self._opened)

    @classmethod
    def create(cls, path: Path, manifest: dict[str, Any]) -> IndexFolder:
        """A new folder with no rows; errors as of :meth:`check_place`."""
        cls.check_place(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = cls(path)
        folder.manifest = {"version": _VERSION, "generation": 0, "count": 0, "segments": [], "files": {}, **manifest}
        folder.lock()
        folder._write_manifest(folder.manifest)
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
        """What was saved last, with all its files open.

        Raises:
            FileNotFoundError: no index there.
            ValueError: a file is missing or other than when it was saved, or a newer version wrote it.
        """
        folder = cls(path)
        folder.manifest = read_manifest(path)
        for fault in folder._wrong_sizes():
            raise ValueError(fault)
        state = folder.manifest
        rows = sum(segment["rows"] for segment in state["segments"])
        if rows != folder.count or state["width"] not in state["vectors"].values():
            raise not_described(path)
        for name in state["vectors"] if folder.count else ():
            folder._descriptor(name)
        for segment in state["segments"]:
            folder.texts(segment)
        folder._check_vectors()
        return folder

    def emptied(self, vectors: dict[str, int]) -> IndexFolder:
        """The same folder without rows, to be written anew; nothing of it counts before its :meth:`commit`.

        Args:
            vectors: names of its files of vectors, new ones, and their sizes.
        """
        fresh = IndexFolder(self.path)
        fresh.manifest = {**self.manifest, "count": 0, "segments": [], "files": {}, "vectors": vectors}
        fresh._lock = self._lock
        return fresh

    @property
    def count(self) -> int:
        """Rows saved, removed ones included."""
        return int(self.manifest["count"])

    @property
    def full(self) -> str:
        """Name of the file of full vectors."""
        sizes: dict[str, int] = self.manifest["vectors"]
        return next(name for name, size in sizes.items() if size == self.manifest["width"])

    def lock(self) -> None:
        """Become the one process that may write, and drop what an interrupted writer left behind.

        ValueError where another process writes, or has saved since this one read.
        """
        if self._lock is not None:
            return
        self._lock = hold(self.path)
        if not (self.path / MANIFEST).exists():
            return
        if not self._is_current():
            self._lock.lock.release()
            self._lock = None
            raise ValueError(f"{self.path} was changed by another process since it was loaded: load it again")
        self._drop_leftovers()

    def release(self) -> None:
        """Let other processes write."""
        if self._lock is not None:
            if (self.path / MANIFEST).exists() and self._is_current():
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

    def _is_current(self) -> bool:
        return bool(read_manifest(self.path)["generation"] == self.manifest["generation"])

    def _drop_leftovers(self) -> None:
        """Delete what does not count, and cut what was appended to what does; only one writer is there."""
        expected = self._expected_sizes()
        for file in self.path.iterdir():
            if (size := expected.get(file.name)) is not None:
                if file.suffix == _GROWING and file.stat().st_size > size:
                    os.truncate(file, size)
            elif file.suffix in (_GROWING, ".arrow", ".npy", ".faiss") or _UNFINISHED.fullmatch(file.name):
                with contextlib.suppress(OSError):  # a system that keeps open files: the next writer's
                    file.unlink()
        for gone in self._opened.keys() - expected.keys():
            os.close(self._opened.pop(gone))
        self._tables = {name: table for name, table in self._tables.items() if name in expected}

    def write_rows(self, name: str, rows: np.ndarray, first: int) -> None:
        """Write float rows (n, size) as float16 to a file of vectors from position ``first`` on, and nothing behind.

        They count from the next :meth:`commit` on. What a failed or interrupted write left is overwritten.
        """
        file = self.path / name
        file.touch()
        with file.open("r+b") as stream:
            stream.seek(first * rows.shape[1] * ROW_TYPE.itemsize)
            stream.truncate()
            stream.write(np.ascontiguousarray(rows, dtype=ROW_TYPE).tobytes())

    def rows(self, name: str, size: int, count: int) -> np.ndarray:
        """The first ``count`` rows of a file of vectors: float16 (count, size), memory-mapped, read-only."""
        if not count:
            return np.zeros((0, size), dtype=ROW_TYPE)
        mapped = mmap.mmap(self._descriptor(name), count * size * ROW_TYPE.itemsize, access=mmap.ACCESS_READ)
        # candidates lie all over the file, and reading ahead would fetch 128 KB for each
        with contextlib.suppress(AttributeError, OSError, ValueError):
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, ROW_TYPE).reshape(count, size)

    def blocks(
        self, name: str, size: int, count: int, *, first: int = 0, block: int = 16_384
    ) -> Iterator[tuple[int, np.ndarray]]:
        """``count`` rows of a file of vectors from ``first`` on, read and not mapped: position, float16 (m, size)."""
        row = size * ROW_TYPE.itemsize
        for start in range(first, first + count, block):
            content = os.pread(self._descriptor(name), min(block, first + count - start) * row, start * row)
            yield start, np.frombuffer(content, ROW_TYPE).reshape(-1, size)

    def write(self, name: str, content: bytes) -> dict[str, Any]:
        """Write a file whole; returns what the manifest needs to recognise it: name, bytes and checksum."""
        write_atomically(self.path / name, content)
        return {"name": name, "bytes": len(content), "blake2b": _new_digest(content).hexdigest()}

    def write_texts(self, tables: Iterable[pa.Table], schema: pa.Schema, first: int) -> dict[str, Any]:
        """Write ids, texts and further columns as an Arrow file; tables are held some at a time.

        Args:
            tables: their rows in order, one at least.
            schema: of all of them.
            first: position of the first row, whose vectors are written already, as are those of the others.

        Returns:
            What the manifest needs: as :meth:`write`, the number of rows, and a checksum of their vectors.
        """
        file = self.path / f"rows-{int(self.manifest['generation']) + 1:06d}.arrow"
        rows = 0
        with file.open("wb") as stream:
            with pa.ipc.new_file(stream, schema) as writer:
                for table in _together(tables):
                    writer.write_table(table)
                    rows += len(table)
            stream.flush()
            os.fsync(stream.fileno())
        found = {"name": file.name, "bytes": file.stat().st_size, "blake2b": _file_digest(file)}
        return {**found, "rows": rows, "vectors": self._vectors_digest(first, rows)}

    def texts(self, segment: dict[str, Any]) -> pa.Table:
        """Ids, texts and further columns of a saved segment, memory-mapped."""
        name = segment["name"]
        if name not in self._tables:
            try:
                with pa.memory_map(str(self.path / name)) as file:  # what was read stays when it is closed
                    table = pa.ipc.open_file(file).read_all()
            except (pa.ArrowException, OSError) as error:
                raise ValueError(self._damaged(name)) from error
            if len(table) != segment["rows"]:
                raise ValueError(self._damaged(name))
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
        self._write_manifest({**manifest, "generation": int(self.manifest["generation"]) + 1})
        self._drop_leftovers()

    def verify(self) -> None:
        """Read every file; ValueError for one that is not what was saved."""
        for fault in self._faults():
            raise ValueError(fault)

    def _faults(self) -> Iterator[str]:
        yield from (wrong := list(self._wrong_sizes()))
        if wrong:
            return
        for entry in [*self.manifest["files"].values(), *self.manifest["segments"]]:
            if _file_digest(self.path / entry["name"]) != entry["blake2b"]:
                yield self._damaged(entry["name"])
        first = 0
        for segment in self.manifest["segments"]:
            if self._vectors_digest(first, segment["rows"]) != segment["vectors"]:
                yield self._damaged(self.full)
                return
            first += segment["rows"]
        full = self.blocks(self.full, self.manifest["width"], self.count)
        others = {name: size for name, size in self.manifest["vectors"].items() if name != self.full}
        for first, rows in full if others else ():
            for name, size in others.items():
                [(_, cut)] = self.blocks(name, size, len(rows), first=first, block=len(rows))
                if not _is_cut(cut, rows):
                    yield self._damaged(name)
                    return

    def checked(self, entry: dict[str, Any]) -> Path:
        """A file that :meth:`write` wrote, read once; ValueError where it is not what was saved."""
        file: Path = self.path / entry["name"]
        if _file_digest(file) != entry["blake2b"]:
            raise ValueError(self._damaged(file.name))
        return file

    def _wrong_sizes(self) -> Iterator[str]:
        for name, size in self._expected_sizes().items():
            file = self.path / name
            if not file.is_file():
                yield f"{file} is missing: the index is damaged, {_MEND}"
                continue
            found = file.stat().st_size
            if found < size or (found > size and file.suffix != _GROWING):
                yield f"{file} has {found} bytes and {size} were saved: the index is damaged, {_MEND}"

    def _check_vectors(self) -> None:
        """Look at some vectors: full ones have length 1, smaller sizes are cut from them. All would take minutes."""
        sizes: dict[str, int] = self.manifest["vectors"]
        step = max(1, self.count // _LOOKED_AT)
        some = {name: self.rows(name, size, self.count)[::step] for name, size in sizes.items()}
        full = some.pop(self.full)
        with np.errstate(all="ignore"):
            if not np.allclose(np.linalg.norm(full.astype(np.float32), axis=1), 1, atol=_ROUNDING):
                raise ValueError(self._damaged(self.full))
        for name, rows in some.items():
            if not _is_cut(rows, full):
                raise ValueError(self._damaged(name))

    def _damaged(self, name: str) -> str:
        return f"{self.path / name} is not what was saved: the index is damaged, {_MEND}"

    def _vectors_digest(self, first: int, count: int) -> str:
        digest = _new_digest()
        for _, rows in self.blocks(self.full, self.manifest["width"], count, first=first):
            digest.update(rows.tobytes())
        return digest.hexdigest()

    def _expected_sizes(self) -> dict[str, int]:
        entries = [*self.manifest["files"].values(), *self.manifest["segments"]]
        sizes = {entry["name"]: int(entry["bytes"]) for entry in entries}
        rows = {name: self.count * size * ROW_TYPE.itemsize for name, size in self.manifest.get("vectors", {}).items()}
        return {**sizes, **{name: size for name, size in rows.items() if size}}

    def _descriptor(self, name: str) -> int:
        """An open file of vectors."""
        if name not in self._opened:
            self._opened[name] = os.open(self.path / name, os.O_RDONLY)
        return self._opened[name]

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_atomically(self.path / MANIFEST, json.dumps(manifest, indent=1).encode())
        self.manifest = manifest


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


def faults(path: Path) -> list[str]:
    """What is not as it was saved, in words; every file is read. Errors as of :func:`read_manifest`."""
    while True:
        folder = IndexFolder(path)
        folder.manifest = read_manifest(path)
        try:
            found = list(folder._faults())
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            found = [str(not_described(path))]
        if folder._is_current():  # else another process saved meanwhile, and deleted files that we looked for
            return found


def not_described(path: Path) -> ValueError:
    """The error for a state that is there and says too little."""
    return ValueError(f"{path / MANIFEST} is not the description of an index, or damaged: {_MEND}")


_new_digest = partial(hashlib.blake2b, digest_size=16)


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, _new_digest).hexdigest()


def _is_cut(rows: np.ndarray, full: np.ndarray) -> bool:
    """Whether vectors of a smaller size are those of full ones, cut."""
    with np.errstate(all="ignore"):
        cut = truncate(full.astype(np.float32), rows.shape[1])
        return bool(np.allclose(rows.astype(np.float32), cut, atol=_ROUNDING))


def _together(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables joined to such of many rows, each in one piece."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= _TEXTS_TOGETHER:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _close(opened: dict[str, int]) -> None:
    for descriptor in opened.values():
        os.close(descriptor)
