"""One thing has one name in every command."""

from __future__ import annotations

from typing import Any

import pytest
from typer.main import get_command

from mrl_text.cli import app
from mrl_text.tables.corpus import ID_COLUMNS

EARLIER = {"adapt": ["--column"], "classify": ["--text"], "label": ["--text"]}
"""Names that the option had before, which scripts may use."""


def options(name: str) -> dict[str, Any]:
    """Command -> its option of that name."""
    found, pending = {}, [("", get_command(app))]
    while pending:
        path, command = pending.pop()
        pending += [(f"{path} {word}".strip(), one) for word, one in getattr(command, "commands", {}).items()]
        if option := next((one for one in command.params if name in one.opts), None):
            found[path] = option
    return found


def test_the_column_of_the_texts_has_one_name() -> None:
    found = options("--text-column")
    assert set(found) == {"encode", "index build", "index push", "adapt", "classify", "label"}
    for command, option in found.items():
        assert option.opts == ["--text-column", *EARLIER.get(command, [])]


@pytest.mark.parametrize("command", ["encode", "index build", "index push"])
def test_help_names_every_column_that_is_taken_for_ids(command: str) -> None:
    assert f"{', '.join(ID_COLUMNS)}; else the number of the row" in options("--id-column")[command].help
