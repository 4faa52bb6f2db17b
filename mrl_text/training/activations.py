"""What frozen layers make of texts, kept on disk and bounded in size."""

from __future__ import annotations

import logging
import os
import shutil
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from mrl_text.vector_file import VectorFile, VectorMemory

logger = logging.getLogger(__name__)

_WRITTEN_AT_ONCE = 64 * 2**20  # bytes; a run that is killed loses no more
_SPARE = 2 * 10**9  # bytes of the disk that are left to checkpoints and others


class Activations:
    """Hidden states by key, each (tokens, width), up to a number of bytes.

    Args:
        file: where they are kept, as a :class:`~mrl_text.vector_file.VectorFile`; None is memory.
        width: numbers per token.
        dtype: what they are rounded to.
        limit: bytes; what goes beyond is not kept.
    """

    def __init__(self, file: Path | None, width: int, dtype: torch.dtype, limit: float = float("inf")) -> None:
        self.file, self.dtype, self.limit = file, dtype, limit
        self._per_token = width * dtype.itemsize
        self._store = VectorMemory() if file is None else VectorFile(file)
        self._store.refresh()
        self._waiting: dict[bytes, Tensor] = {}
        self._waiting_bytes = 0
        self.bytes = file.stat().st_size if file is not None and file.exists() else 0  # kept so far

    def used_by(self, tokens: int) -> int:
        """Bytes that so many tokens take."""
        return tokens * self._per_token

    def __contains__(self, key: bytes) -> bool:
        return key in self._store.rows or key in self._waiting

    def get(self, key: bytes, tokens: int) -> Tensor:
        """What was put there, (tokens, width)."""
        if key in self._waiting:
            return self._waiting[key]
        [numbers] = self._store.get([key], self._slots(tokens))
        size = tokens * self._per_token
        return torch.from_numpy(numbers).view(torch.uint8)[:size].view(self.dtype).reshape(tokens, -1)

    def put(self, key: bytes, states: Tensor) -> None:
        """Keep hidden states of ``dtype`` on the CPU, where there is room."""
        if not len(states) or self.bytes + states.nbytes > self.limit:
            return
        self._waiting[key] = states
        self.bytes += states.nbytes
        self._waiting_bytes += states.nbytes
        if self._waiting_bytes >= _WRITTEN_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet. A disk that is full ends the keeping, and a warning says so."""
        by_length: dict[int, list[bytes]] = defaultdict(list)
        for key, states in self._waiting.items():
            by_length[len(states)].append(key)
        try:
            for tokens, keys in by_length.items():
                numbers = torch.zeros(len(keys), 4 * self._slots(tokens), dtype=torch.uint8)
                numbers[:, : tokens * self._per_token] = torch.stack(
                    [self._waiting[key].contiguous().view(torch.uint8).reshape(-1) for key in keys]
                )
                self._store.append(keys, numbers.view(torch.float32).numpy())
        except OSError as error:
            self.limit = 0
            logger.warning(
                "%s cannot be written (%s): activations are computed in each step from here on", *(self.file, error)
            )
        self._waiting, self._waiting_bytes = {}, 0

    def _slots(self, tokens: int) -> int:
        """Numbers of four bytes, which the file is made of, that so many tokens take."""
        return -(-tokens * self._per_token // 4)


def make_room(file: Path, limit: float, needed: float) -> int:
    """Bytes that a file of activations may take of those that all of them may; others make room, the oldest first.

    Args:
        file: in a folder beside those of other layers; it need not be there.
        limit: bytes of all files of activations together; a disk that has less is the limit.
        needed: bytes that the file should take if it can.
    """
    others = sorted(
        (one for one in file.parents[1].glob("*/*.bin") if one != file), key=lambda one: one.stat().st_mtime
    )
    sizes = {one: one.stat().st_size for one in others}
    for one in others:
        if sum(sizes.values()) + min(needed, limit) <= limit:
            break
        logger.info("%s (%.0f MB), activations of other layers, is removed to make room", one, sizes.pop(one) / 1e6)
        one.unlink(missing_ok=True)  # a run that has it open goes on with what it has
    own = 0
    if file.exists():
        os.utime(file)  # it is in use
        own = file.stat().st_size
    there = next(parent for parent in file.absolute().parents if parent.exists())
    free = max(0, shutil.disk_usage(there).free - _SPARE)
    return int(max(0, min(limit - sum(sizes.values()), free + own)))
