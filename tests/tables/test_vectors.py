"""Files of vectors, whatever wrote them."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from mrl_text.tables.vectors import read_array, read_vectors

TYPES = {"list": pa.list_, "large": pa.large_list, "fixed": lambda number: pa.list_(number, 3)}


def vectors(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("number", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_column_of_lists(tmp_path: Path, kind: str, number: pa.DataType, ending: str) -> None:
    values = vectors().astype(number.to_pandas_dtype())
    column = pa.array(list(map(list, values)), type=TYPES[kind](number))
    table = pa.table({"id": list("abcde"), "embedding": pa.chunked_array([column.slice(0, 2), column.slice(2)])})
    file = tmp_path / f"v.{ending}"
    for part, expected in ((table, slice(0, 5)), (table.slice(1, 3), slice(1, 4))):
        if ending == "parquet":
            parquet.write_table(part, file)
        else:
            feather.write_feather(part, str(file), compression="uncompressed")
        found, ids = read_vectors(file, ["_id", "id"])
        np.testing.assert_array_equal(found, values[expected])
        assert ids == list("abcde")[expected]
        assert read_vectors(file)[1] is None


def test_what_the_library_datasets_saves(tmp_path: Path) -> None:
    values = vectors().astype(np.float32)
    datasets.Dataset.from_dict(
        {"id": range(5), "v": values},
        datasets.Features(  # type: ignore[no-untyped-call]
            {"id": datasets.Value("int64"), "v": datasets.List(datasets.Value("float32"))}
        ),
    ).save_to_disk(str(tmp_path / "saved"))
    found, ids = read_vectors(next((tmp_path / "saved").glob("*.arrow")), ["id"])
    np.testing.assert_array_equal(found, values)
    assert ids == ["0", "1", "2", "3", "4"]


def test_one_chunk_of_arrow_and_an_array_stay_on_disk(tmp_path: Path) -> None:
    values = vectors(10_000).astype(np.float32)
    np.save(tmp_path / "v.npy", values)
    table = pa.table({"v": pa.FixedSizeListArray.from_arrays(values.reshape(-1), 3)})
    feather.write_feather(table, str(tmp_path / "v.arrow"), compression="uncompressed")
    before = pa.total_allocated_bytes()
    found, _ = read_vectors(tmp_path / "v.arrow")
    assert pa.total_allocated_bytes() - before < values.nbytes / 10
    assert not found.flags.owndata
    np.testing.assert_array_equal(found, values)
    array, _ = read_vectors(tmp_path / "v.npy")
    assert isinstance(array.base, np.memmap)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "v.parquet"
    for columns, message in (
        ({"id": [1, 2]}, "no column of float lists"),
        ({"a": [[1.0], [2.0]], "b": [[1.0], [2.0]]}, r"2 columns of float lists \(a, b\)"),
        ({"a": [[1.0], [2.0, 3.0]]}, "vectors of 1 to 2 numbers"),
        ({"a": [[1.0], None]}, "1 row without an embedding"),
        ({"a": [[1.0], [2.0]], "id": ["x", "x"]}, "row 2: the id 'x' is that of row 1"),
        ({"a": [[1.0], [2.0]], "id": ["x", None]}, "row 2: the id is"),
    ):
        parquet.write_table(pa.table(columns), file)
        with pytest.raises(ValueError, match=message):
            read_vectors(file, ["id"])
    with pytest.raises(ValueError, match="none of the types"):
        read_vectors(tmp_path / "v.csv")
    for name, kind in (("v.parquet", "Parquet"), ("v.arrow", "Arrow")):
        (tmp_path / name).write_bytes(b"PAR1 or whatever")
        with pytest.raises(ValueError, match=f"cannot be read as {kind}"):
            read_vectors(tmp_path / name)


def test_an_empty_cell_of_a_vector_is_not_a_number(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"a": [[1.0, None], [2.0, 3.0]]}), tmp_path / "v.parquet")
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.parquet")[0], [[1, np.nan], [2, 3]])


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", vectors())
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.npy")[0], vectors())
    np.save(tmp_path / "v.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as a numpy array"):
        read_array(tmp_path / "v.npy")
    (tmp_path / "v.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as a numpy array"):
        read_array(tmp_path / "v.npy")
