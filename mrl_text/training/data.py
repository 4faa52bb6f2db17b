"""Training data: hub data sets, local files and docstrings, all as columns anchor, positive, negative..."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, List, Value, load_dataset

from mrl_text.docstrings import HELD_OUT_PACKAGES, load_docstrings
from mrl_text.tables import SUFFIXES, Problems, Table, good_rows, open_table
from mrl_text.tables.columns import other_separator
from mrl_text.tables.file_types import table_files, table_suffix
from mrl_text.tables.texts import is_text
from mrl_text.tables.values import cell_text
from mrl_text.training.columns import LABEL, PAIRS, Needs
from mrl_text.training.recipe import SourceConfig

logger = logging.getLogger(__name__)

_STREAMED_ROWS = 10_000  # of a stream, those that tell which columns there are
_LOOKED_AT = 1_000  # rows that tell whether a column holds numbers
_TEXTS_ONLY = "leave it out, as columns names texts only: anchor, positive and perhaps negatives"


def load_sources(sources: list[SourceConfig], needs: list[Needs] | None = None) -> Dataset | DatasetDict:
    """Load every source, with what its loss needs; several become a ``DatasetDict``, named and in order."""
    loaded = [load_source(source, need) for source, need in zip(sources, needs or [PAIRS] * len(sources), strict=True)]
    if len(loaded) == 1:
        return loaded[0]
    names = [f"{index} {source.label}" for index, source in enumerate(sources, start=1)]
    return DatasetDict(dict(zip(names, loaded, strict=True)))


def load_source(source: SourceConfig, needs: Needs = PAIRS) -> Dataset:
    """Load one source.

    Args:
        source: its description in a recipe.
        needs: what its loss needs.

    Returns:
        Data set whose columns are ``anchor``, ``positive`` and, where there are any, ``negative``,
        ``negative_2``...; ``anchor`` alone for a source of one column. All strings, none blank. Where numbers are
        needed, ``label`` besides: float64, int64 for labels of 0 or 1, a ``ClassLabel`` for classes, lists of float64.

    Raises:
        FileNotFoundError: a local path that is not there, or a hub data set that cannot be reached.
        ValueError: unreadable file, missing column, columns that are no text, or no row left.
    """
    if source.source == "docstrings":
        return _docstring_pairs(source)
    data = _select_columns(open_dataset(source, needs), source, needs)
    if source.limit is not None:
        data = data.select(range(min(source.limit, len(data))))
    data = _without_blank_rows(data, source.source)
    return _classes(data, source.source) if needs.label == "class" else data


def check_source(source: SourceConfig, use: str = "training") -> None:
    """Fail early on what can be seen without reading the data: a missing path, an unknown type, held-out packages."""
    if source.source != "docstrings" and _is_local(source.source):
        _local_tables(source.source, use)
    if held_out := sorted(set(source.packages or ()) & set(HELD_OUT_PACKAGES)):
        raise ValueError(f"packages {', '.join(held_out)} are held out for evaluation and are never trained on")


def open_dataset(source: SourceConfig, needs: Needs = PAIRS, *, streaming: bool = False) -> Any:
    """A local or hub source with the columns of its own names: those that are used, of a hub data set all.

    Cells of local files are text as they are written, whatever they look like; those of Parquet are copied. Numbers
    that the loss needs are read (:meth:`Needs.read`), of a hub data set not yet.
    """
    return _load_local(source, needs, streaming) if _is_local(source.source) else _load_hub(source, streaming)


def target_columns(source: SourceConfig, present: Sequence[str], needs: Needs = PAIRS) -> dict[str, str]:
    """Which columns are used, and what they are called from now on.

    Returns:
        Column of the source -> ``anchor``, ``positive``, ``negative``, ``negative_2``..., in this order, and last
        ``label`` where numbers are needed.

    Raises:
        ValueError: a column is missing, named twice, or it is not clear which to use.
    """
    columns = needs.default(present) if source.columns is None else source.columns
    name_them = f"name those to use with columns: {needs.example.upper()}"
    if columns is None:
        advice = other_separator(present) or name_them
        raise ValueError(f"{source.source} has the columns {', '.join(present)}: {advice}")
    if missing := [name for name in columns if name not in present]:
        raise ValueError(f"{source.source} has no column {missing[0]!r}; it has {', '.join(present)}: {name_them}")
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ValueError(f"{source.source}: columns names {', '.join(twice)} twice")
    texts, label = needs.split(columns)
    targets = ["anchor", "positive", "negative", *(f"negative_{number}" for number in range(2, len(texts) - 1))]
    return {**dict(zip(texts, targets, strict=False)), **({label: LABEL} if label else {})}


def _docstring_pairs(source: SourceConfig) -> Dataset:
    check_source(source)
    exclude = HELD_OUT_PACKAGES
    pairs = load_docstrings(source.packages, exclude=exclude, limit_per_package=source.limit_per_package, progress=True)
    pairs = pairs[: source.limit]
    held_out = _texts_of(HELD_OUT_PACKAGES)
    kept = [pair for pair in pairs if held_out.isdisjoint((pair.anchor.casefold(), pair.positive.casefold()))]
    if not kept:
        raise ValueError("docstrings: every text of these packages is also in a held-out package")
    if dropped := len(pairs) - len(kept):
        logger.info("docstrings: %d of %d pairs are in a held-out package, too, and are left out", dropped, len(pairs))
    return Dataset.from_dict({"anchor": [pair.anchor for pair in kept], "positive": [pair.positive for pair in kept]})


@functools.cache
def _texts_of(packages: tuple[str, ...]) -> frozenset[str]:
    pairs = load_docstrings(packages)
    return frozenset(text.casefold() for pair in pairs for text in (pair.anchor, pair.positive))


def _is_local(source: str) -> bool:
    path = Path(source).expanduser()
    named = table_suffix(path) in SUFFIXES and table_suffix(path) != ".txt"
    return path.exists() or named or source.startswith((".", "/", "~"))


def _local_tables(source: str, use: str = "training") -> list[Table]:
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no {use} data at {source}")
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        raise ValueError(
            f"{source} is a folder of save_to_disk, which holds no table: write the data with to_parquet, and name the"
            " file"
        )
    files = table_files(path)
    kinds = {table_suffix(file) for file in files}
    if len(kinds) != 1 or not kinds <= set(SUFFIXES):
        seen = ", ".join(sorted(kinds)) or "no data file"
        raise ValueError(f"{source}: expected files of one type among {', '.join(SUFFIXES)}, found {seen}")
    return [open_table(file) for file in files]


def _load_local(source: SourceConfig, needs: Needs, streaming: bool) -> Any:
    tables = _local_tables(source.source)
    present = [_columns(table, streaming) for table in tables]
    targets = target_columns(source, list(dict.fromkeys(itertools.chain.from_iterable(present))), needs)
    names = list(targets)
    for table, columns in zip(tables, present, strict=True):
        if table.format != "jsonl" and (missing := [name for name in names if name not in columns]):
            raise ValueError(f"{table.path} has no column {missing[0]!r}; it has {', '.join(columns)}")
    features = features_of(targets, needs)
    files = [str(table.path) for table in tables]
    try:
        for table in tables:
            _check_text(table, needs.split(names)[0])
        if tables[0].format == "parquet" and not (streaming or needs.label):  # column by column, which is faster
            return load_dataset("parquet", data_files=files, split="train", columns=names, features=features)
        given: dict[str, Any] = {"files": files, "columns": tuple(names), "needs": needs, "at_once": streaming}
        if streaming:
            return IterableDataset.from_generator(_rows, features=features, gen_kwargs=given)
        # what was read is kept, and read anew once a file or this package is another
        given["stamp"] = (version("mrl-text"), *(tuple(table.stamp().values()) for table in tables))
        return Dataset.from_generator(_rows, features=features, gen_kwargs=given)
    except Exception as error:  # the readers raise many types; each means the file is not what its suffix says
        raise unreadable(source.source, error) from error


def _columns(table: Table, streaming: bool) -> list[str]:
    if table.format != "jsonl" or not streaming:
        return table.columns
    rows = itertools.islice(table.rows(), _STREAMED_ROWS)
    return list(dict.fromkeys(name for row in rows for name in row.cells)) or table.columns


def _check_text(table: Table, names: Sequence[str]) -> None:
    """Refuse a column of numbers: one that is typed so, and in a file without types a score beside texts."""
    kinds: dict[str, str] = {}
    if table.format == "parquet":
        types = {name: table.schema.field(name).type for name in names}
        kinds = {name: str(kind) for name, kind in types.items() if not is_text(kind) and str(kind) != "null"}
    else:
        first = [row.cells for row in itertools.islice(table.rows(), _LOOKED_AT)]
        for name in names if table.typed else names[2:]:
            cells = [cell for cells in first if (cell := cells.get(name)) not in (None, "")]
            if cells and all(isinstance(cell, int | float) if table.typed else _is_number(cell) for cell in cells):
                kinds[name] = f"numbers such as {cells[0]}"
        if not table.typed and all(_is_number(cells.get(names[1])) for cells in first if kinds):
            kinds = {}  # answers that are years or sums are texts, and so are wrong ones
    for name, kind in kinds.items():
        raise ValueError(f"{table.path}: column {name!r} holds {kind}, not text: {_TEXTS_ONLY}")


def _is_number(cell: object) -> bool:
    with contextlib.suppress(ValueError):
        return isinstance(cell, str) and math.isfinite(float(cell))
    return False


def features_of(targets: Mapping[str, str], needs: Needs) -> Features:
    """Types of the columns of :func:`target_columns`, by their own names."""
    kinds = {"binary": Value("int64"), "class": Value("string")}
    number = List(Value("float64")) if needs.lists else kinds.get(needs.label or "", Value("float64"))
    return Features({name: number if new == LABEL else Value("string") for name, new in targets.items()})


def _rows(
    files: list[str], columns: tuple[str, ...], needs: Needs, at_once: bool, stamp: tuple[Any, ...] = ()
) -> Iterator[dict[str, Any]]:
    """The rows of files, as data sets are made of; a row that cannot be read is told at the end, or ``at_once``."""
    texts, label = needs.split(columns)
    place = Path(files[0]) if len(files) == 1 else Path(files[0]).parent
    problems = Problems(place)
    empty = True
    for table in map(open_table, files):
        for row in good_rows(table, problems, columns):
            cells = None
            try:
                cells = {name: cell_text(name, row.cells.get(name)) for name in texts}
                if label:
                    cells[label] = needs.read(label, row.cells.get(label), typed=table.typed)
            except ValueError as error:
                problems.add(table, row.line, str(error))
            if at_once:
                problems.raise_if_any()
            if cells is not None:
                empty = False
                yield cells
    problems.raise_if_any()
    if empty:
        raise ValueError(f"{place} has no row with text in {', '.join(columns)}: it needs at least one")


def unreadable(source: str, error: BaseException) -> ValueError:
    """What to raise where reading a source failed: the reader's own error if it names the file."""
    reason = _reason(error, until=ValueError)
    return ValueError(reason if Path(source).name in reason else f"{source} cannot be read: {reason[:200]}")


