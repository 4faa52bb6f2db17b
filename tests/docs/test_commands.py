"""Every command in the documentation is one that there is, with options that it takes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from typer.main import get_command

from mrl_text.cli import app
from tests.docs.pages import PAGES, ROOT, Call, calls

CALLS = [call for page in PAGES for call in calls(page, "mrl-text")]
SCRIPTS = [call for page in PAGES for call in calls(page, "python")]
UsageError: Any = typer.BadParameter.__bases__[0]  # of the copy of click that typer uses


@pytest.fixture(scope="module")
def command_line() -> Any:
    return get_command(app)


def test_pages_have_commands() -> None:
    assert len(CALLS) > 130
    assert len(SCRIPTS) > 20


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_command_is_there(command_line: Any, call: Call) -> None:
    command, name, words = command_line, "mrl-text", call.words
    context = command.context_class(command, info_name=name)
    while words and not words[0].startswith("-") and getattr(command, "commands", None):
        name, command, words = command.resolve_command(context, words)
        context = command.context_class(command, info_name=name, parent=context)
    with context.scope(cleanup=False):
        values, rest, _ = command.make_parser(context).parse_args(list(words))
    assert not rest, f"{call.line}: {rest} would not be taken"
    if call.in_sentence:
        return  # the command by its name, with the option that the text is about
    for parameter in command.get_params(context):
        given = values.get(parameter.name)
        assert given or not parameter.required, f"{call.line}: {parameter.name} is missing"


@pytest.mark.parametrize("call", SCRIPTS, ids=str)
def test_script_is_there(call: Call) -> None:
    words, line = call.words, call.line
    if words[:1] == ["-m"]:
        pytest.fail(f"{line}: say mrl-text")
    script = ROOT / words[0]
    assert script.is_file(), f"{call.page.name} names {words[0]}, which is not in the repository"
    source = script.read_text(encoding="utf-8")
    for helper in re.findall(r"^from (\w+) import", source, re.MULTILINE):
        source += other.read_text(encoding="utf-8") if (other := script.with_name(f"{helper}.py")).is_file() else ""
    for option in (word.partition("=")[0] for word in words[1:] if re.match(r"--\w", word)):
        assert re.search(rf'"{option}"', source), f"{line}: {script.name} has no {option}"
