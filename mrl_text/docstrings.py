"""Training and evaluation pairs from the documentation that every Python environment already holds.

A pair is (summary line, rest of the docstring) of one module, class or function. Source files are parsed with
:mod:`ast`; nothing is imported and nothing is downloaded. For one environment the result is always the same.

Whole packages are held out for evaluation (:data:`HELD_OUT_PACKAGES`): a model trained on docstrings never sees
one of their texts, so the docstring retrieval task measures new packages, not memory.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import os
import pkgutil
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from mrl_text.files import cache_dir, write_atomically
from mrl_text.progress import progress_bar

logger = logging.getLogger(__name__)

HELD_OUT_THIRD_PARTY = ("networkx", "polars", "sklearn")
HELD_OUT_STDLIB = (
    "argparse asyncio collections concurrent csv datetime email fractions http ipaddress json logging random "
    "shutil statistics string subprocess tempfile unittest urllib zipfile"
).split()
HELD_OUT_PACKAGES = (*HELD_OUT_THIRD_PARTY, *HELD_OUT_STDLIB)
"""Top-level import names that training never reads and the docstring retrieval task is made of."""

_SKIPPED_FOLDERS = {"__pycache__", "test", "tests", "testing", "idlelib", "lib2to3", "site-packages", "vendor"}
_MAX_POSITIVE_CHARACTERS = 250
_PARSER_VERSION = 1  # to be raised with every change of what is parsed: it invalidates the caches


class Docstring(NamedTuple):
    """One docstring, split into the two halves of a training pair."""

    id: str  # dotted name of the documented object, e.g. ``"sklearn.cluster._kmeans.KMeans.fit"``.
    package: str  # top-level import name
    anchor: str  # the summary paragraph on one line
    positive: str  # the start of the rest as running text, at most 250 characters, without doctests and markup


def load_docstrings(
    packages: Sequence[str] | None = None,
    *,
    exclude: Sequence[str] = (),
    limit_per_package: int | None = None,
    use_cache: bool = True,
    progress: bool = False,
) -> list[Docstring]:
    """Collect the docstring pairs of installed packages and of the standard library.

    Args:
        packages: top-level import names. None takes the whole environment: every package that can be found on
            ``sys.path`` and every module of the standard library. Names that are not installed are passed over.
        exclude: top-level import names to leave out.
        limit_per_package: at most this many pairs of each package. Its files are read in an order that is fixed by
            their names and random in effect, until there are enough.
        use_cache: keep the parsed pairs of each package under the cache directory, keyed by the names, sizes and
            times of its files, and use them when they are there.
        progress: show a progress bar on stderr.

    Returns:
        Pairs sorted by package and name. No two share an anchor or a positive (case and spacing ignored).

    Raises:
        ValueError: ``limit_per_package`` is below 1, or no documented object was found.
    """
    if limit_per_package is not None and limit_per_package < 1:
        raise ValueError(f"limit_per_package must be at least 1, got {limit_per_package}")
    names = sorted(set(environment_packages() if packages is None else packages) - set(exclude))
    found: list[Docstring] = []
    bar = progress_bar(names, "Reading docstrings", unit="package", disable=not progress, leave=False)
    for name in bar:
        bar.set_postfix_str(name)
        found.extend(_package_docstrings(name, limit_per_package, use_cache))
    if not found:
        wanted = "this environment" if packages is None else ", ".join(packages)
        raise ValueError(f"no docstrings found in {wanted}: name packages that are installed here")
    return _deduplicated(found)


def environment_packages() -> list[str]:
    """Top-level import names of this environment: the standard library and all that is installed, sorted.

    Private names (leading underscore) and this package itself are left out. Nothing is imported.
    """
    stdlib = {name for name in sys.stdlib_module_names if not name.startswith("_")}
    site_folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    installed = {module.name for module in pkgutil.iter_modules(sorted(site_folders))}
    return sorted(name for name in stdlib | installed if not name.startswith("_") and name != "mrl_text")


def parse_docstrings(source: str, module: str) -> Iterator[Docstring]:
    """Yield the pairs of one source file, in the order of the file.

    Raises:
        SyntaxError: the source is not valid Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code are not ours to report
        tree = ast.parse(source)
    stack: list[tuple[ast.AST, str]] = [(tree, module)]
    while stack:
        node, name = stack.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            pair = _split_docstring(ast.get_docstring(node))
            if pair is not None:
                yield Docstring(name, module.partition(".")[0], *pair)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue  # objects inside a function are not documentation
        children = [
            (child, f"{name}.{child.name}")
            for child in ast.iter_child_nodes(node)
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and not child.name.startswith("_")
        ]
        stack.extend(reversed(children))


