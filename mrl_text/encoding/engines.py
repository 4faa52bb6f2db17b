"""Where shards are encoded: here, or on a cluster. Both give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mrl_text.choices import EngineName
from mrl_text.encoding.encoders import Encoder, load_encoder
from mrl_text.encoding.job import Job, Reader, Segment
from mrl_text.encoding.shards import encode_shards, open_reader, prepare

if TYPE_CHECKING:
    from mrl_text.encoding.ray_engine import RayEngine


def open_engine(name: EngineName, shards: Sequence[Sequence[Segment]]) -> LocalEngine | RayEngine:
    """The engine of that name; ModuleNotFoundError names the extra that it needs."""
    if name == "local":
        return LocalEngine(shards)
    from mrl_text.encoding.ray_engine import RayEngine

    return RayEngine(shards)


def check_engine(name: EngineName) -> None:
    """Find out whether an engine can be reached; errors as of :func:`mrl_text.encoding.ray_engine.reach_cluster`."""
    if name == "ray":
        from mrl_text.encoding.ray_engine import reach_cluster

        reach_cluster()


class LocalEngine:
    """One model in this process; the files are read once, in order."""

    def __init__(self, shards: Sequence[Sequence[Segment]]) -> None:
        self._shards = shards
        self._encoder: Encoder | None = None

    def announce(self, job: Job, numbers: Sequence[int]) -> None:
        """Say what the texts of these shards cost, of a model behind an API; the files are read for it once more.

        Raises:
            ValueError: more tokens than the job's API may be sent, or no key for it.
        """
        reader = Reader(job.sources)
        rows = (row for number in numbers for _, row in reader.read(self._shards[number]))
        self._loaded(job).announce(row.text for row in rows if row.problem is None)

    def prepare(self, job: Job) -> Job:
        """Settle what takes the model; see :func:`mrl_text.encoding.shards.prepare`."""
        return prepare(job, self._loaded(job), self._shards)

    def encode(self, job: Job, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Number and Parquet file of each of these shards, in order."""
        encoder = self._loaded(job)
        reader = open_reader(job, encoder)
        rows = ((number, reader.read(self._shards[number])) for number in numbers)
        yield from encode_shards(encoder, rows, job)
        encoder.report()

    def _loaded(self, job: Job) -> Encoder:
        if self._encoder is None:
            self._encoder = load_encoder(job)
        return self._encoder
