"""Vectors by key in one file that several processes append to and that a killed one cannot spoil."""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock

logger = logging.getLogger(__name__)

KEY_BYTES = 16
_MAGIC = b"mrlvec1\n"
_HEADER = struct.Struct("<8sII16sI")
"""Magic, rows, width, checksum of what follows, checksum of all this; a multiple of 4 bytes, as all parts are."""


class VectorMemory:
    """Vectors by key in memory only; the same calls as :class:`VectorFile`."""

    def __init__(self) -> None:
        self.rows: dict[bytes, int] = {}  # key -> place of the vector's first number
        self.width: int | None = None
        self._numbers = np.empty(0, dtype=np.float32)
        self._used = 0

    def refresh(self) -> None:
        """Nobody else writes here."""

    def append(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Keep vectors, float32 (n, width)."""
        self.width = vectors.shape[1]
        end = self._used + vectors.size
        if end > len(self._numbers):
            larger = np.empty(max(end, 2 * len(self._numbers)), dtype=np.float32)
            larger[: self._used] = self._numbers[: self._used]
            self._numbers = larger
        self._numbers[self._used : end] = vectors.reshape(-1)
        self.rows.update(zip(keys, range(self._used, end, self.width), strict=True))
        self._used = end

    def get(self, keys: Sequence[bytes], width: int | None = None) -> np.ndarray:
        """The vectors of known keys, float32 (n, width); ``width`` is theirs where not all vectors have the same."""
        width = width or self.width
        if width is None or not keys:
            return np.zeros((0, width or 0), dtype=np.float32)
        starts = np.fromiter((self.rows[key] for key in keys), dtype=np.int64, count=len(keys))
        vectors = np.lib.stride_tricks.sliding_window_view(np.asarray(self._numbers), width)
        found: np.ndarray = vectors[starts]
        return found


class VectorFile(VectorMemory):
    """Vectors by key on disk.

    The file is a row of blocks, each with its checksum, that are only ever appended, by one process at a time. A block
    that a killed process left unfinished is cut off; one that is damaged is left out with a warning, and its keys are
    unknown again. The file is memory-mapped: one descriptor, and what is not used costs no memory.

    Args:
        file: made at the first :meth:`append`; a lock file stands beside it.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._lock = FileLock(file.with_name(f".{file.name}.lock"))
        self._end = 0  # of the blocks that are known
        self._inode: int | None = None

    def refresh(self) -> None:
        """Learn what is in the file and was not known yet."""
        if self._file.exists():
            with self._lock:
                self._read_on()

    def append(self, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Write vectors, float32 (n, width), as one block.

        Raises:
            OSError: the folder cannot be written or the disk is full; what was written before is untouched.
        """
        body = b"".join(keys) + np.ascontiguousarray(vectors, dtype="<f4").tobytes()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._read_on()
            with self._file.open("ab") as stream:
                stream.write(_header(len(keys), vectors.shape[1], body) + body)
                stream.flush()
                os.fsync(stream.fileno())
            self._read_on()

    def _read_on(self) -> None:
        """Read what others appended and mend what is broken. The lock is held."""
        if not self._file.exists():
            self._forget()
            return
        if self._file.stat().st_ino != self._inode:  # mended by another process: places are others now
            self._forget()
        with self._file.open("rb") as stream:
            broken = self._read_blocks(stream)
        if broken:
            self._mend()
        if self._inode is None or self._end > 4 * len(self._numbers):
            self._map()

    def _read_blocks(self, stream: BinaryIO) -> bool:
        """Take up the keys of blocks behind those known; whether any was broken."""
        size = os.fstat(stream.fileno()).st_size
        stream.seek(self._end)
        broken = False
        for start, end, width, keys in _blocks(stream, size):
            if keys is None:
                broken = True
                continue
            self.width = width
            first = (start + _HEADER.size + KEY_BYTES * len(keys)) // 4
            self.rows.update(zip(keys, range(first, end // 4, width), strict=True))
            self._end = end
        if self._end < size and not broken:
            os.truncate(self._file, self._end)  # of a process that was killed while it wrote: nobody has read it
        return broken

    def _mend(self) -> None:
        """Write the whole blocks to a new file in this one's place; who has the old one mapped keeps it."""
        logger.warning("%s is damaged; the texts of its damaged parts are encoded again", self._file)
        partial = self._file.with_name(f".{self._file.name}.partial")
        with self._file.open("rb") as old, partial.open("wb") as new:
            size = os.fstat(old.fileno()).st_size
            for start, end, _, keys in _blocks(old, size):
                if keys is not None:
                    old.seek(start)
                    new.write(old.read(end - start))
            new.flush()
            os.fsync(new.fileno())
        partial.replace(self._file)
        self._forget()
        with self._file.open("rb") as stream:
            self._read_blocks(stream)

    def _map(self) -> None:
        self._inode = self._file.stat().st_ino
        empty = np.empty(0, dtype=np.float32)
        self._numbers = np.memmap(self._file, dtype="<f4", mode="r", shape=(self._end // 4,)) if self._end else empty

    def _forget(self) -> None:
        self.rows, self.width, self._end, self._inode = {}, None, 0, None


def _blocks(stream: BinaryIO, size: int) -> Iterator[tuple[int, int, int, list[bytes] | None]]:
    """Start, end, width and keys of each block from here on; keys are None where it is damaged.

    An unfinished block at the end is left out. Behind a header that cannot be read nothing can be found.
    """
    start = stream.tell()
    while start + _HEADER.size <= size:
        header = stream.read(_HEADER.size)
        _, rows, width, *_ = _HEADER.unpack(header)
        end = start + _HEADER.size + rows * (KEY_BYTES + 4 * width)
        if not header.startswith(_MAGIC) or zlib.crc32(header[:-4]) != int.from_bytes(header[-4:], "little"):
            yield start, size, 0, None
            return
        if end > size:
            return
        body = stream.read(end - start - _HEADER.size)
        keys = [body[at : at + KEY_BYTES] for at in range(0, KEY_BYTES * rows, KEY_BYTES)]
        yield start, end, width, keys if header == _header(rows, width, body) else None
        stream.seek(end)
        start = end


def _header(rows: int, width: int, body: bytes) -> bytes:
    header = _HEADER.pack(_MAGIC, rows, width, hashlib.blake2b(body, digest_size=16).digest(), 0)[:-4]
    return header + zlib.crc32(header).to_bytes(4, "little")
