"""From the files of a corpus to a folder of vectors, shard by shard; interrupted, it goes on where it was."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrl_text.api.options import ApiOptions
from mrl_text.choices import AutoBackend, AutoDtype, EncodedFormat, EngineName, OnError, OnLong
from mrl_text.codes import CODEC_FILE
from mrl_text.encoding.folder import MANIFEST, PROBLEMS, SHARDS, EncodedFolder, readable
from mrl_text.encoding.job import TEXT, Job, column_types, split
from mrl_text.encoding.manifest import binding, check_same, read_manifest
from mrl_text.files import check_writable, hold
from mrl_text.models import find_any_model
from mrl_text.suggest import check_choice
from mrl_text.tables.corpus import open_corpus
from mrl_text.truncation import Precision, check_dims

logger = logging.getLogger(__name__)

SHARD_ROWS = 8192


@dataclass(frozen=True)
class EncodeReport:
    """What an encoding did."""

    folder: Path  # where the vectors are
    rows: int  # in the folder
    encoded: int  # rows read in this call; the others were there
    seconds: float  # of the whole call
    backend: str  # what computed the model
    dtype: str  # what in
    left_out: int  # rows without a vector
    cut: int  # texts longer than the model reads
    misfits: int  # cells of kept columns that did not fit their column and are null
    problems: list[str]  # the first ten of all these, with their place; all of them are in ``problems.jsonl``

    @property
    def noted(self) -> int:
        """How many problems ``problems.jsonl`` has."""
        return self.left_out + self.cut + self.misfits


def encode_files(
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    model: str,
    dims: Sequence[int] | None = None,
    precisions: Sequence[Precision] = ("float32",),
    keep: Sequence[str] = (),
    text_columns: Sequence[str] = (),
    id_column: str | None = None,
    limit: int | None = None,
    on_error: OnError = "skip",
    on_long: OnLong = "cut",
    shard_rows: int = SHARD_ROWS,
    format: EncodedFormat = "parquet",  # the word of the files and of the command
    backend: AutoBackend = "torch",
    dtype: AutoDtype = "auto",
    device: str | None = None,
    token_budget: int | None = None,
    engine: EngineName = "local",
    trust_remote_code: bool = False,
    api: ApiOptions | None = None,
    done: Mapping[Path, int] | None = None,
    progress: bool = False,
) -> EncodeReport:
    """Encode a corpus of any size once and store it in several sizes and precisions.

    Files are streamed; a shard is held in memory. Each is written atomically, so that a second call after an
    interruption encodes the missing ones only, to the same bytes.

    Args:
        inputs: see :func:`mrl_text.tables.open_table`.
        output: folder; one that was begun with the same inputs and options is continued.
        model: folder, hub id or packaged model; or ``openai:NAME``, a model behind an OpenAI-compatible API, whose
            vectors come through the cache that all commands share. What is about computing is not for it.
        dims: sizes; None takes the model's full width.
        precisions: of each size. int8 and uint8 take their ranges from the first 4,096 texts, see ``ranges`` in the
            manifest; the codec of int4 and int2, ``codec.json``, is that of the model or is fitted to these texts.
        keep: columns to store beside ids and vectors; ``text`` is the text that was encoded.
        text_columns: what to encode, joined by a blank; see :func:`mrl_text.tables.corpus.open_corpus`.
        id_column: likewise. A row without an id is called after its number, in further files ``file:number``
            (``folder/file:number`` where another file has that name).
        limit: rows to take of the files together, at most.
        on_error: leave out rows without text, or that cannot be read, and report them; or fail at the first.
        on_long: texts longer than the model reads: cut and report them, leave them out, or fail at the first.
        shard_rows: rows read per shard.
        format: ``parquet`` shards, or one memory-mapped ``.npy`` per size and precision and ``ids.parquet``.
        backend: what computes the model, see :func:`mrl_text.loading.load`; ``auto`` is the fastest by a short trial.
        dtype: what matrix products are computed in; ``auto`` takes bfloat16 where the device has it natively. int8 is
            for ``onnx``.
        device: where to encode; None is the best there is.
        token_budget: tokens per batch; None takes what suits the device.
        engine: ``local``, or ``ray`` for a cluster (:mod:`mrl_text.encoding.ray_engine`).
        trust_remote_code: allow code that comes with the model to run.
        api: for ``openai:NAME``, where that is and how it is asked; None takes what the environment says.
        done: files that were encoded before (absolute), in that order, and how many of their rows: these are not read
            again, count towards ``limit``, and rows without an id are called as if all had been encoded together.
        progress: show a progress bar on stderr.

    Raises:
        FileNotFoundError: a file or the model is not there.
        ValueError: files that cannot be read; impossible options; a folder begun with others, or being written to by
            another process; a row that the policies do not allow; what an API refuses.
        ModuleNotFoundError: ``ray`` is not installed.
        ConnectionError: no cluster answers at ``RAY_ADDRESS``, or the API does not.
    """
    started = time.monotonic()
    _check_options(dims, precisions, shard_rows=shard_rows, limit=limit, token_budget=token_budget)
    check_choice("on_error", on_error, OnError)
    check_choice("on_long", on_long, OnLong)
    check_choice("format", format, EncodedFormat)
    check_choice("engine", engine, EngineName)
    check_choice("backend", backend, AutoBackend)
    check_choice("dtype", dtype, AutoDtype)
    extra = tuple(name for name in dict.fromkeys(keep) if name != TEXT)
    sources = tuple(open_corpus(path, text_columns, id_column, extra) for path in inputs)
    if not sources or len({source.path for source in sources}) < len(sources):
        raise ValueError("an input file is named twice" if sources else "no input file was named")
    if clash := [name for name in extra if name == "id" or name.startswith("embedding_")]:
        raise ValueError(f"keep names {clash[0]!r}, a column that the output has of its own")
    found = find_any_model(model, trust_remote_code=trust_remote_code, api=api)
    if found.api is not None:
        defaults: dict[str, tuple[Any, Any]] = {
            "backend": (backend, "torch"),
            "dtype": (dtype, "auto"),
            "engine": (engine, "local"),
        }
        defaults |= {"device": (device, None), "token_budget": (token_budget, None)}
        for name, (value, default) in defaults.items():
            if value != default:
                raise ValueError(f"{name} {value} is for models that are computed here, not for {model}: leave it out")
    import torch  # it takes seconds, and what a mistake is likely in was looked at

    from mrl_text.encoding.completion import lost_files
    from mrl_text.encoding.engines import check_engine
    from mrl_text.encoding.run import Run
    from mrl_text.loading import check_computing

    if engine == "local":  # a cluster's workers have devices, and packages, of their own
        check_computing(backend, dtype, device)
    job = Job(
        sources=sources,
        model=str(Path(found.path).absolute()) if found.is_local else found.reference,  # workers may be elsewhere
        dims=check_dims(dims) if dims else (),
        precisions=tuple(dict.fromkeys(precisions)),
        keep=tuple(dict.fromkeys(keep)),
        types=column_types(sources, extra),
        on_error=on_error,
        on_long=on_long,
        backend=backend if found.api is None else "api",
        dtype=dtype,
        device=device,
        token_budget=token_budget,
        threads=torch.get_num_threads(),
        trust_remote_code=trust_remote_code,
        api=found.api,
        done=dict(done or {}),
    )
    folder = Path(output).expanduser()
    bound = binding(job, found, shard_rows=shard_rows, limit=limit, form=format)
    _refuse_foreign(folder)
    with hold(folder):
        manifest = read_manifest(folder)
        if manifest is not None:
            check_same(folder, manifest, bound, job)
        encoded = 0
        lost = lost_files(folder, manifest)
        if lost:
            logger.warning("%s has lost %s: it is made again", folder, ", ".join(lost))
        if manifest is None or not manifest["complete"] or lost:
            check_engine(engine)
            shards = split(sources, shard_rows, limit, job.done)
            if not shards:
                raise ValueError(f"{', '.join(map(str, inputs))}: no rows to encode, at least one is needed")
            manifest, encoded = Run(folder, engine, shards, progress).finish(job, bound, manifest)
        elif format == "npy":
            shutil.rmtree(folder / SHARDS, ignore_errors=True)  # of a call that was killed at its very end
        EncodedFolder(folder, manifest).check_files()
        return _report(folder, manifest, encoded, time.monotonic() - started)


def _check_options(dims: Sequence[int] | None, precisions: Sequence[str], **counts: int | None) -> None:
    if dims is not None:
        check_dims(dims)
    if not precisions:
        raise ValueError("precisions is empty: name at least one, for example ['float32']")
    for precision in precisions:
        check_choice("precision", precision, Precision)
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _refuse_foreign(folder: Path) -> None:
    """Before the folder is touched: refuse one that is a file, cannot be written, or holds something else."""
    check_writable(folder, "choose an empty or a new folder")
    if not folder.is_dir() or (folder / MANIFEST).is_file():
        return
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name != CODEC_FILE)
    if others:  # a codec is there where the beginning was interrupted
        raise ValueError(f"{folder} holds {others[0]!r} and no {MANIFEST}: choose an empty or a new folder")


def _report(folder: Path, manifest: dict[str, Any], encoded: int, seconds: float) -> EncodeReport:
    counts = manifest["problems"]
    shown = []
    with readable(folder / PROBLEMS), (folder / PROBLEMS).open(encoding="utf-8") as stream:
        for line, _ in zip(stream, range(10), strict=False):
            problem = json.loads(line)
            shown.append(f"{Path(problem['file']).name}, row {problem['row']}: {problem['problem']}")
    return EncodeReport(
        folder=folder,
        rows=manifest["rows"],
        encoded=encoded,
        seconds=seconds,
        backend=manifest["backend"],
        dtype=manifest["dtype"],
        left_out=counts["left out"],
        cut=counts["cut"],
        misfits=counts["cell"],
        problems=shown,
    )
