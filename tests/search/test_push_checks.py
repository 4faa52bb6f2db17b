"""What a push can know to be impossible before it loads a model and encodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

pytest.importorskip("faiss")

from mrl_text.search import create_store, open_store
from mrl_text.search.push import push
from tests.search.qdrant_server import StandIn

NOBODY = "postgresql://nobody@127.0.0.1:1/db?table=t&wait=0"  # where nobody listens


@pytest.fixture(autouse=True)
def nothing_is_encoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mrl_text.encoding.engines.load_encoder", lambda _: pytest.fail("the model was loaded"))


def corpus(*columns: str) -> Path:
    rows = [{"_id": str(row), "text": "the cat", **dict.fromkeys(columns, row)} for row in range(3)]
    Path("corpus.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return Path("corpus.jsonl")


@pytest.mark.parametrize(
    ("url", "column", "message"),
    [
        (NOBODY, "embedding", "a column cannot be called 'embedding': the store's own are id, embedding"),
        (NOBODY, "ctid", "a column cannot be called 'ctid'"),
        (NOBODY, "x" * 64, "must have 1 to 63 bytes"),
        (NOBODY, "ü" * 32, "must have 1 to 63 bytes"),
        ("qdrant:q#docs", "mrl_text", "a column cannot be called 'mrl_text'"),
        ("qdrant:q#docs", 'a"b', "leave the quotation mark out"),
    ],
)
def test_names_of_columns(tiny_bert: Path, url: str, column: str, message: str) -> None:
    pytest.importorskip("psycopg")
    pytest.importorskip("qdrant_client")
    with pytest.raises(ValueError, match=message):
        push(url, corpus(column), model=str(tiny_bert), keep=[column])
    assert [path.name for path in Path().iterdir()] == ["corpus.jsonl"]


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([["a"], ["b"]], "list<"),
        ([{"a": 1}, {"a": 2}], "struct<"),
        (pa.array([1, 2], pa.duration("s")), "duration"),
        (pa.array([b"1", b"2"]), "binary"),
    ],
)
def test_types_of_columns(tiny_bert: Path, values: Any, type_: str) -> None:
    parquet.write_table(pa.table({"text": ["the cat", "a dog"], "tags": values}), "corpus.parquet")
    with pytest.raises(ValueError, match=f"corpus.parquet: column 'tags' holds {type_}.*make it text"):
        push("index", "corpus.parquet", model=str(tiny_bert), keep=["tags"])
    assert [path.name for path in Path().iterdir()] == ["corpus.parquet"]


def test_rights_in_postgresql(postgres_server: Any, table_url: Callable[..., str], tiny_bert: Path) -> None:
    psycopg = pytest.importorskip("psycopg")
    url, mine = table_url(), table_url("pushed_by_others")
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as link:
        link.execute("CREATE ROLE pusher LOGIN")
        create_store(mine, width=32).close()

        def refused(place: str, error: type[Exception], message: str, *keep: str) -> None:
            other = place.replace("postgres:@", "pusher:@")
            with pytest.raises(error, match=message):
                push(other, corpus("lang", "seen"), model=str(tiny_bert), keep=keep)

        refused(url, PermissionError, "permission denied for schema public")
        with pytest.raises(FileNotFoundError, match='schema "nowhere" does not exist'):
            push(table_url("nowhere.texts"), corpus(), model=str(tiny_bert))
        link.execute("GRANT SELECT ON mrl_text_stores, pushed_by_others TO pusher")
        refused(mine, PermissionError, "permission denied for table pushed_by_others")
        link.execute("GRANT INSERT ON pushed_by_others TO pusher")
        refused(mine, PermissionError, "permission denied for table pushed_by_others")  # rows are replaced, too
        link.execute("GRANT UPDATE ON pushed_by_others TO pusher")
        refused(mine, PermissionError, "only its owner can give the table the column 'lang'", "lang")
        link.execute("ALTER TABLE pushed_by_others ADD COLUMN seen timestamptz")
        refused(
            mine, ValueError, "column 'seen' is timestamp with time zone in PostgreSQL, which is not filled", "seen"
        )
        link.execute("ALTER TABLE pushed_by_others ADD COLUMN lang bigint")
        with open_store(mine.replace("postgres:@", "pusher:@")) as store:  # type: ignore[attr-defined]
            store.check_writable(["lang"])
            store.add(["a"], np.ones((1, 32), np.float32), None, {"lang": [1]})
            assert store.count() == 1
    with pytest.raises(FileNotFoundError):
        open_store(url)  # what was tried is not there


def test_a_database_that_is_read_only(postgres_server: Any, table_url: Callable[..., str], tiny_bert: Path) -> None:
    pytest.importorskip("psycopg")
    url = table_url()
    create_store(url, width=32).close()
    for place in (url, table_url()):
        with pytest.raises(PermissionError, match="takes nothing new here"):
            push(f"{place}&options=-cdefault_transaction_read_only%3Don", corpus(), model=str(tiny_bert))


def test_a_key_of_qdrant_that_is_good_for_reading(tiny_bert: Path) -> None:
    pytest.importorskip("qdrant_client")
    server = StandIn()
    url = f"qdrant://127.0.0.1:{server.port}/docs?wait=0"
    server.faults = [None, None, 403]  # whether it is there, twice, and a change that changes nothing
    with pytest.raises(PermissionError, match="set QDRANT_API_KEY to a key that may do this"):
        push(url, corpus(), model=str(tiny_bert))
    create_store(url, width=32).close()
    server.faults = [None, None, None, 403]
    with pytest.raises(PermissionError, match="set QDRANT_API_KEY to a key that may do this"):
        push(url, corpus(), model=str(tiny_bert))
    server.stop()


def test_a_folder_that_cannot_be_written(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_store("index", width=32).close()

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mrl_text.files.tempfile.TemporaryFile", refused)
    with pytest.raises(OSError, match=r"index cannot be written .Permission denied.: give yourself the right"):
        push("index", corpus(), model=str(tiny_bert))
