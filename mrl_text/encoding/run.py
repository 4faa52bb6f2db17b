"""One call's work on an encoded folder: the shards that are not there yet, then what completes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrl_text.choices import EngineName
from mrl_text.codes import CODEC_FILE
from mrl_text.encoding.completion import finish
from mrl_text.encoding.engines import LocalEngine, open_engine
from mrl_text.encoding.folder import MANIFEST, SHARDS
from mrl_text.encoding.job import Job, Segment
from mrl_text.encoding.manifest import describe, restore, write_manifest
from mrl_text.files import write_atomically
from mrl_text.progress import progress_bar


@dataclass
class Run:
    """One call's work on a folder."""

    folder: Path
    engine: EngineName
    shards: list[list[Segment]]
    progress: bool

    def finish(self, job: Job, bound: dict[str, Any], manifest: dict[str, Any] | None) -> tuple[dict[str, Any], int]:
        """Encode what is missing and complete the folder; the manifest and the rows read now."""
        leftovers = [*(self.folder / SHARDS).glob(".*"), *self.folder.glob(f".{MANIFEST}.*")]
        for leftover in leftovers:  # of writes that were killed
            leftover.unlink()
        todo = [number for number in range(len(self.shards)) if not self._file(number).exists()]
        engine = open_engine(self.engine, self.shards)
        if job.api is not None and todo:
            assert isinstance(engine, LocalEngine)
            engine.announce(job, todo)
        if manifest is None:
            job = engine.prepare(job)
            manifest = describe(job, bound)
            if job.codec is not None:
                job.codec.save(self.folder / CODEC_FILE)
            write_manifest(self.folder, manifest)
        else:
            job = restore(job, manifest, self.folder)
            if manifest["on_long"] != job.on_long:
                manifest = {**manifest, "on_long": job.on_long}
                write_manifest(self.folder, manifest)
        if todo:
            self._write(engine.encode(job, todo))
        return finish(self.folder, job, manifest, len(self.shards)), sum(map(self._rows, todo))

    def _write(self, encoded: Iterator[tuple[int, bytes]]) -> None:
        numbers = range(len(self.shards))
        with progress_bar(
            total=sum(map(self._rows, numbers)), unit="row", desc="Encoding", disable=not self.progress
        ) as bar:
            bar.update(sum(self._rows(number) for number in numbers if self._file(number).exists()))
            for number, content in encoded:
                write_atomically(self._file(number), content)
                bar.update(self._rows(number))

    def _rows(self, number: int) -> int:
        return sum(segment.take for segment in self.shards[number])

    def _file(self, number: int) -> Path:
        return self.folder / SHARDS / f"{number:05d}.parquet"
