"""A user's own data, read and checked: a BEIR folder, or a table of pairs or of labelled texts."""

from __future__ import annotations

import functools
import hashlib
import logging
import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from mrl_text.choices import LabelledAs
from mrl_text.suggest import check_choice, check_columns
from mrl_text.tables import SUFFIXES, Columns, Problems, checked, open_table, read_columns, require
from mrl_text.tables.beir import one_of, read_judgements, read_queries, unique
from mrl_text.tables.corpus import ID_COLUMNS
from mrl_text.tables.file_types import COMPRESSIONS, table_stem, table_suffix
from mrl_text.tables.values import any_text, class_name, number, shown, text

logger = logging.getLogger(__name__)

Parts = dict[str, Path]
"""What a file is for (``"data"``, ``"train"``, ``"corpus"``...) -> where it is."""

_LABELLED = ("text", "label")
LAYOUTS: dict[tuple[str, ...], str] = {
    ("sentence1", "sentence2", "score"): "pairs with a score",
    ("sentence1", "sentence2", "label"): "pairs labelled 0 or 1",
    _LABELLED: "labelled texts",
}
"""Columns of a table that can be evaluated -> what such data are called; others are ignored."""

_OURS = {name for layout in LAYOUTS for name in layout}

_SPLITS = ("test", "dev", "validation")
_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix != ".txt")
_SEED = 42


