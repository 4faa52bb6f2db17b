"""What ``mrl-text eval`` asks where it was not told what to measure."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import pytest

from mrl_text.cli.questions import Measure, what_to_measure
from tests.conftest import invoke


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "measure", "options"),
    [
        ("1\nmy data/\n", Measure(data=[Path("my data")]), ["--data", "my data"]),
        ("\nmy.csv\n", Measure(data=[Path("my.csv")]), ["--data", "my.csv"]),
        ("2\n", Measure(tasks="STSBenchmark,SciFact"), ["--tasks", "STSBenchmark,SciFact"]),
        ("3\n", Measure(benchmark="MTEB(eng, v2)"), ["--benchmark", "MTEB(eng, v2)"]),
        ("STS12, STS13\n", Measure(tasks="STS12, STS13"), ["--tasks", "STS12, STS13"]),
    ],
)
def test_answers_are_options(typed: str, measure: Measure, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    written = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    monkeypatch.setattr("sys.stderr", written)
    assert what_to_measure(["my-org/a"]) == measure
    said = next(line for line in written.getvalue().splitlines() if "Without a question: " in line)
    assert shlex.split(said.partition("Without a question: ")[2]) == ["mrl-text", "eval", "my-org/a", *options]


def test_the_command_measures_what_was_answered(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, command_line: None
) -> None:
    monkeypatch.setattr("mrl_text.cli.evaluation.what_to_measure", lambda models: Measure(data=[Path("nowhere.csv")]))
    result = invoke("eval", tiny_bert)
    assert result.exit_code == 2
    assert "nowhere.csv" in result.stderr


def test_without_a_terminal_nothing_is_asked(tiny_bert: Path, command_line: None) -> None:
    result = invoke("eval", tiny_bert)
    assert result.exit_code == 2
    assert "--data FILE_OR_FOLDER" in result.stderr
    assert "--tasks STSBenchmark,SciFact" in result.stderr