def _package_docstrings(name: str, limit: int | None, use_cache: bool) -> list[Docstring]:
    files = _package_files(name)
    if not files:
        return []
    key = hashlib.blake2b(digest_size=12)
    stamps = [(module, (status := path.stat()).st_size, status.st_mtime_ns) for module, path in files]
    parser = [_PARSER_VERSION, _MAX_POSITIVE_CHARACTERS, sys.version_info[:2]]
    key.update(json.dumps([parser, limit, stamps]).encode())
    cached = cache_dir() / "docstrings" / f"{name}-{key.hexdigest()}.json"
    if use_cache and cached.exists():
        try:
            return [Docstring(*row) for row in json.loads(cached.read_text(encoding="utf-8"))]
        except (ValueError, TypeError):  # UnicodeDecodeError is a ValueError too
            logger.warning("the docstring cache %s is damaged and is made again", cached)
    pairs = _parse_files(files, limit)
    if use_cache:
        try:
            write_atomically(cached, json.dumps(pairs).encode())
        except OSError as error:
            logger.warning("the docstring cache cannot be written: %s", error)
    return pairs


def _parse_files(files: Sequence[tuple[str, Path]], limit: int | None) -> list[Docstring]:
    """Pairs of a package, files in an order that is random in effect and fixed in fact until the limit is met."""
    order = sorted(files, key=lambda file: hashlib.blake2b(file[0].encode(), digest_size=8).digest())
    pairs: list[Docstring] = []
    for module, path in order:
        try:
            pairs.extend(parse_docstrings(path.read_text(encoding="utf-8"), module))
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
            continue  # templates, test fixtures with broken code, other encodings
        if limit is not None and len(pairs) >= limit:
            break
    return sorted(pairs[:limit])


def _package_files(name: str) -> list[tuple[str, Path]]:
    """(dotted module, path) of every source file of a top-level package, sorted; empty if there is none."""
    folders = [sysconfig.get_path("stdlib")] if name in sys.stdlib_module_names else None
    spec = PathFinder.find_spec(name, folders)
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [(name, Path(spec.origin))] if spec.origin and spec.origin.endswith(".py") else []
    files = []
    for location in spec.submodule_search_locations:
        root = Path(location)
        for folder, subfolders, filenames in os.walk(root):
            subfolders[:] = [
                sub for sub in subfolders if sub not in _SKIPPED_FOLDERS and not sub.startswith(("_vendor", "."))
            ]
            prefix = (name, *Path(folder).relative_to(root).parts)
            for filename in filenames:
                if filename.endswith(".py") and not filename.startswith(("test_", "conftest")):
                    stem = filename.removesuffix(".py")
                    files.append((".".join(prefix if stem == "__init__" else (*prefix, stem)), Path(folder, filename)))
    return sorted(files)


_DIRECTIVE = re.compile(r"^\s*\.\. .*$", re.MULTILINE)
_UNDERLINE = re.compile(r"^\s*[-=~^*#`\"']{3,}\s*$", re.MULTILINE)
_ROLE = re.compile(r":[a-z:]+:`~?([^`<]*)(?:<[^`]*>)?`")
_DOCTEST = re.compile(r"^\s*(?:>>>|\.\.\. |In \[).*(?:\n(?!\s*$).*)*", re.MULTILINE)
_MARKUP = re.compile(r"[`*|]+")


def _split_docstring(text: str | None) -> tuple[str, str] | None:
    """Summary and rest of one docstring, or None where it does not make a useful pair."""
    if not text:
        return None
    summary, _, rest = text.partition("\n\n")
    anchor = _plain(summary)
    positive = _plain(_UNDERLINE.sub("", _DIRECTIVE.sub("", _DOCTEST.sub("", rest))))
    if len(positive) > _MAX_POSITIVE_CHARACTERS:
        positive = positive[: _MAX_POSITIVE_CHARACTERS + 1].rpartition(" ")[0][:_MAX_POSITIVE_CHARACTERS]
    if not 3 <= len(anchor.split()) <= 40 or len(positive.split()) < 12:
        return None
    letters = sum(character.isalpha() and character.isascii() for character in positive)
    return (anchor, positive) if letters >= 0.6 * len(positive) else None


def _plain(text: str) -> str:
    return " ".join(_MARKUP.sub("", _ROLE.sub(r"\1", text)).split())


def _deduplicated(pairs: Iterable[Docstring]) -> list[Docstring]:
    seen: set[str] = set()
    kept = []
    for pair in pairs:
        keys = {pair.id, pair.anchor.casefold(), pair.positive.casefold()}  # getter and setter share a name
        if seen.isdisjoint(keys):
            seen |= keys
            kept.append(pair)
    return kept
