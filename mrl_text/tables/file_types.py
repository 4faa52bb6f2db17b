"""Which files hold tables, as their names tell."""

from __future__ import annotations

from pathlib import Path

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "txt",
}
"""Ending of a file -> what is in it. JSON may also be one array of objects, or one object, over any lines."""

SUFFIXES = tuple(FORMATS)
"""Endings of files that can be read; all but ``.parquet`` may be followed by one of :data:`COMPRESSIONS`."""

COMPRESSIONS = (".gz", ".zst")


def table_files(path: Path, *, deep: bool = False) -> list[Path]:
    """The files that can be read of a folder, in order, without .txt, which are notes there; or the file itself.

    ``deep`` looks into the folders of the folder, too.
    """
    if not path.is_dir():
        return [path]
    found = path.rglob("*") if deep else path.iterdir()
    return sorted(file for file in found if table_suffix(file) in SUFFIXES and table_suffix(file) != ".txt")


def table_suffix(path: Path) -> str:
    """The ending that tells the type of a file, in lower case, without that of its compression."""
    name = path.name.lower()
    for compression in COMPRESSIONS:
        if name.endswith(compression):
            inner = Path(name.removesuffix(compression)).suffix
            return inner if inner != ".parquet" else compression
    return path.suffix.lower()


def table_stem(path: Path) -> str:
    """The name of a file without the endings of its type and compression."""
    stem = next((path.stem for end in COMPRESSIONS if path.name.lower().endswith(end)), path.name)
    return stem[: len(stem) - len(suffix)] if stem.lower().endswith(suffix := table_suffix(path)) else stem
