"""Every command reads the same texts out of a file, or refuses it for the same rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pandas as pd
import pytest
from pyarrow import parquet

from mrl_text.adapt.texts import read_texts
from mrl_text.classification.run import read_labelled
from mrl_text.eval.own_tasks import own_task
from mrl_text.search.sample_queries import read_judged
from mrl_text.tables.beir import read_queries
from mrl_text.tables.corpus import open_corpus
from mrl_text.training.data import load_source, open_dataset
from mrl_text.training.leaks import _file_texts
from mrl_text.training.recipe import SourceConfig
from tests.tables.odd_files import ODD_FILES, Odd


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


def encode(file: Path) -> tuple[list[str], list[int]]:
    """``encode`` and ``index build``, which report rows and go on: the texts, and the lines they leave out."""
    texts, lines = [], []
    for row in open_corpus(file, ["text"]).texts():
        if row.problem is None:
            texts.append(row.text)
        elif not row.blank:
            lines.append(row.line)
    if not texts and not lines:
        raise ValueError(f"{file} has no row")
    return texts, lines


def adapt(file: Path) -> list[str]:
    return read_texts([file], column="text")


def train(file: Path) -> list[str]:
    return list(load_source(SourceConfig(source=str(file), columns=["text"]))["anchor"])


def train_streaming(file: Path) -> list[str]:
    rows = list(open_dataset(SourceConfig(source=str(file), columns=["text"]), streaming=True))
    if not rows:  # which a stream of all sources says
        raise ValueError(f"{file} has no row")
    return [row["text"] for row in rows]


def check_against(file: Path) -> list[str]:
    return list(_file_texts(file))


def evaluate(file: Path) -> list[str]:
    task = own_task(file, "clustering")
    task.load_data()
    return list(task.dataset["test"]["text"])


def classify(file: Path) -> list[str]:
    return read_labelled(file)[0]


def tune(file: Path) -> list[str]:
    return read_judged(file, limit=100_000).texts


LENIENT: list[Callable[[Path], list[str]]] = [adapt, train, train_streaming, check_against]
"""Commands that pass over a row without text."""

STRICT: list[Callable[[Path], list[str]]] = [evaluate, classify, tune]
"""Commands for which every row must have a text."""


def stripped(texts: list[str]) -> list[str]:
    return [text.strip() for text in texts if text and text.strip()]


def places(error: ValueError) -> list[int]:
    return sorted({int(number) for number in re.findall(r"(?:line|row) (\d+): ", str(error))})


@pytest.mark.parametrize("odd", ODD_FILES, ids=lambda odd: odd.name)
def test_encode_reads_what_is_there_and_reports_the_rest(odd: Odd, tmp_path: Path) -> None:
    file = odd.write(tmp_path)
    if odd.whole is not None:
        with pytest.raises(ValueError, match=odd.whole):
            encode(file)
    else:
        left_out = sorted((*odd.unreadable, *odd.not_text, *odd.empty))
        assert encode(file) == (list(odd.texts), left_out)


@pytest.mark.slow
@pytest.mark.parametrize("command", [*LENIENT, *STRICT], ids=lambda command: command.__name__)
@pytest.mark.parametrize("odd", ODD_FILES, ids=lambda odd: odd.name)
def test_other_commands_read_the_same_or_refuse_the_same_rows(
    odd: Odd, command: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    file = odd.write(tmp_path)
    everything = command is check_against  # which takes no column for its texts, and reads whatever there is
    bad = sorted((*odd.unreadable, *(() if everything else odd.not_text), *(odd.empty if command in STRICT else ())))
    if everything and odd.no_texts:
        assert not set(command(file)) & set(odd.texts)
    elif odd.whole is not None:
        with pytest.raises(ValueError, match=odd.whole) as refused:
            command(file)
        assert odd.name in str(refused.value)
    elif command in (evaluate, classify) and not odd.labelled:
        with pytest.raises(ValueError, match=r"it needs (labelled texts )?\(text, label\)|line 2: is not UTF-8"):
            command(file)
    elif bad:
        with pytest.raises(ValueError) as refused:
            command(file)
        assert odd.name in str(refused.value)
        if command in (train, train_streaming) and file.suffix == ".parquet":
            assert "column 'text' holds" in str(refused.value)  # the schema tells before any row is read
        else:
            found = places(refused.value)
            assert found == bad[: (len(found) or 1) if command is train_streaming else 5]  # a stream stops at the first
    else:
        known = set(odd.texts)
        texts = [text for text in stripped(command(file)) if not everything or text in known]
        assert texts == (list(dict.fromkeys(odd.texts)) if command is adapt else list(odd.texts))


def in_pandas(file: Path) -> dict[str, list[str]]:
    """The columns of text of a clean file, read by other readers than ours; empty cells are left out."""
    if file.suffix == ".parquet":
        table = pd.DataFrame(parquet.read_table(file).to_pydict())
    elif file.suffix == ".jsonl":
        table = pd.DataFrame(map(json.loads, file.read_text(encoding="utf-8").splitlines()))
    else:
        separator = "\t" if file.suffix == ".tsv" else ","
        table = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False)
    columns = {name: [cell for cell in table[name] if isinstance(cell, str)] for name in table}
    return {name: cells for name, cells in columns.items() if any(cell.strip() for cell in cells)}


def of_column(command: str, file: Path, column: str) -> list[str]:
    """The texts of one column, without blanks around them, as a command reads them."""
    if command == "encode":
        return [row.text for row in open_corpus(file, [column]).texts() if row.problem is None]
    if command == "adapt":
        return read_texts([file], column=column)
    source = SourceConfig(source=str(file), columns=[column])
    if command == "train":
        return stripped(load_source(source)["anchor"])
    if command == "train_streaming":
        return stripped([row[column] for row in open_dataset(source, streaming=True)])
    return stripped(read_labelled(file, column, column)[0])


@pytest.mark.data
@pytest.mark.parametrize("command", ["encode", "adapt", "train", "train_streaming", "classify"])
def test_real_columns_are_read_as_pandas_and_arrow_read_them(test_data: Path, command: str) -> None:
    files = [file for file in sorted(test_data.rglob("*")) if file.suffix in (".csv", ".tsv", ".jsonl", ".parquet")]
    assert len(files) > 30
    slow = command.startswith("train")  # every column becomes a data set
    for file in files[::3] if slow else files:
        for column, cells in in_pandas(file).items():
            expected = stripped(cells)
            if command == "classify" and len(expected) < open_corpus(file, [column]).table.count():
                with pytest.raises(ValueError, match=f"{column} is (empty|missing)"):
                    of_column(command, file, column)
                continue
            found = of_column(command, file, column)
            assert found == (list(dict.fromkeys(expected)) if command == "adapt" else expected), (file, column)


@pytest.mark.data
def test_real_files_are_checked_against_and_evaluated_as_pandas_and_arrow_read_them(test_data: Path) -> None:
    for file in sorted(test_data.rglob("*.*")):
        if file.suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
            cells = {cell for column in in_pandas(file).values() for cell in column}
            assert cells <= set(_file_texts(file)), file
    own = test_data / "own-data"
    for name, as_, columns in (
        ("mrpc-pairs.csv", None, ("sentence1", "sentence2")),
        ("stackoverflow-clustering.csv", "clustering", ("text",)),
    ):
        task = own_task(own / name, as_)
        task.load_data()
        expected = in_pandas(own / name)
        assert [task.dataset["test"][column][:] for column in columns] == [expected[column] for column in columns]
    task = own_task(own / "cranfield")
    task.load_data()
    documents, queries = (in_pandas(own / "cranfield" / f"{name}.jsonl") for name in ("corpus", "queries"))
    split = task.dataset["default"]["test"]
    assert split["corpus"]["id"][:] == documents["_id"]
    assert split["corpus"]["text"][:] == documents["text"]
    assert (split["queries"]["id"][:], split["queries"]["text"][:]) == (queries["_id"], queries["text"])
    assert read_queries(own / "cranfield" / "queries.jsonl") == (queries["_id"], queries["text"])