def _load_hub(source: SourceConfig, streaming: bool) -> Any:
    try:
        return load_dataset(source.source, source.subset, split=source.split, streaming=streaming)
    except OSError as error:
        raise FileNotFoundError(
            f"{source.source} is neither a local file nor a hub data set that can be reached from here"
            f" ({_reason(error):.200}); for local data give the path of a file"
        ) from error
    except Exception as error:  # a wrong subset or split, a script: many types, each about this data set
        where = f"{source.source}, subset {source.subset}, split {source.split}"
        raise ValueError(f"{where} cannot be loaded: {_reason(error):.200}") from error


def _select_columns(data: Dataset, source: SourceConfig, needs: Needs) -> Dataset:
    names = target_columns(source, data.column_names, needs)
    data = data.select_columns(list(names))
    texts, label = needs.split(list(names))
    if label and not _is_local(source.source):
        data = _with_numbers(data, label, source, needs)
    for name in texts:
        if getattr(data.features[name], "dtype", None) not in ("string", "large_string", "null"):
            kind = getattr(data.features[name], "dtype", data.features[name])
            raise ValueError(f"{source.source}: column {name!r} holds {kind}, not text: {_TEXTS_ONLY}")
    data = data.rename_columns({old: f"{new}\0" for old, new in names.items()})  # two steps, as names may swap
    return data.rename_columns({f"{new}\0": new for new in names.values()}).select_columns(list(names.values()))


