"""What a command is given, looked at as soon as it is read: before seconds of imports, in one place for all of them."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand
from typer.models import CommandFunctionType

Check = Callable[[typer.Context, Any], Any]


_HEAD = 1000  # rows of JSON lines that are looked at before the rest is read


class Command(TyperCommand):
    """A command whose numbers are numbers: nan and infinity, which parsers read as floats, are refused."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        for option in self.params:
            value = ctx.params.get(option.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{option.opts[0]} {value}: expected a finite number; leave it out for the default")
        return super().invoke(ctx)


class Commands(typer.Typer):
    """A group of these commands."""

    def command(self, *names: Any, **options: Any) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """A decorator that adds a command, as typer's."""
        return super().command(*names, **{"cls": Command, **options})


def given(context: typer.Context, *names: str) -> list[str]:
    """Which of these options of a command somebody typed, as they are typed."""
    typed = [name for name in names if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    return [option.opts[0] for option in context.command.params if option.name in typed]


def only_with(context: typer.Context, needed: str, *names: str) -> None:
    """Refuse with ``ValueError`` options that change nothing without another one."""
    if not given(context, needed) and (unused := given(context, *names)):
        [option] = [one.opts[0] for one in context.command.params if one.name == needed]
        raise ValueError(f"{unused[0]} is for {option}: give {option} too, or leave {unused[0]} out")


def each(check: Check) -> Check:
    """The callback of an option, or of an argument, that checks its value, or each of its values."""

    def callback(context: typer.Context, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [check(context, one) for one in value]
        return None if value is None else check(context, value)

    return callback


def there(expected: str) -> Check:
    """A check that something is at a path; ``expected`` says what, and maybe what makes it."""

    def check(context: typer.Context, path: Any) -> Any:
        if not Path(path).expanduser().exists():
            raise FileNotFoundError(f"nothing at {path}: expected {expected}")
        return path

    return each(check)


def _table(context: typer.Context, path: Any) -> Any:
    """A file of rows that can be opened; ``-`` is standard input."""
    from mrl_text.tables import open_table

    if str(path) == "-":
        from mrl_text.tables.standard_input import remove, spool

        file = spool(sys.stdin.buffer)
        context.call_on_close(lambda: remove(file))
        path = type(path)(file)
    open_table(path)
    return path


def _table_or_folder(context: typer.Context, path: Any) -> Any:
    place = Path(path).expanduser()
    if str(path) != "-" and not place.suffix and not place.exists():
        raise FileNotFoundError(f"nothing at {path}: expected a folder, or the path of a file")
    return path if place.is_dir() else _table(context, path)


def _model(context: typer.Context, name: str) -> str:
    from mrl_text.api.options import is_api_name
    from mrl_text.models import find_model

    if is_api_name(name) or "/" in name or Path(name).exists():  # whether a bare name is the hub's takes the libraries
        find_model(name)
    return name


def _any_model(context: typer.Context, name: str) -> str:
    """As :func:`_model`; models behind an API, too."""
    from mrl_text.api.options import api_name, is_api_name

    if is_api_name(name):
        api_name(name)
        return name
    return str(_model(context, name))


def _store(context: typer.Context, url: Any) -> Any:
    if ":" not in str(url) and not Path(url).expanduser().exists():
        raise FileNotFoundError(f"no index at {url}: build one with mrl-text index build")
    return url


table, table_or_folder, store = each(_table), each(_table_or_folder), each(_store)
model, any_model = each(_model), each(_any_model)


def check_columns(file: Path, names: Sequence[str], option: str) -> None:
    """Refuse a file without one of these columns at once, before torch is imported for what reads it.

    Of JSON lines, where a later row may have another column, a longer file than a thousand rows is left to its reader.

    Args:
        file: a table.
        names: the columns.
        option: what names them.

    Raises:
        ValueError: a column is not there.
    """
    from mrl_text import suggest
    from mrl_text.tables import open_table
    from mrl_text.tables.columns import other_separator

    table = open_table(file)
    rows = len(list(itertools.islice(table.rows(), _HEAD + 1))) if table.format == "jsonl" else 0
    if rows <= _HEAD:
        fix = other_separator(table.columns) or f"say which to take with {option}"
        suggest.check_columns(file, names, table.columns, fix)
