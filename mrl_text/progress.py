"""Progress of long work: a bar in a terminal and in a notebook, now and then a line anywhere else."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

import tqdm.auto
from tqdm import tqdm as plain_bar

from mrl_text.amounts import plural

_SECONDS = 10.0  # between lines, and before the first
_FIRST = "{{desc}}: {{n_fmt}} of {{total_fmt}} {units}, {{elapsed}} so far{{postfix}}"
_WITHOUT_END = _FIRST.replace(" of {{total_fmt}}", "")
_LINE = _FIRST.replace("{{postfix}}", ", {{remaining}} left{{postfix}}")


def progress_bar(*given: Any, **options: Any) -> plain_bar:
    """A bar of tqdm; where stderr is no terminal, a line every ten seconds, and none for what takes less.

    Args:
        *given: as for :class:`tqdm.tqdm`.
        **options: likewise.
    """
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm.auto.tqdm(*given, **{"dynamic_ncols": True, **options})
    return _Lines(*given, **options)


class _Lines(plain_bar):
    """A bar that is told in lines, as a log wants it."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self._told = time.monotonic()
        nowhere = _Nowhere()  # for what moves the cursor about
        units = plural(options.get("unit", "step"))
        self._line = _LINE.format(units=units)
        self._line_without_end = _WITHOUT_END.format(units=units)
        first = _FIRST.format(units=units)
        super().__init__(*given, **{**options, "file": nowhere, "bar_format": first, "dynamic_ncols": False})

    def set_description(self, desc: str | None = None, refresh: bool | None = True) -> None:
        """Name what is under way, without the colon that bars have behind it: lines have one."""
        self.set_description_str(desc, refresh)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, if it is time for one."""
        if time.monotonic() - self._told >= _SECONDS and msg != "":
            self._told = time.monotonic()
            if self.total is None:
                self.bar_format = self._line_without_end
            elif self.n - self.initial > 1:  # the first has what comes before all others in it, as to load or to encode
                self.bar_format = self._line
            sys.stderr.write(f"{msg or self}\n")
            sys.stderr.flush()


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)
