"""Bars where somebody looks, lines where a log is kept."""

from __future__ import annotations

import io
import itertools
import sys

import pytest

from mrl_text import progress
from mrl_text.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = itertools.count(0.0, 3.0)  # at each look at the clock
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    with progress_bar(total=40, desc="Encoding", unit="text", mininterval=0, miniters=1) as bar:
        for number in range(40):
            bar.update()
            bar.set_description("Encoding")
            bar.set_postfix_str(f"at {number}")
    told = capsys.readouterr().err
    lines = told.splitlines()
    assert "\r" not in told
    assert 10 < len(lines) < 40
    assert all(line.startswith("Encoding: ") and " of 40 texts, " in line for line in lines)
    assert "at 30" in told


def test_what_is_quick_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(range(1000), desc="Measuring")) == list(range(1000))
    with progress_bar(desc="Reading", unit="row") as bar:  # of how many is not known
        bar.update(5)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress_bar(range(3), desc="Measuring", unit="plan")) == [0, 1, 2]
    assert "\rMeasuring" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_the_first_step_foretells_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    with progress_bar(total=30, desc="Evaluating", unit="result", mininterval=0, miniters=1) as bar:
        bar.update()
        first = capsys.readouterr().err
        bar.update()
    assert "1 of 30 results, " in first
    assert " left" not in first
    assert " left" in capsys.readouterr().err


def test_work_of_unknown_length_has_no_end_in_sight(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    with progress_bar(desc="Tuning", unit="plan", mininterval=0, miniters=1) as bar:
        for _ in range(3):
            bar.update()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Tuning: 3 plans, 00:00 so far")
    assert " left" not in last
