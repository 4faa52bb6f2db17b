"""What tests of training runs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrl_text.training.callbacks import MetricsLog


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def at_step(step: int, action: Callable[[], None]) -> Callable[..., None]:
    """``MetricsLog.on_log`` that acts once the loss of that step is written."""
    original = MetricsLog.on_log

    def on_log(self: MetricsLog, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        original(self, args, state, control, logs=logs, **kwargs)
        if state.global_step == step and "loss" in (logs or {}):
            action()

    return on_log
