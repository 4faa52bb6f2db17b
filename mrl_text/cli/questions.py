"""What a command asks where it was not told, and someone sits there to answer."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import typer

_QUICK = "STSBenchmark,SciFact"
_ALL = "MTEB(eng, v2)"
_QUESTION = f"""What shall it be measured on?
  1  your own data: a file or folder
  2  a first look, {_QUICK.replace(",", " and ")}: similarity and search, minutes
  3  all of {_ALL}: hours
  or names of mteb tasks, comma-separated"""


class Measure(NamedTuple):
    """What a model is measured on, as options of ``mrl-text eval`` say it."""

    tasks: str | None = None
    benchmark: str | None = None
    data: list[Path] | None = None


def what_to_measure(models: list[str]) -> Measure:
    """Ask what models are measured on, and say which command does the same without a question.

    Raises:
        ValueError: no terminal to ask on; it names the options.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ValueError(
            f"no task given: --data FILE_OR_FOLDER measures on your own data, --tasks {_QUICK} on mteb's tasks,"
            f" --benchmark '{_ALL}' on all of them"
        )
    answer = typer.prompt(f"{_QUESTION}\nYour choice", err=True, default="1").strip()
    match answer:
        case "1":
            path = typer.prompt("Its path (a folder like BEIR's, or a file as docs/your-data.md has it)", err=True)
            measure = Measure(data=[Path(path).expanduser()])
        case "2":
            measure = Measure(tasks=_QUICK)
        case "3":
            measure = Measure(benchmark=_ALL)
        case _:
            measure = Measure(tasks=answer)
    given = [("--tasks", measure.tasks), ("--benchmark", measure.benchmark)]
    given += [("--data", str(path)) for path in measure.data or ()]
    options = [word for name, value in given if value is not None for word in (name, value)]
    typer.echo(f"Without a question: {shlex.join(['mrl-text', 'eval', *models, *options])}", err=True)
    return measure