def _with_numbers(data: Dataset, name: str, source: SourceConfig, needs: Needs) -> Dataset:
    """The column as its loss takes it; a row that holds something else is named."""
    values = []
    for row, value in enumerate(data[name][:], start=1):
        try:
            values.append(needs.read(name, value, typed=True))
        except ValueError as error:
            raise ValueError(f"{source.source}, row {row}: {error}") from None
    return data.remove_columns(name).add_column(name, values, feature=features_of({name: LABEL}, needs)[name])


def _classes(data: Dataset, label: str) -> Dataset:
    """Classes as numbers, in the order of their names."""
    names = sorted(set(data[LABEL][:]))
    if len(names) < 2:
        raise ValueError(f"{label}: all rows are of the class {names[0]!r}: at least two can be told apart")
    numbers = {name: number for number, name in enumerate(names)}
    values = [numbers[name] for name in data[LABEL][:]]
    return data.remove_columns(LABEL).add_column(LABEL, values, feature=ClassLabel(names=names))


def _without_blank_rows(data: Dataset, label: str) -> Dataset:
    columns = data.column_names
    kept = [
        index
        for index, row in enumerate(zip(*(data[column] for column in columns), strict=True))
        if not any(cell is None or (isinstance(cell, str) and not cell.strip()) for cell in row)
    ]
    if not kept:
        raise ValueError(f"{label} has no row with text in {', '.join(columns)}: it needs at least one")
    if dropped := len(data) - len(kept):
        logger.warning("%s: %d of %d rows have a blank cell and are left out", label, dropped, len(data))
        data = data.select(kept)
    return data


def _reason(error: BaseException, until: type[BaseException] | tuple[()] = ()) -> str:
    """What is behind an error, or the first of a type behind it, on one line."""
    while error.__cause__ is not None and not isinstance(error, until):
        error = error.__cause__
    return " ".join(str(error).split())
