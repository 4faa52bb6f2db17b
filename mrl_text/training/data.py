"""Training data: hub data sets, local files and docstrings, all as columns anchor, positive, negative..."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrl_text.docstrings import HELD_OUT_PACKAGES, load_docstrings
from mrl_text.training.recipe import SourceConfig

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)

_BUILDERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}


def load_sources(sources: list[SourceConfig]) -> Dataset | DatasetDict:
    """Load every source; several become a ``DatasetDict`` whose names are the sources in order.

    Raises:
        FileNotFoundError, ValueError: as for :func:`load_source`.
    """
    from datasets import DatasetDict

    loaded = [load_source(source) for source in sources]
    if len(loaded) == 1:
        return loaded[0]
    names = [f"{index} {source.label}" for index, source in enumerate(sources, start=1)]
    return DatasetDict(dict(zip(names, loaded, strict=True)))


def load_source(source: SourceConfig) -> Dataset:
    """Load one source.

    Args:
        source: its description in a recipe.

    Returns:
        Data set whose columns are ``anchor``, ``positive`` and, where there are any, ``negative``,
        ``negative_2``...; ``anchor`` alone for a source of one column. All strings, none blank.

    Raises:
        FileNotFoundError: a local path that is not there, or a hub data set that cannot be reached.
        ValueError: unreadable file, missing column, columns that are no text, or no row left.
    """
    if source.source == "docstrings":
        return _docstring_pairs(source)
    data = _select_columns(open_source(source), source)
    if source.limit is not None:
        data = data.select(range(min(source.limit, len(data))))
    return _without_blank_rows(data, source.source)


def check_source(source: SourceConfig) -> None:
    """Fail early on what can be seen without reading the data: a local path that is not there or of no known type.

    Raises:
        FileNotFoundError, ValueError: as for :func:`load_source`.
    """
    if source.source != "docstrings" and _is_local(source.source):
        _local_files(source.source)
    if held_out := sorted(set(source.packages or ()) & set(HELD_OUT_PACKAGES)):
        raise ValueError(f"packages {', '.join(held_out)} are held out for evaluation and are never trained on")


def open_source(source: SourceConfig, *, streaming: bool = False) -> Any:
    """A local or hub source as it is, with all its columns.

    Args:
        source: its description in a recipe.
        streaming: an ``IterableDataset`` that reads as it goes.

    Raises:
        FileNotFoundError, ValueError: as for :func:`load_source`.
    """
    return (_load_local if _is_local(source.source) else _load_hub)(source, streaming)


def target_columns(source: SourceConfig, present: Sequence[str]) -> dict[str, str]:
    """Which columns are used, and what they are called from now on.

    Args:
        source: its description in a recipe.
        present: the columns that are there.

    Returns:
        Column of the source -> ``anchor``, ``positive``, ``negative``, ``negative_2``..., in this order.

    Raises:
        ValueError: a column is missing, named twice, or it is not clear which to use.
    """
    columns = source.columns
    if columns is None:
        columns = [name for name in ("anchor", "positive") if name in present]
        columns += [name for name in present if name.startswith("negative")]
        if len(columns) < 2 or columns[:2] != ["anchor", "positive"]:
            raise ValueError(
                f"{source.source} has the columns {', '.join(present)}: name those to use with"
                " columns: [ANCHOR, POSITIVE]"
            )
    if missing := [name for name in columns if name not in present]:
        raise ValueError(f"{source.source} has no column {missing[0]!r}; it has {', '.join(present)}")
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ValueError(f"{source.source}: columns names {', '.join(twice)} twice")
    targets = ["anchor", "positive", "negative", *(f"negative_{number}" for number in range(2, len(columns) - 1))]
    return dict(zip(columns, targets, strict=False))


def _docstring_pairs(source: SourceConfig) -> Dataset:
    from datasets import Dataset

    check_source(source)
    exclude = HELD_OUT_PACKAGES
    pairs = load_docstrings(source.packages, exclude=exclude, limit_per_package=source.limit_per_package, progress=True)
    pairs = pairs[: source.limit]
    held_out = _texts_of(HELD_OUT_PACKAGES)
    kept = [pair for pair in pairs if held_out.isdisjoint((pair.anchor.casefold(), pair.positive.casefold()))]
    if not kept:
        raise ValueError("docstrings: every text of these packages is also in a held-out package")
    return Dataset.from_dict({"anchor": [pair.anchor for pair in kept], "positive": [pair.positive for pair in kept]})


@functools.cache
def _texts_of(packages: tuple[str, ...]) -> frozenset[str]:
    pairs = load_docstrings(packages)
    return frozenset(text.casefold() for pair in pairs for text in (pair.anchor, pair.positive))


def _is_local(source: str) -> bool:
    path = Path(source).expanduser()
    return path.exists() or path.suffix.lower() in _BUILDERS or source.startswith((".", "/", "~"))


def _local_files(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no training data at {source}")
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in _BUILDERS) if path.is_dir() else [path]
    kinds = {file.suffix.lower() for file in found}
    if len(kinds) != 1 or not kinds <= set(_BUILDERS):
        seen = ", ".join(sorted(kinds)) or "no data file"
        raise ValueError(f"{source}: expected files of one type among {', '.join(_BUILDERS)}, found {seen}")
    for file in found:
        if file.stat().st_size == 0:
            raise ValueError(f"{file} is empty")
    return found


def _load_local(source: SourceConfig, streaming: bool) -> Any:
    from datasets import load_dataset

    found = _local_files(source.source)
    suffix = found[0].suffix.lower()
    options: dict[str, Any] = {}
    if _BUILDERS[suffix] == "csv":  # only an empty cell is missing: "None" and "NA" are words
        options = {"sep": "\t" if suffix == ".tsv" else ",", "keep_default_na": False, "na_values": [""]}
    try:
        return load_dataset(
            _BUILDERS[suffix],
            data_files=[str(file) for file in found],
            split="train",
            streaming=streaming,
            **options,
        )
    except Exception as error:  # the readers raise many types; each means the file is not what its suffix says
        raise ValueError(f"{source.source} cannot be read as {suffix}: {_one_line(error)}") from error


def _load_hub(source: SourceConfig, streaming: bool) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(source.source, source.subset, split=source.split, streaming=streaming)
    except OSError as error:
        raise FileNotFoundError(
            f"{source.source} is neither a local file nor a hub data set that can be reached from here"
            f" ({_one_line(error)}); for local data give the path of a file"
        ) from error
    except Exception as error:  # a wrong subset or split, a script: many types, each about this data set
        where = f"{source.source}, subset {source.subset}, split {source.split}"
        raise ValueError(f"{where} cannot be loaded: {_one_line(error)}") from error


def _select_columns(data: Dataset, source: SourceConfig) -> Dataset:
    names = target_columns(source, data.column_names)
    data = data.select_columns(list(names))
    for name in names:
        if getattr(data.features[name], "dtype", None) not in ("string", "large_string", "null"):
            raise ValueError(f"{source.source}: column {name!r} holds {data.features[name]}, not text")
    data = data.rename_columns({old: f"{new}\0" for old, new in names.items()})  # two steps, as names may swap
    return data.rename_columns({f"{new}\0": new for new in names.values()}).select_columns(list(names.values()))


def _without_blank_rows(data: Dataset, label: str) -> Dataset:
    columns = data.column_names
    kept = [
        index
        for index, row in enumerate(zip(*(data[column] for column in columns), strict=True))
        if all(isinstance(text, str) and text.strip() for text in row)
    ]
    if not kept:
        raise ValueError(f"{label} has no row with text in {', '.join(columns)}")
    if dropped := len(data) - len(kept):
        logger.warning("%s: %d of %d rows have a blank cell and are left out", label, dropped, len(data))
        data = data.select(kept)
    return data


def _one_line(error: BaseException) -> str:
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    return " ".join(str(root).split())[:200]
