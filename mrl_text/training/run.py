"""A training run: one folder that holds its recipe, versions, log, checkpoints and model."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import platform
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset

from mrl_text.files import holds_files, peek_json, read_json, write_atomically
from mrl_text.loading import tensors_are_whole
from mrl_text.training.base import located
from mrl_text.training.columns import LABEL
from mrl_text.training.recipe import Recipe
from mrl_text.training.recipe_files import load_recipe
from mrl_text.versions import installed_version

logger = logging.getLogger(__name__)

DataFacts = dict[str, dict[str, Any]]  # source -> its rows and the hash of its texts

_STREAMED_ROWS = 1000
_STATE = ("optimizer", "scheduler", "rng_state")  # of a checkpoint, besides weights and trainer_state.json
_RECORDED_PACKAGES = "mrl-text sentence-transformers torch transformers datasets accelerate numpy peft".split()


class RunFolder:
    """Names of the files of a run, and the rules for starting and resuming one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"  # the resolved recipe; training it again repeats the run
        self.before = path / "start.json"  # validation scores of the starting model
        self.rotation = path / "rotation.npy"  # where the recipe asks for one; what was fitted is in .json beside it
        self.metrics = path / "metrics.jsonl"  # logged values, one JSON object a line
        self.data = path / "data.json"
        """Rows and hash of every source, so that a run goes on with the data it began with."""
        self.versions = path / "versions.json"  # python and library versions
        self.checkpoints = path / "checkpoints"  # the Trainer's folder
        self.model = path / "model"  # the trained model, a sentence-transformers folder
        self.result = path / "result.json"  # written last: the run is complete if and only if it is there

    def check(self, recipe: Recipe, *, resume: bool) -> None:
        """See whether a run of this recipe may use the folder; writes nothing.

        Raises:
            FileExistsError: it holds another run, or this one unfinished and ``resume`` is off.
            ValueError: ``resume`` with a recipe that differs from the folder's own.
        """
        if self.recipe.exists():
            if not resume and not self._began_in_vain():
                raise FileExistsError(
                    f"{self.path} already holds a run: continue it with --resume, or choose another --output"
                )
            if resume and (previous := located(load_recipe(str(self.recipe)))) != recipe:
                changed = _first_difference(previous.to_yaml(), recipe.to_yaml())
                raise ValueError(f"cannot resume {self.path} with another recipe ({changed}); choose another --output")
            return
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is a file: choose a folder as --output")
        if holds_files(self.path):
            raise FileExistsError(f"{self.path} is not empty and holds no run: choose another --output")

    def _began_in_vain(self) -> bool:
        """Whether a run of ours broke off before anything was kept of it."""
        return self.versions.exists() and not (self._all_checkpoints() or self.model.exists() or self.result.exists())

    def check_data(self, data: DataFacts) -> None:
        """See whether a run that is resumed has the data it began with; writes nothing.

        Raises:
            ValueError: a source has other texts, another order, or is a different one.
        """
        if not self.data.is_file():  # not started, or by a version that did not record it
            return
        began = read_json(self.data)
        for name in [*began, *data]:
            before, now = began.get(name), data.get(name)
            if before != now:
                raise ValueError(
                    f"cannot resume {self.path}: the data of {name!r} is not what the run began with"
                    f" ({_facts_words(before)}, now {_facts_words(now)}); bring the old data back,"
                    " or choose another --output"
                )

    def start(self, recipe: Recipe, data: DataFacts | None = None, *, resume: bool = False) -> None:
        """Claim the folder for this recipe and data; a run that is resumed keeps what it has."""
        if not resume and self.recipe.exists():
            logger.info("%s: an earlier start broke off before its first checkpoint, and is begun anew", self.path)
            ours = (self.recipe, self.data, self.versions, self.metrics, self.before, self.rotation)
            for file in (*ours, *(self.rotation.with_suffix(end) for end in (".json", ".codec.json"))):
                file.unlink(missing_ok=True)
        contents: dict[Path, Any] = {self.data: data, self.versions: _versions()}
        if not self.recipe.exists():
            write_atomically(self.recipe, recipe.to_yaml().encode())  # first: with it the folder holds a run
        for file, content in contents.items():
            if content is not None and peek_json(file) is None:
                write_atomically(file, json.dumps(content, indent=2).encode())

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to the end and can be read.

        Raises:
            ValueError: it has weights only, from which a run cannot go on as if undisturbed.
        """
        for folder in reversed(self._all_checkpoints()):
            if _is_whole(folder):
                if missing := [name for name in _STATE if not any(folder.glob(f"{name}*"))]:
                    raise ValueError(
                        f"cannot resume {self.path}: {folder.name} has no {' and no '.join(missing)}, as with"
                        " training.save_only_model=true, and without it warm-up and Adam would start over: train from"
                        f" its weights into another --output with model.name={folder}"
                    )
                return folder
            logger.warning("%s was not written to the end and is passed over", folder)
        return None

    def rewind(self, checkpoint: Path | None) -> None:
        """Forget what came after a checkpoint, as resuming from there repeats it: log lines, unfinished checkpoints."""
        step = -1 if checkpoint is None else _step_of(checkpoint)
        if self.metrics.exists():
            where = "begins anew" if checkpoint is None else f"goes on after step {step}"
            logger.info("%s %s; what it logged and saved beyond is done again", self.path, where)
        self._rewind_metrics(step)
        for folder in self._all_checkpoints():
            if _step_of(folder) > step:
                shutil.rmtree(folder, ignore_errors=True)

    def _all_checkpoints(self) -> list[Path]:
        found = self.checkpoints.glob("checkpoint-*")
        return sorted((folder for folder in found if folder.name.rpartition("-")[2].isdecimal()), key=_step_of)

    def _rewind_metrics(self, step: int) -> None:
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            try:
                if json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):  # half a line, written as the power went off
                break
            kept.append(line)
        write_atomically(self.metrics, "".join(kept).encode())


def describe_data(sources: Mapping[str, Dataset | IterableDataset]) -> DataFacts:
    """Rows and hash of the texts of every source, and of the numbers beside them, in order.

    Of a streamed source the first 1,000 rows count: reading all of it is what streaming avoids.
    """
    return {label: _facts_of(data) for label, data in sources.items()}


def _facts_of(data: Dataset | IterableDataset) -> dict[str, Any]:
    streamed = not hasattr(data, "__len__")
    used = [name for name, value in next(iter(data), {}).items() if isinstance(value, str) or name == LABEL]
    batches = data.select_columns(used).iter(_STREAMED_ROWS)
    digest = hashlib.blake2b(digest_size=16)
    for batch in itertools.islice(batches, 1 if streamed else None):
        digest.update(json.dumps(batch).encode())
    return {"rows": None if streamed else len(data), "hash": digest.hexdigest()}


def _facts_words(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return "not there"
    rows = "a stream" if facts["rows"] is None else f"{facts['rows']:,} rows"
    return f"{rows} with hash {facts['hash'][:8]}"


@contextmanager
def explain_failed_write(what: str, folder: Path) -> Iterator[None]:
    """Turn the many errors of a full disk into one that says what to do.

    torch reports a full disk as a ``RuntimeError``, safetensors as an error of its own; both become an ``OSError``.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        free = shutil.disk_usage(there).free / 1e6
        reason = " ".join(str(error).split())[:200]
        raise OSError(
            f"{what} could not be written to {folder} ({free:,.0f} MB free there): {reason}; the checkpoints before it"
            " are kept: make room and go on with --resume"
        ) from error


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there to its end; the Trainer writes its state file last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        tensors = [file for file in checkpoint.rglob("*.safetensors") if not tensors_are_whole(file)]
    except (OSError, ValueError):
        return False
    archives = (file for pattern in ("*.pt", "*.pth") for file in checkpoint.glob(pattern))
    return not tensors and all(zipfile.is_zipfile(file) for file in archives)


def _versions() -> dict[str, str]:
    known = {package: found for package in _RECORDED_PACKAGES if (found := installed_version(package))}
    return {"python": platform.python_version(), "platform": platform.platform(), **known}


def _first_difference(old: str, new: str) -> str:
    old_lines, new_lines = old.splitlines(), new.splitlines()
    for before, after in zip(old_lines, new_lines, strict=False):
        if before != after:
            return f"was '{before.strip()}', now '{after.strip()}'"
    return f"was {len(old_lines)} lines, now {len(new_lines)}"
