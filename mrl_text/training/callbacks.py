"""What a run writes while it trains, and how it stops."""

from __future__ import annotations

import json
import logging
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState

from mrl_text.losses import NestedLoss
from mrl_text.progress import progress_bar
from mrl_text.training.run import explain_failed_write

logger = logging.getLogger(__name__)


class MetricsLog(TrainerCallback):
    """Appends every logged value to ``metrics.jsonl``: one JSON object per line, with ``step`` and ``time``.

    The Trainer's closing summary is left out: it counts from the last resume on, not from the run's beginning.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write the values."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        with explain_failed_write("the log", self.file.parent), self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": state.global_step, "time": round(time.time(), 1), **logs}) + "\n")


class CodesJoin(TrainerCallback):
    """Trains plain numbers alone for a share of the steps, and then the codes with them (``loss.codes_from``)."""

    def __init__(self, loss: NestedLoss, start: float) -> None:
        self.loss, self.start = loss, start

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Decide by the step alone, so that a run that is resumed goes on as it would have."""
        self.loss.stage_codes(float(state.global_step >= self.start * state.max_steps))


class LogBeforeSaving(TrainerCallback):
    """Logs at every checkpoint, where the Trainer's running mean of the loss, which no checkpoint keeps, begins anew.

    Without it the first value after a resume would be the mean over fewer steps than in an undisturbed run.
    Comes after :class:`StopOnInterrupt`, which asks for a checkpoint, too.
    """

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a log line where a checkpoint is asked for."""
        control.should_log |= control.should_save

    on_epoch_end = on_step_end


class EarlyStopping(EarlyStoppingCallback):
    """Stops where validation did not get better so many times in a row; a run that is resumed goes on counting."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the count from the checkpoint, which may be that of the last step."""
        super().on_train_begin(args, state, control, **kwargs)
        saved: Any = state.stateful_callbacks[type(self).__name__]
        self.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]
        control.should_training_stop = self.early_stopping_patience_counter >= self.early_stopping_patience


class ProgressLine(TrainerCallback):
    """One progress bar with loss and validation score in place of the dictionaries the Trainer prints."""

    def __init__(self, metric: str | None = None, words: str = "") -> None:
        self.metric, self.words = metric, words
        self._bar: Any = None
        self._shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Open the bar."""
        steps = {"total": state.max_steps, "initial": state.global_step, "unit": "step"}
        self._bar = progress_bar(desc="Training", disable=not state.is_world_process_zero, **steps)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the newest loss and validation score beside the bar."""
        if logs and "loss" in logs:
            self._shown["loss"] = f"{float(logs['loss']):.3f}"
        if logs and self.metric and f"eval_{self.metric}" in logs:
            self._shown[self.words] = f"{100 * float(logs[f'eval_{self.metric}']):.2f}"
        if self._bar is not None:
            self._bar.set_postfix(self._shown)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Close the bar, also where training stopped with an error, so that the message gets a line of its own."""
        if self._bar is not None:
            self._bar.close()


class StopOnInterrupt(TrainerCallback):
    """Ctrl-C (or SIGTERM) finishes the step, saves a checkpoint and stops; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopOnInterrupt:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not in the main thread: whoever runs us handles signals
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        logger.warning("stopping after this step; interrupt again to stop at once without a checkpoint")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask the Trainer to save and stop where an interrupt came in."""
        if self.requested:
            control.should_save = True
            control.should_training_stop = True
