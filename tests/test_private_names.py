"""What the package takes from other libraries without their promise: every private name is listed and still there."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import pytest

from tests.test_house import MODULES


class PrivateName(NamedTuple):
    """A private name of another library and the one module of ours that knows it."""

    package: str
    """As pip knows it."""
    owner: str
    """Module and class that have it."""
    name: str
    used_in: str


PRIVATE_NAMES = [
    PrivateName("mteb", "mteb.abstasks.AbsTaskBitextMining", "_get_pairs", "mrl_text.eval.items"),
    PrivateName("mteb", "mteb.TaskMetadata", "_hf_task_type", "mrl_text.cards.metadata"),
    PrivateName("transformers", "transformers.Trainer", "_load_best_model", "mrl_text.training.trainer"),
    PrivateName("transformers", "transformers.Trainer", "_load_from_checkpoint", "mrl_text.training.trainer"),
    PrivateName("transformers", "transformers.Trainer", "_save_checkpoint", "mrl_text.training.trainer"),
]
"""A name goes from here when the library offers a public way. One more needs a reason."""

DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}
"""Names of the standard library that are public in spite of the underscore."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__")) and name != "_"


def private_names(tree: ast.AST, ours: set[str]) -> Iterator[str]:
    """Private names in a module's code that are not defined by ``ours``: attributes, imports, ``getattr`` by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield from [node.attr] if is_private(node.attr) and node.attr not in ours | DOCUMENTED else []
        elif isinstance(node, ast.Import):
            yield from (part for name in node.names for part in name.name.split(".") if is_private(part))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in (
            "",
            "mrl_text",
            "__future__",
        ):
            names = [*(node.module or "").split("."), *(name.name for name in node.names)]
            yield from filter(is_private, names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)) and name.value not in ours:
                yield str(name.value)


def defined(tree: ast.AST) -> Iterator[str]:
    """Every private name that code gives a meaning: functions, classes, assigned variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def inherited_private_names(tree: ast.AST, module: str) -> Iterator[str]:
    """Private names of foreign parents that our classes override or use through ``self`` and ``super()``."""
    for node in ast.walk(tree):
        found = isinstance(node, ast.ClassDef) and getattr(importlib.import_module(module), node.name, None)
        if not isinstance(node, ast.ClassDef) or not isinstance(found, type):
            continue
        foreign = {
            name
            for parent in found.__mro__
            if _is_foreign(parent.__module__)
            for name in vars(parent)
            if is_private(name)
        }
        yield from foreign & {*defined(node), *(one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute))}


def _is_foreign(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] not in {"mrl_text", "builtins", *sys.stdlib_module_names}


def attribute(path: str) -> Any:
    """The class of a dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("one", PRIVATE_NAMES, ids=lambda one: f"{one.owner}.{one.name}")
def test_a_private_name_is_still_there(one: PrivateName) -> None:
    assert hasattr(attribute(one.owner), one.name), (
        f"{one.package} {version(one.package)} has no {one.owner}.{one.name} any more, which {one.used_in} needs: find"
        f" another way there, or cap {one.package} in pyproject.toml below that version"
    )


@pytest.mark.slow
def test_no_private_name_is_used_that_is_not_listed() -> None:
    trees = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in MODULES.items()}
    ours = {name for tree in trees.values() for name in defined(tree)}
    used = set()
    for module, tree in trees.items():
        if module != "mrl_text.__main__":
            names = {*private_names(tree, ours), *inherited_private_names(tree, module)}
            used |= {(module, name) for name in names}
    listed = {(one.used_in, one.name) for one in PRIVATE_NAMES}
    new, gone = (", ".join(f"{name} in {module}" for module, name in sorted(s)) for s in (used - listed, listed - used))
    assert not new, f"private names of other libraries, not in PRIVATE_NAMES: {new}"
    assert not gone, f"no longer used, so take them out of PRIVATE_NAMES: {gone}"


def test_private_names_are_found_wherever_they_stand() -> None:
    code = """
import mteb._internal
from datasets import _helpers
from datasets._names import public
from mrl_text.files import _ours
from __future__ import annotations
class Own:
    def _mine(self):
        return self._mine(), other._foreign, getattr(other, "_named"), other.__class__, point._replace(x=1)
"""
    tree = ast.parse(code)
    assert set(private_names(tree, set(defined(tree)))) == {"_internal", "_helpers", "_names", "_foreign", "_named"}


def test_private_names_of_parents_are_found() -> None:
    code = """
class MatryoshkaEncoder(SentenceTransformer):
    def _parse_model_config(self):
        return self._mine, self._resolve_prompt
"""
    found = set(inherited_private_names(ast.parse(code), "mrl_text.encoder"))
    assert found == {"_parse_model_config", "_resolve_prompt"}
