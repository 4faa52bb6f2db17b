from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mrl_text import docstrings
from mrl_text.docstrings import (
    HELD_OUT_PACKAGES,
    HELD_OUT_THIRD_PARTY,
    Docstring,
    environment_packages,
    load_docstrings,
    parse_docstrings,
)
from mrl_text.training.data import load_source
from mrl_text.training.recipe import SourceConfig

MakePackage = Callable[[str, dict[str, str | bytes]], Path]


def documented(topic: str, indent: str = "") -> str:
    """A docstring of which every sentence is about the topic."""
    rest = f"The {topic} is explained here with so many words about {topic} that the pair is worth keeping."
    return f'{indent}"""Explain what {topic} does.\n\n{indent}{rest}\n{indent}"""\n'


def function(name: str) -> str:
    return f"def {name}():\n{documented(name, '    ')}\n"


@pytest.fixture
def make_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePackage:
    """Writes a package, or a module for a name with .py, where imports find it; keeps the cache apart."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(site)

    def make(name: str, files: dict[str, str | bytes]) -> Path:
        for path, content in files.items():
            file = site / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        importlib.invalidate_caches()
        return site / name

    return make


def test_every_public_module_class_and_function_gives_a_pair_in_the_order_of_the_file() -> None:
    source = (
        documented("module")
        + "class Public:\n"
        + documented("class", "    ")
        + "    def method(self):\n"
        + documented("method", "        ")
        + "        class Local:\n"
        + documented("local class", "            ")
        + "        def local(self):\n"
        + documented("local function", "            ")
        + "    def _hidden(self):\n"
        + documented("private method", "        ")
        + "    class Inner:\n"
        + documented("inner class", "        ")
        + "class _Private:\n"
        + documented("private class", "    ")
        + "    def method(self):\n"
        + documented("method of a private class", "        ")
        + "async def fetch():\n"
        + documented("coroutine", "    ")
        + "def bare():\n    return 1\n"
        + "def plain():\n"
        + documented("function", "    ")
    )
    pairs = list(parse_docstrings(source, "pack.mod"))
    assert [(pair.id, pair.anchor) for pair in pairs] == [
        ("pack.mod", "Explain what module does."),
        ("pack.mod.Public", "Explain what class does."),
        ("pack.mod.Public.method", "Explain what method does."),
        ("pack.mod.Public.Inner", "Explain what inner class does."),
        ("pack.mod.fetch", "Explain what coroutine does."),
        ("pack.mod.plain", "Explain what function does."),
    ]
    assert {pair.package for pair in pairs} == {"pack"}
    assert pairs[0].positive == (
        "The module is explained here with so many words about module that the pair is worth keeping."
    )


def test_markup_doctests_and_directives_are_removed() -> None:
    source = '''"""Compute :func:`~pack.value`
of **many** things.

The `first` argument is a :py:class:`Thing <pack.Thing>` that holds
the |values| summed over all of the rows.

Examples
--------
>>> compute(1)
'output of a doctest'

In [1]: compute(2)
Out[1]: output of a notebook

.. versionadded:: 1.0
.. note:: left out too

