"""One line for every error, whoever raises it."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from mrl_text.cli.errors import OneLineErrors, explain
from tests.conftest import invoke

pytestmark = pytest.mark.usefixtures("command_line")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("a\nb"), 2, ["a b"]),
        (FileNotFoundError("no file x: check"), 2, ["no file x: check"]),
        (OSError(errno.ENOSPC, "No space left on device", "out/x.npy"), 2, ["out/x.npy: no space left", "free some"]),
        (PermissionError(errno.EACCES, "Permission denied", b"out"), 2, ["out: permission denied", "right"]),
        (OSError(errno.ENOSPC, "No space left on device"), 2, ["error: no space left", "free some"]),
        (torch.OutOfMemoryError("tried 2 GiB"), 2, ["not enough memory (tried 2 GiB)", "--batch-size"]),
        (ValueError(), 2, ["ValueError"]),
        (KeyboardInterrupt(), 130, ["Interrupted. Run the same command again"]),
        (KeyboardInterrupt("5 of 9 texts"), 130, ["Interrupted: 5 of 9 texts. Run"]),
        (KeyError("x"), 1, ["KeyError in mrl-text: 'x'", "report", "MRL_TEXT_DEBUG=1 mrl-text eval m"]),
    ],
)
def test_each_error_is_one_line_with_what_to_do(
    error: BaseException, code: int, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(cls=OneLineErrors)

    @app.command("eval")
    def fails(model: str) -> None:
        raise error

    @app.command()
    def other() -> None:
        pass

    from typer.testing import CliRunner

    result = CliRunner().invoke(app, ["eval", "m"])
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.strip().splitlines()
    for word in words:
        assert word in line
    monkeypatch.setenv("MRL_TEXT_DEBUG", "1")
    assert isinstance(error, KeyboardInterrupt) or CliRunner().invoke(app, ["eval", "m"]).exception is error


def test_a_fault_of_ours_names_our_line() -> None:
    from mrl_text.truncation import truncate

    try:
        truncate(None, 3)  # type: ignore[call-overload]
    except Exception as error:
        code, line = explain(error)
    assert code == 1
    assert " in truncation.py:" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], ["'nope'", "mrl-text --help"]),
        (["index", "buidl"], ["'buidl'", "'build'"]),
        (["search", "a", "b", "-k", "x"], ["-k", "x", "mrl-text search --help"]),
        (["search", "a", "b", "-k=x"], ["-k", "x"]),
        (["eval", "m", "--dtype", "foo"], ["foo", "float32"]),
        (["eval", "m", "--dytpe", "foo"], ["--dytpe", "--dtype"]),
        (["encode"], ["INPUT", "mrl-text encode --help"]),
        (["encode", "a", "--model"], ["--model"]),
    ],
)
def test_a_usage_error_names_the_value_and_where_help_is(arguments: list[str], words: list[str]) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line


@pytest.mark.parametrize("group", [[], ["index"]])
def test_a_group_without_a_command_shows_its_help(group: list[str]) -> None:
    result = invoke(*group)
    assert (result.exit_code, result.stderr) == (2, "")
    assert "Usage" in result.stdout


INTERRUPTED = """
import signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
sys.argv = ["mrl-text", "recipes", "list"]
from mrl_text.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "mrl_text.cli.index", "mrl_text.training.recipe_files"])
def test_an_interrupt_during_imports_leaves_no_traceback(module: str, tmp_path: Path) -> None:
    program = INTERRUPTED.format(module=module)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 128 + signal.SIGINT
    assert "Traceback" not in result.stderr
