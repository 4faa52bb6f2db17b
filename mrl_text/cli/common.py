"""What all commands share."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer

Command = TypeVar("Command", bound=Callable[..., Any])


class Dtype(StrEnum):
    """Choices of ``--dtype``."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class AutoDtype(StrEnum):
    """Choices of ``--dtype`` where ``auto`` takes bfloat16 if the device has it."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class OnError(StrEnum):
    """Choices of ``--on-error``."""

    skip = "skip"
    fail = "fail"


BatchSize = Annotated[int, typer.Option(min=1, help="Texts per forward pass.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: the best there is.")]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="What the model computes in.")]


def command(function: Command) -> Command:
    """Turn the library's errors into one line and exit code 2, an interrupt into exit code 130."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("mrl_text").setLevel(logging.INFO)
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            typer.echo(f"\nInterrupted{f': {interrupt}' if str(interrupt) else ''}. {_hint(function)}", err=True)
            raise typer.Exit(130) from None
        except (ValueError, OSError, ModuleNotFoundError, FloatingPointError) as error:
            if os.environ.get("MRL_TEXT_DEBUG"):
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None

    return run  # type: ignore[return-value]


def _hint(function: Callable[..., Any]) -> str:
    if function.__name__ == "train":
        return "To continue a run that has begun: mrl-text train RUN_FOLDER --resume"
    return "Run the same command again to continue."


def names(text: str | None) -> list[str]:
    """The names of an option that takes several, separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def whole_numbers(text: str | None, option: str, example: str) -> list[int] | None:
    """The numbers of an option that takes several; None stays None.

    Raises:
        ValueError: something else than whole numbers.
    """
    if not text:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} {text!r}: expected whole numbers separated by commas, such as {example}") from None


def check_share(keep: float) -> None:
    """Refuse a ``--keep`` that is no share.

    Raises:
        ValueError: not above 0 and at most 1.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"--keep {keep}: expected a share of the full score, such as 0.99")
