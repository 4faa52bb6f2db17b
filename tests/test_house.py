"""The rooms of the package: imports point down only and are declared, modules stay short, importing costs nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS: tuple[dict[str, set[str]], ...] = (
    {
        "leaves": {"files", "suggest", "truncation", "codes", "markdown", "figures", "neighbours", "library_logging"}
        | {"docstrings", "recipes", "choices", "progress", "versions", "imports", "amounts"}
    },
    {"tables": {"tables"}},
    {
        "models": {"models", "layers", "server_files", "encoder", "loading", "embedding_cache", "vector_file"}
        | {"dtypes", "streaming", "token_batches", "long_texts", "backends", "api", "lanes", "linear_layers"}
    },
    {"losses": {"losses"}, "encoding": {"encoding"}, "cards": {"cards"}},
    {"adapt": {"adapt"}},
    {"eval": {"eval"}},
    {"training": {"training"}, "classification": {"classification"}, "search": {"search"}},
    {"sharing": {"sharing"}, "serving": {"serving"}, "paper": {"paper"}},
    {"quickstart": {"quickstart"}, "doctor": {"doctor"}},
    {"cli": {"cli", "__main__"}},
)
"""From the bottom up: each floor's rooms and the parts of ``mrl_text`` in them. A room may import its own modules and
those of every floor below; two rooms of one floor do not know each other. CONTRIBUTING.md shows the picture."""

HEIGHT = {part: height for height, floor in enumerate(FLOORS) for parts in floor.values() for part in parts}
ROOM = {part: room for floor in FLOORS for room, parts in floor.items() for part in parts}

BROUGHT_ALONG = {"starlette", "pydantic_core"}
"""Parts of fastapi and pydantic that are packages of their own and always come with them."""

LONGEST = 420
"""Lines of a module, at most."""


def _modules() -> dict[str, Path]:
    """Every module of the package by its installed name."""
    found = {}
    for folder, package in ((ROOT / "mrl_text", "mrl_text"), (ROOT / "eval", "mrl_text.eval")):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = file
    return found


MODULES = _modules()


def imported(module: str, code: str, *, is_package: bool = False) -> Iterator[str]:
    """Modules of ours that a module's code imports, inside functions too, but not under ``TYPE_CHECKING``."""
    package = module if is_package else module.rpartition(".")[0]
    pending: list[ast.AST] = [ast.parse(code)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending.extend(node.orelse)
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "mrl_text")
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            target = ".".join(filter(None, (start, node.module)))
            if target.split(".")[0] == "mrl_text":
                yield from (_home(target, name.name) for name in node.names)


def _home(package: str, name: str) -> str:
    """The module that ``from package import name`` needs."""
    if f"{package}.{name}" in MODULES:
        return f"{package}.{name}"
    if package == "mrl_text" and name in ("MatryoshkaEncoder", "encode"):  # mrl_text fetches them when asked
        return "mrl_text.encoder" if name == "MatryoshkaEncoder" else "mrl_text.loading"
    return package


def _part(module: str) -> str:
    return module.split(".")[1]


def test_every_module_has_a_room() -> None:
    homeless = sorted(name for name in MODULES if name != "mrl_text" and _part(name) not in ROOM)
    assert not homeless, f"no room holds {', '.join(homeless)}: give it one in FLOORS and in CONTRIBUTING.md"


def test_imports_point_down() -> None:
    climbing = set()
    for module, file in MODULES.items():
        if module == "mrl_text":
            continue
        for target in imported(module, file.read_text(encoding="utf-8"), is_package=file.name == "__init__.py"):
            here, there = _part(module), _part(target) if "." in target else None
            if there and HEIGHT[there] >= HEIGHT[here] and ROOM[there] != ROOM[here]:
                climbing.add((module, target))
    shown = ", ".join(" -> ".join(pair) for pair in sorted(climbing))
    assert not climbing, f"imports that do not point down: {shown}"


def test_no_module_is_long() -> None:
    long = sorted(name for name, file in MODULES.items() if len(file.read_text("utf-8").splitlines()) > LONGEST)
    assert not long, f"over {LONGEST} lines, so two modules: {', '.join(long)}"


@pytest.mark.slow
def test_every_imported_library_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [names for extra, names in project["optional-dependencies"].items() if extra != "dev"]
    declared = {re.split(r"[^\w.-]", one)[0] for names in (project["dependencies"], *extras) for one in names}
    packages = packages_distributions()
    undeclared = set()
    for file in MODULES.values():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.split(".")[0] for name in names} - {"mrl_text", *sys.stdlib_module_names}:
                homes = {re.sub("[_.]", "-", home).lower() for home in packages.get(name, [name])}
                undeclared |= set() if homes & declared or name in BROUGHT_ALONG else {name}
    assert not undeclared, f"imported, but no dependency of ours: {', '.join(sorted(undeclared))}"


def test_the_picture_for_contributors_has_these_floors() -> None:
    picture = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[1]
    floors = [set(re.findall(r"\b[a-z]+\b", floor)) for floor in re.split(r"\n-+\n", picture)]
    assert len(floors) == len(FLOORS)
    for drawn, floor in zip(reversed(floors), FLOORS, strict=True):
        assert set(floor) <= drawn


def test_imports_are_found_wherever_they_stand() -> None:
    code = """
import os
import mrl_text.files
from typing import TYPE_CHECKING
from mrl_text import MatryoshkaEncoder, __version__, models
from . import tasks
from .runner import sweep
from ..files import write_atomically
if TYPE_CHECKING:
    from mrl_text.training import train
else:
    from mrl_text import truncation
def later():
    from mrl_text.search.plan import Plan
"""
    wanted = {"mrl_text.files", "mrl_text.encoder", "mrl_text", "mrl_text.models", "mrl_text.eval.tasks"}
    wanted |= {"mrl_text.eval.runner", "mrl_text.truncation", "mrl_text.search.plan"}
    assert set(imported("mrl_text.eval.items", code)) == wanted
    assert set(imported("mrl_text.eval", "from . import tasks", is_package=True)) == {"mrl_text.eval.tasks"}


@pytest.mark.parametrize("module", ["mrl_text", "mrl_text.cli"])
def test_importing_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"torch", "transformers", "sentence_transformers", "datasets", "mteb", "numpy", "scipy", "sklearn"}
    heavy |= {"pandas", "pyarrow", "matplotlib", "faiss", "psycopg", "qdrant_client", "ray", "fastapi", "pydantic"}
    assert not heavy & set(loaded)