The last sentence follows.
"""'''
    (pair,) = parse_docstrings(source, "pack")
    assert pair == Docstring(
        "pack",
        "pack",
        "Compute pack.value of many things.",
        "The first argument is a Thing that holds the values summed over all of the rows."
        " Examples The last sentence follows.",
    )


ENOUGH = "one two three four five six seven eight nine ten eleven twelve"


@pytest.mark.parametrize(
    ("summary", "rest", "kept"),
    [
        ("Three words here.", ENOUGH, True),
        ("Two words.", ENOUGH, False),
        (" ".join(["word"] * 40), ENOUGH, True),
        (" ".join(["word"] * 41), ENOUGH, False),
        ("Three words here.", ENOUGH.removesuffix(" twelve"), False),
        ("Three words here.", "", False),
        ("Three words here.", "1.0 2.0 3.0 4.0 | " * 6 + "numbers of a table", False),
        (
            "Three words here.",
            "Эта документация написана кириллицей и потому не годится для обучения модели вовсе",
            False,
        ),
        ("Three words here.", ">>> " + ENOUGH, False),
    ],
)
def test_too_short_or_too_long_and_non_text_is_dropped(summary: str, rest: str, kept: bool) -> None:
    assert bool(list(parse_docstrings(f'"""{summary}\n\n{rest}\n"""', "pack"))) is kept


LIMIT = docstrings._MAX_POSITIVE_CHARACTERS
FULL = ["x" * (LIMIT % 5 + 5), *["four"] * (LIMIT // 5 - 1)]  # exactly as many characters as fit


@pytest.mark.parametrize(
    "words",
    [["lorem"] * LIMIT, FULL, [*FULL, "more"], [*FULL[:-1], "fiver"], [*FULL[:-2], "x" * LIMIT]],
    ids=["long", "just fits", "ends at a word", "one too long", "long last word"],
)
def test_a_long_rest_is_cut_after_the_last_word_that_fits(words: list[str]) -> None:
    assert len(" ".join(FULL)) == LIMIT
    expected = ""
    for word in words:
        if len(longer := f"{expected} {word}".strip()) > LIMIT:
            break
        expected = longer
    (pair,) = parse_docstrings(f'"""Three words here.\n\n{" ".join(words)}\n"""', "pack")
    assert pair.positive == expected


def test_a_package_is_read_without_importing_it_or_its_tests(make_package: MakePackage) -> None:
    make_package(
        "mrlfake",
        {
            "__init__.py": documented("the package") + "raise RuntimeError('imported')\n",
            "first.py": documented("the first module"),
            "sub/__init__.py": documented("the subpackage"),
            "sub/_second.py": documented("the second module"),
            "tests/helper.py": documented("a helper of tests"),
            "sub/test/helper.py": documented("another helper of tests"),
            "testing/helper.py": documented("tools for tests"),
            "test_first.py": documented("a test module"),
            "conftest.py": documented("a test configuration"),
            "_vendored/other.py": documented("a package of someone else"),
            "notes.txt": documented("no module"),
        },
    )
    found = load_docstrings(["mrlfake"])
    assert [pair.id for pair in found] == ["mrlfake", "mrlfake.first", "mrlfake.sub", "mrlfake.sub._second"]
    assert not [name for name in sys.modules if name.startswith("mrlfake")]


def test_a_single_module_is_read(make_package: MakePackage) -> None:
    make_package("", {"mrlsingle.py": function("lonely")})
    assert [pair.id for pair in load_docstrings(["mrlsingle"])] == ["mrlsingle.lonely"]


@pytest.mark.parametrize(
    "content",
    [
        documented("broken") + "def (:\n",
        documented("caf\u00e9").encode("latin-1"),
        documented("zero").encode() + b"\0",
        documented("deep") + "x = " + "a" + ".b" * 20_000 + "\n",
        documented("deeper") + "x = " + "-" * 100_000 + "1\n",
    ],
    ids=["syntax", "encoding", "zero byte", "recursion", "parser memory"],
)
def test_a_file_that_is_no_python_is_passed_over(make_package: MakePackage, content: str | bytes) -> None:
    make_package("mrlbroken", {"__init__.py": documented("sound"), "bad.py": content})
    assert [pair.id for pair in load_docstrings(["mrlbroken"])] == ["mrlbroken"]


def test_no_text_comes_twice(make_package: MakePackage) -> None:
    same_anchor = documented("copied").replace("so many words", "quite other words")
    make_package(
        "mrltwice",
        {
            "a.py": documented("copied"),
            "b.py": documented("copied").upper(),
            "c.py": same_anchor,
            "d.py": documented("own"),
        },
    )
    make_package("mrltwice_too", {"__init__.py": documented("copied")})
    assert [pair.id for pair in load_docstrings(["mrltwice_too", "mrltwice"])] == ["mrltwice.a", "mrltwice.d"]


def test_no_name_comes_twice(make_package: MakePackage) -> None:
    accessors = (
        "class Table:\n    @property\n    def columns(self):\n"
        + documented("the getter", "        ")
        + "    @columns.setter\n    def columns(self, names):\n"
        + documented("the setter", "        ")
    )
    make_package("mrlnames", {"__init__.py": accessors})
    names = [pair.id for pair in load_docstrings(["mrlnames"])]
    assert len(names) == len(set(names)), "queries and documents of the retrieval task are told apart by these names"


def test_the_limit_per_package_draws_the_same_pairs_every_time(make_package: MakePackage) -> None:
    files: dict[str, str | bytes] = {
        f"m{number}.py": "".join(function(f"{letter}{number}") for letter in "abc") for number in range(6)
    }
    make_package("mrllimit", files)
    whole = load_docstrings(["mrllimit"])
    drawn = load_docstrings(["mrllimit"], limit_per_package=7)
    assert (len(whole), len(drawn)) == (18, 7)
    assert set(drawn) <= set(whole)
    assert drawn == load_docstrings(["mrllimit"], limit_per_package=7, use_cache=False)
    assert load_docstrings(["mrllimit"]) == whole
    with pytest.raises(ValueError, match="limit_per_package must be at least 1, got 0"):
        load_docstrings(["mrllimit"], limit_per_package=0)


def test_parsed_packages_are_kept(make_package: MakePackage, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package("mrlkept", {"__init__.py": documented("kept")})
    first = load_docstrings(["mrlkept"])

    def refuse(source: str, module: str) -> Iterator[Docstring]:
        raise AssertionError("parsed again")

    monkeypatch.setattr(docstrings, "parse_docstrings", refuse)
    assert load_docstrings(["mrlkept"]) == first
    with pytest.raises(AssertionError, match="parsed again"):
        load_docstrings(["mrlkept"], use_cache=False)


@pytest.mark.parametrize("damage", [b"", b'[["half', b"[1]", b'[["too", "few"]]', b"\xff\xfe\x00\x81"])
def test_a_damaged_cache_is_made_again(make_package: MakePackage, tmp_path: Path, damage: bytes) -> None:
    make_package("mrldamaged", {"__init__.py": documented("sound")})
    first = load_docstrings(["mrldamaged"])
    (cached,) = (tmp_path / "cache").rglob("*.json")
    sound = cached.read_bytes()
    cached.write_bytes(damage)
    assert load_docstrings(["mrldamaged"]) == first
    assert cached.read_bytes() == sound


def test_a_changed_file_is_read_again(make_package: MakePackage) -> None:
    make_package("mrlchanged", {"__init__.py": documented("old"), "more.py": function("stays")})
    before = load_docstrings(["mrlchanged"])
    make_package("mrlchanged", {"__init__.py": documented("newer")})
    after = load_docstrings(["mrlchanged"])
    assert [pair.anchor for pair in before] == ["Explain what old does.", "Explain what stays does."]
    assert [pair.anchor for pair in after] == ["Explain what newer does.", "Explain what stays does."]


def test_excluded_and_missing_packages_are_passed_over(make_package: MakePackage) -> None:
    make_package("mrlwanted", {"__init__.py": documented("wanted")})
    make_package("mrlother", {"__init__.py": documented("other")})
    wanted = load_docstrings(["mrlwanted", "mrlother", "mrl_not_installed"], exclude=["mrlother"])
    assert [pair.id for pair in wanted] == ["mrlwanted"]


@pytest.mark.parametrize("packages", [["mrl_not_installed"], ["mrl_not_installed", "nor_this"]])
def test_only_unknown_packages_are_an_error_that_names_them(packages: list[str]) -> None:
    with pytest.raises(ValueError, match=f"no docstrings found in {', '.join(packages)}"):
        load_docstrings(packages)


def test_the_environment_holds_the_standard_library_and_what_is_installed_but_not_this_package() -> None:
    found = environment_packages()
    assert {"json", "torch", "numpy"} <= set(found)
    assert "mrl_text" not in found
    assert not [name for name in found if name.startswith("_")]
    assert found == sorted(set(found))


@pytest.fixture
def held_out(kept_docstrings: None) -> list[Docstring]:
    """The held-out pairs of this environment."""
    return load_docstrings(HELD_OUT_PACKAGES)


@pytest.mark.slow
def test_the_held_out_packages_are_a_retrieval_task_of_their_own(held_out: list[Docstring]) -> None:
    assert len(held_out) > 500
    assert set(HELD_OUT_THIRD_PARTY) < {pair.package for pair in held_out} <= set(HELD_OUT_PACKAGES)
    assert load_docstrings(HELD_OUT_PACKAGES) == held_out
    anew = load_docstrings(HELD_OUT_PACKAGES[:4], use_cache=False)
    assert anew == [pair for pair in held_out if pair.package in HELD_OUT_PACKAGES[:4]]


@pytest.mark.slow
def test_training_shares_no_text_with_the_held_out_packages(held_out: list[Docstring]) -> None:
    packages = ["numpy", "scipy"]
    hidden = {text.casefold() for pair in held_out for text in (pair.anchor, pair.positive)}
    raw = [pair for pair in load_docstrings(packages) if not hidden.isdisjoint(map(str.casefold, pair[2:]))]
    loaded = load_source(SourceConfig(source="docstrings", packages=packages))
    assert raw, "without a shared text this test could not fail"
    assert len(loaded) == len(load_docstrings(packages)) - len(raw)
    assert hidden.isdisjoint(text.casefold() for column in ("anchor", "positive") for text in loaded[column])
