"""What a command prints when something goes wrong: one line, for every error there is.

====================================  =========
a wrong option, value, file, model    exit code 2
an interrupt                          exit code 130
a fault of ours                       exit code 1
====================================  =========

``MRL_TEXT_DEBUG=1`` shows the traceback instead.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

_UsageError: Any = typer.BadParameter.__bases__[0]  # typer brings its own copy of click, or not: a matter of versions
_ADVICE = {
    errno.ENOSPC: "free some space, or write elsewhere, and run the same command again",
    errno.EDQUOT: "free some space, or write elsewhere, and run the same command again",
    errno.EACCES: "give yourself the right, or choose another path",
    errno.EPERM: "give yourself the right, or choose another path",
    errno.EROFS: "choose a folder that can be written",
    errno.EMFILE: "allow more open files with ulimit -n",
    errno.ENOENT: "check the path",
    errno.EEXIST: "choose another name",
    errno.ENOTDIR: "a part of this path is a file; choose another",
    errno.EISDIR: "this is a folder; give the path of a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class OneLineErrors(TyperGroup):
    """The root of all commands: it prints every error as one line on stderr."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **named: Any) -> Any:
        """Run the command in ``args`` (default: those of the process) and exit with its code."""
        given = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(args, *more, **{**named, "standalone_mode": False})
        except Exception as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                sys.exit(2)  # help is printed already
            if os.environ.get("MRL_TEXT_DEBUG"):
                raise
            code, line = explain(error, given)
            typer.echo(" ".join(_without_secrets(line, given).split()), err=True)
        sys.exit(code)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an interrupt ends it with how to go on."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            again = "Run the same command again to continue."
            if ctx.invoked_subcommand == "train":
                again = "To continue a run that has begun: mrl-text train RUN_FOLDER --resume"
            typer.echo(f"\nInterrupted{f': {interrupt}' if str(interrupt) else ''}. {again}", err=True)
            raise typer.Exit(130) from None


def explain(error: Exception, arguments: Sequence[str] = ()) -> tuple[int, str]:
    """The exit code for an error, and the words: what happened, and what to do.

    Args:
        error: What was raised.
        arguments: What the user typed after ``mrl-text``.
    """
    if isinstance(error, _UsageError):
        return 2, f"error: {_usage(error, arguments)}"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        path = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return 2, f"error: {path}{error.strerror.lower()}; {_ADVICE.get(error.errno, 'run the same command again')}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return 2, f"error: not enough memory ({error}); use a smaller --batch-size, or fewer rows with --limit"
    if isinstance(error, ValueError | OSError | ModuleNotFoundError | FloatingPointError):
        return 2, f"error: {str(error) or type(error).__name__}"
    return 1, (
        f"error: {type(error).__name__} in {_place(error)}: {str(error) or 'no message'}. Most likely a fault of "
        f"mrl-text: please report it with all that this prints: MRL_TEXT_DEBUG=1 mrl-text {' '.join(arguments)}"
    )


def _usage(error: Any, arguments: Sequence[str]) -> str:
    """A parser's complaint, with the value that was given and where help is."""
    message = error.format_message().strip().rstrip(".").replace("Value error, ", "")
    options = getattr(getattr(error, "param", None), "opts", ())
    given = [value for name, value in pairwise(arguments) if name in options]
    given += [text.partition("=")[2] for text in arguments if text.partition("=")[0] in options and "=" in text]
    if given and not any(value in message for value in given):
        message += f" (given: {', '.join(given)})"
    command = error.ctx.command_path if error.ctx else "mrl-text"
    return f"{message}; what can be given: {command} --help"


def _without_secrets(line: str, arguments: Sequence[str]) -> str:
    """The line with every URL among the arguments as it may be shown."""
    for given in arguments:
        if "://" in given or "=" in given:
            from mrl_text.search.urls import without_password

            if (shown := without_password(given)) != given:
                line = line.replace(given, shown).replace(repr(given)[1:-1], shown)
    return line


def _place(error: Exception) -> str:
    """The last line of our own code that an error went through."""
    home, place = str(Path(__file__).parent.parent), "mrl-text"
    trace = error.__traceback__
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith(home) and file != __file__:
            place = f"{Path(file).relative_to(home)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