@dataclass(frozen=True, eq=False)
class OwnData:
    """What a user's files say, checked."""

    place: Path
    parts: Parts
    kind: str
    """mteb's name for the type of task."""
    tables: Mapping[str, Mapping[str, list[Any]]]
    """Name -> columns: of a retrieval task its ``corpus`` and ``queries``, of any other its splits."""
    relevant: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of a retrieval task: query -> document -> grade."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """A column of :data:`LAYOUTS` -> what the files call it, where that is another name."""

    @functools.cached_property
    def revision(self) -> str:
        """Hash of the files and of the type of task.

        The same texts clustered are another task than the same texts classified, and no result of one may pass for a
        result of the other.
        """
        named = repr(sorted(self.columns.items())) if self.columns else ""
        start = f"{self.kind} on all rows" if self.kind == "Classification" else self.kind
        return _digest(start + named, self.parts)[:16]


_READ: WeakValueDictionary[tuple[Path, LabelledAs | None, str, str], OwnData] = WeakValueDictionary()


def read_all(
    paths: Sequence[str | Path], as_: LabelledAs | None = None, columns: Mapping[str, str] | None = None
) -> list[OwnData]:
    """Read what :func:`read_own_data` reads; ``as_`` is about files with ``text,label`` and leaves the others alone.

    Raises:
        FileNotFoundError: as there.
        ValueError: likewise; or ``as_`` without such a file.
    """
    if as_ is not None:
        check_choice("as", as_, LabelledAs)
    found = [read_own_data(path, columns=columns) for path in paths]
    labelled = [one.kind == "Classification" for one in found]
    if as_ is not None and not any(labelled):
        raise ValueError(f"--as {as_} is for files with the columns text,label, and none was given")
    return [
        read_own_data(path, as_, columns) if as_ == "clustering" and chosen else one
        for path, one, chosen in zip(paths, found, labelled, strict=True)
    ]


def read_own_data(path: str | Path, as_: LabelledAs | None = None, columns: Mapping[str, str] | None = None) -> OwnData:
    """Read a user's data; all of it is checked here, before anything is loaded or encoded.

    The rows are parsed once as long as the files stay the same and what was read is in use.

    Args:
        path: a BEIR folder (``corpus.jsonl``, ``queries.jsonl``, ``qrels/*.tsv``; maybe compressed), a folder with
            ``train`` and ``test`` tables of labelled texts, or one table with the columns of :data:`LAYOUTS`. What a
            table may be says :func:`mrl_text.tables.open_table`.
        as_: what to do with labelled texts; None classifies. To be classified, a single table is split in halves
            stratified by label, always the same ones.
        columns: where a table has other names, a column of :data:`LAYOUTS` -> what the table calls it.

    Raises:
        FileNotFoundError: nothing there, or a part of a folder is missing.
        ValueError: an unknown layout or type of file, or malformed rows, each named by file and line; or data on
            which the score is not defined: one label only, equal scores, or no positive judgement; ``columns`` that
            are not there, or given for a retrieval task.
    """
    if as_ is not None:
        check_choice("as", as_, LabelledAs)
    place = Path(path).expanduser().absolute()
    place = place.resolve() if ".." in place.parts else place
    parts = _find_parts(place, as_)
    for file in parts.values():
        open_table(file)
    named = dict(columns or {})
    for ours in named:
        check_choice("column", ours, sorted(_OURS))
    if named and "corpus" in parts:
        raise ValueError(f"{place} is a retrieval task: columns are named for tables of pairs or of labelled texts")
    key = (place, as_, repr(sorted(named.items())), _digest("", parts))
    if (found := _READ.get(key)) is None:
        problems = Problems(place)
        if "corpus" in parts:
            found = _retrieval(place, parts, problems)
        else:
            found = replace(_tables(place, parts, as_, named, problems), columns=named)
        _READ[key] = found
    return found


def task_name(path: Path) -> str:
    """Name of a file without its ending, or of a folder, in characters that are safe in file names."""
    stem = table_stem(path) if table_suffix(path) in _SUFFIXES else path.name
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:80] or "own-data"


def _find_parts(place: Path, as_: LabelledAs | None) -> dict[str, Path]:
    if not place.is_dir():
        return {"data": place}
    corpus, queries = _part(place, "corpus.jsonl"), _part(place, "queries.jsonl")
    if any(one.exists() for one in (corpus, queries, place / "qrels")):
        if as_ is not None:
            raise ValueError(f"{place} is a retrieval task: only labelled texts can be evaluated as {as_}")
        parts = {"corpus": corpus, "queries": queries, "qrels": _judgements(place)}
    else:
        if as_ == "clustering":
            raise ValueError(f"{place} is a folder: clustering takes one table, so give the path of the file")
        parts = {role: _split_file(place, role) for role in ("train", "test")}
    if absent := [file.name for file in parts.values() if not file.is_file()]:
        raise FileNotFoundError(f"{place} lacks {' and '.join(absent)}")
    return parts


def _part(place: Path, name: str) -> Path:
    """A file of a folder, which may be compressed; the plain name where there is none."""
    return next((file for end in ("", *COMPRESSIONS) if (file := place / f"{name}{end}").is_file()), place / name)


def _judgements(place: Path) -> Path:
    found = sorted(file for file in (place / "qrels").glob("*.tsv*") if table_suffix(file) == ".tsv")
    files = {table_stem(file): file for file in found}
    chosen = next((split for split in _SPLITS if split in files), None)
    if chosen is None and len(files) != 1:
        there = f"has {', '.join(files)}" if files else "has no .tsv file"
        raise FileNotFoundError(f"{place / 'qrels'} {there}: name the judgements to use test.tsv")
    return files[chosen] if chosen else next(iter(files.values()))


def _split_file(place: Path, split: str) -> Path:
    names = [f"{split}{suffix}" for suffix in _SUFFIXES]
    found = sorted(file for file in place.iterdir() if table_stem(file) == split and table_suffix(file) in _SUFFIXES)
    if not found:
        raise FileNotFoundError(
            f"{place} has none of {', '.join(names)}; a folder holds either train and test tables of labelled texts or"
            " corpus.jsonl, queries.jsonl and qrels/test.tsv, anything else is given by the path of its file"
        )
    if len(found) > 1:
        raise ValueError(f"{place} has {' and '.join(file.name for file in found)}: keep one")
    return found[0]


def _read_table(file: Path, named: Mapping[str, str], problems: Problems) -> Columns:
    """The columns of a table by our names; a column that is called what another one stands for is left out."""
    ours = {named.get(name, name): name for name in sorted(_OURS, key=lambda name: name in named)}
    if len(set(named.values())) < len(named):
        raise ValueError(f"one column is named for two: {', '.join(f'{one}={name}' for one, name in named.items())}")
    found = read_columns(file, ours, problems)
    check_columns(file, named.values(), found.names)
    names = [ours.get(name, name) for name in found.names if name in ours or name not in _OURS]
    return replace(found, names=names, values={ours[name]: column for name, column in found.values.items()})


def _tables(place: Path, parts: Parts, as_: LabelledAs | None, named: Mapping[str, str], problems: Problems) -> OwnData:
    tables = {role: _read_table(file, named, problems) for role, file in parts.items()}
    layouts = {role: _layout(table, as_, named) for role, table in tables.items()}
    if "data" not in tables:
        if other := [table for role, table in tables.items() if layouts[role] != _LABELLED]:
            raise ValueError(
                f"{other[0].table.path} has pairs: train and test go with labelled texts, so give its own path"
            )
        splits = {role: _labelled_texts(table, problems) for role, table in tables.items()}
        problems.raise_if_any()
        return OwnData(place, parts, "Classification", _numbered(place, splits))
    table = tables["data"]
    if layouts["data"] == _LABELLED:
        labelled = _labelled_texts(table, problems)
        problems.raise_if_any()
        if as_ == "clustering":
            return OwnData(place, parts, "Clustering", _numbered(place, {"test": labelled}))
        return OwnData(place, parts, "Classification", _numbered(place, _halves(place, *labelled)))
    return _pairs(place, parts, table, layouts["data"][-1], problems)


def _layout(columns: Columns, as_: LabelledAs | None, named: Collection[str]) -> tuple[str, ...]:
    allowed = [layout for layout in ([_LABELLED] if as_ else LAYOUTS) if set(named) <= set(layout)]
    if not allowed:
        raise ValueError(f"{columns.table.path}: {' and '.join(named)} do not go together in one kind of data")
    require(columns, *allowed, kinds=LAYOUTS, option="--columns")
    fitting = [layout for layout in allowed if set(layout) <= set(columns.names)]
    if len(fitting) > 1:
        choices = " and ".join(f"({', '.join(layout)})" for layout in fitting)
        raise ValueError(f"the columns of {columns.table.path} fit {choices}: leave out what should not be evaluated")
    return fitting[0]


def _pairs(place: Path, parts: Parts, columns: Columns, target: str, problems: Problems) -> OwnData:
    data: dict[str, list[Any]] = {name: checked(columns, name, text, problems) for name in ("sentence1", "sentence2")}
    as_number = functools.partial(number, typed=columns.table.typed)
    convert = as_number if target == "score" else functools.partial(_zero_or_one, as_number)
    answers = checked(columns, target, convert, problems)
    problems.raise_if_any()
    if len(set(answers)) < 2:
        raise ValueError(
            f"{columns.table.path}: every {target} is {answers[0]:g}; at least two different ones are needed"
        )
    if target == "score":
        return OwnData(place, parts, "STS", {"test": {**data, "score": answers}})
    return OwnData(place, parts, "PairClassification", {"test": {**data, "labels": [int(one) for one in answers]}})


def _zero_or_one(as_number: Callable[[object], float], value: object) -> float:
    try:
        if (label := as_number(value)) in (0, 1):
            return label
    except ValueError:
        pass
    raise ValueError(f"is {shown(value)}: the label of a pair is 0 or 1")


def _labelled_texts(columns: Columns, problems: Problems) -> tuple[list[str], list[str]]:
    return checked(columns, "text", text, problems), checked(columns, "label", class_name, problems)


def _halves(place: Path, texts: list[str], labels: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Train and test with the rows of every label halved at random; the odd one goes to train."""
    draw = random.Random(_SEED)
    by_label: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        by_label.setdefault(label, []).append(row)
    in_test: set[int] = set()
    for _, members in sorted(by_label.items()):
        in_test.update(draw.sample(members, len(members) // 2))
    if not in_test:
        raise ValueError(f"{place}: no label has two rows, so that one could be tested after training on the other")
    parts: dict[str, list[int]] = {"train": [], "test": []}
    for row in range(len(texts)):
        parts["test" if row in in_test else "train"].append(row)
    return {name: ([texts[row] for row in kept], [labels[row] for row in kept]) for name, kept in parts.items()}


def _numbered(place: Path, splits: dict[str, tuple[list[str], list[str]]]) -> dict[str, dict[str, list[Any]]]:
    """Labels as numbers: those of the test split first, in alphabetical order.

    mteb's average precision of two classes is defined only if they are 0 and 1, and its clustering leaves out -1.
    """
    tested = set(splits["test"][1])
    known = set(splits.get("train", splits["test"])[1])
    if len(known) < 2:
        raise ValueError(f"{place}: the only label is {shown(known.pop())}; at least two are needed")
    if unseen := sorted(tested - known):
        logger.warning("%s: no row to train on has the label %s", place, ", ".join(unseen[:5]))
    numbers = {label: number for number, label in enumerate([*sorted(tested), *sorted(known - tested)])}
    return {
        name: {"text": texts, "label": [numbers[label] for label in labels]} for name, (texts, labels) in splits.items()
    }


def _retrieval(place: Path, parts: Parts, problems: Problems) -> OwnData:
    corpus = read_columns(parts["corpus"], (*ID_COLUMNS, "title", "text"), problems)
    identified = next((name for name in ID_COLUMNS if name in corpus.names), ID_COLUMNS[0])
    require(corpus, (identified, "text"))
    documents = {
        "id": checked(corpus, identified, unique(), problems),
        "title": checked(corpus, "title", any_text, problems, default=""),
        "text": checked(corpus, "text", any_text, problems),
    }
    ids, texts = read_queries(parts["queries"], problems)
    relevant = read_judgements(
        parts["qrels"],
        problems,
        queries=one_of(set(ids), parts["queries"].name),
        documents=one_of(set(documents["id"]), parts["corpus"].name),
    )
    blank = sum(not (title + text).strip() for title, text in zip(documents["title"], documents["text"], strict=True))
    if blank:  # published collections have such documents, and without them the scores would be others
        logger.warning("%s: %d of %d documents are empty", parts["corpus"], blank, len(corpus.lines))
    asked = [row for row, name in enumerate(ids) if name in relevant]
    if unjudged := len(ids) - len(asked):
        logger.info("%s: %d of %d queries have no judgement and are left out", parts["queries"], unjudged, len(ids))
    queries = {"id": [ids[row] for row in asked], "text": [texts[row] for row in asked]}
    return OwnData(place, parts, "Retrieval", {"corpus": documents, "queries": queries}, relevant)


def _digest(start: str, parts: Parts) -> str:
    digest = hashlib.sha256(start.encode())
    for file in parts.values():
        digest.update(f"\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()
