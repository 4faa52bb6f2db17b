"""A training run: one folder that holds its recipe, versions, log, checkpoints and model."""

from __future__ import annotations

import json
import logging
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mrl_text.files import write_atomically
from mrl_text.training.recipe import Recipe

logger = logging.getLogger(__name__)

_RECORDED_PACKAGES = ("mrl-text", "sentence-transformers", "torch", "transformers", "datasets", "accelerate", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run, and the rules for starting and resuming one."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe; training it again repeats the run."""
        return self.path / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        """Logged values, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The Trainer's folder."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained model, a sentence-transformers folder."""
        return self.path / "model"

    @property
    def result(self) -> Path:
        """Written last: the run is complete if and only if it is there."""
        return self.path / "result.json"

    def check(self, recipe: Recipe, *, resume: bool) -> None:
        """See whether a run of this recipe may use the folder; writes nothing.

        Raises:
            FileExistsError: it holds another run, or this one unfinished and ``resume`` is off.
            ValueError: ``resume`` with a recipe that differs from the folder's own.
        """
        text = recipe.to_yaml()
        if self.recipe.exists():
            if not resume:
                raise FileExistsError(
                    f"{self.path} already holds a run: continue it with --resume, or choose another --output"
                )
            previous = self.recipe.read_text(encoding="utf-8")
            if previous != text:
                changed = _first_difference(previous, text)
                raise ValueError(f"cannot resume {self.path} with another recipe ({changed}); choose another --output")
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise FileExistsError(f"{self.path} is not empty and holds no run: choose another --output")

    def start(self, recipe: Recipe) -> None:
        """Claim the folder for this recipe; a run that is resumed keeps what it has."""
        if self.recipe.exists():
            return
        write_atomically(self.recipe, recipe.to_yaml().encode())
        write_atomically(self.path / "versions.json", json.dumps(_versions(), indent=2).encode())

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to the end; the Trainer writes its state file last."""
        found = sorted(self.checkpoints.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
        for folder in reversed(found):
            try:
                json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                logger.warning("%s was not written to the end and is passed over", folder)
                continue
            return folder
        return None

    def rewind_metrics(self, step: int) -> None:
        """Forget what was logged after ``step``: resuming from there repeats it."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if json.loads(line)["step"] > step:
                    break
            except ValueError:  # half a line, written as the power went off
                break
            kept.append(line)
        write_atomically(self.metrics, "".join(kept).encode())

    def finish(self, result: dict[str, Any]) -> None:
        """Write ``result.json``."""
        write_atomically(self.result, json.dumps(result, indent=2).encode())


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _first_difference(old: str, new: str) -> str:
    old_lines, new_lines = old.splitlines(), new.splitlines()
    for before, after in zip(old_lines, new_lines, strict=False):
        if before != after:
            return f"was '{before.strip()}', now '{after.strip()}'"
    return f"was {len(old_lines)} lines, now {len(new_lines)}"
