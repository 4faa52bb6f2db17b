"""What is published besides the package says the same as the package."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
import yaml

from tests.conftest import invoke

ROOT = Path(__file__).parents[1]


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(cited["version"]) == version("mrl-text")
    assert cited["license"] == metadata("mrl-text")["License-Expression"]
    assert cited["references"][0]["url"].endswith("2205.13147")


def test_the_image_serves_and_installs_extras_that_there_are() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    [extras] = re.findall(r"'\.\[(.*)\]'", lines)
    assert set(extras.split(",")) <= set(metadata("mrl-text").get_all("Provides-Extra") or [])
    [entry] = re.findall(r"^ENTRYPOINT (\[.*\])$", lines, re.MULTILINE)
    program, command, *options = yaml.safe_load(entry)
    assert program == "mrl-text"
    told = invoke(command, "--help").output
    assert all(option in told for option in options if option.startswith("--"))
    assert "USER mrl" in lines.partition("ENTRYPOINT")[0]


@pytest.mark.parametrize("file", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda file: file.name)
def test_workflows_and_forms_are_read(file: Path) -> None:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert content["name"]
    for job in content.get("jobs", {}).values():
        assert all(shlex.split(step["run"], comments=True) for step in job["steps"] if "run" in step)
