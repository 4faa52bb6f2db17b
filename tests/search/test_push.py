"""From files and encoded folders into stores, with interruptions at every moment."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

pytest.importorskip("faiss")

from mrl_text import MatryoshkaEncoder
from mrl_text.encoding import EncodedFolder, encode_files, open_encoded
from mrl_text.search import Document, create_store, open_store
from mrl_text.search.faiss.store import FaissStore
from mrl_text.search.open import engine_of
from mrl_text.search.plan import SearchPlan
from mrl_text.search.push import Journal, PushReport, push
from tests.conftest import WORDS, invoke
from tests.processes import Started

ROWS = 240
TEXTS = [f"the {WORDS[row % 40]} and a {WORDS[row * 7 % 43]} {WORDS[row // 40]}" for row in range(ROWS)]
DIMS = [8, 16, 32]


def corpus(path: Path, texts: list[str] = TEXTS, first: int = 0) -> Path:
    rows = [
        {"id": f"d'{row} ü", "text": text, "lang": ("en", "de")[row % 2], "year": 1900 + row}
        for row, text in enumerate(texts, start=first)
    ]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """All rows in three shards, full width and a prefix, with text and columns."""
    place = tmp_path_factory.mktemp("encoded")
    options: dict[str, Any] = {"dims": DIMS, "keep": ["text", "lang", "year"], "dtype": "float32", "shard_rows": 100}
    encode_files([corpus(place / "corpus.jsonl")], place / "out", model=str(tiny_bert), **options)
    return place / "out"


@pytest.fixture
def folder(encoded: Path, tmp_path: Path) -> Path:
    """A copy, as a push writes its journal there."""
    return Path(shutil.copytree(encoded, tmp_path / "encoded"))


@pytest.fixture(scope="module")
def expected(tiny_bert: Path) -> np.ndarray:
    vectors = MatryoshkaEncoder(str(tiny_bert)).encode_document(TEXTS)
    return np.asarray(vectors, dtype=np.float64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["faiss", "postgres", "qdrant"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    if request.param == "faiss":
        return lambda: str(tmp_path / uuid.uuid4().hex)
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        return lambda: f"{url}&table=push_{uuid.uuid4().hex}"
    pytest.importorskip("qdrant_client")
    # the embedded mode commits row by row, which takes long on a busy disk
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else tmp_path))
    request.addfinalizer(lambda: shutil.rmtree(place))
    return lambda: f"qdrant:{place / uuid.uuid4().hex}#docs"


def ids(rows: int = ROWS) -> list[str]:
    return [f"d'{row} ü" for row in range(rows)]


def contents(url: str) -> tuple[Any, ...]:
    """All of a store that can be seen: rows, and for each row the cosine of its vector to a few fixed directions."""
    store = open_store(url)
    try:
        directions = np.eye(32, dtype=np.float32)[:4]
        found = store.exact(directions, ROWS + 10)
        scores = [
            {name: round(float(score), 3) for name, score in zip(*row, strict=True) if name is not None}
            for row in zip(found.ids, found.scores, strict=True)
        ]
        return store.count(), store.documents(ids()), scores, store.plan, store.dims, store.model, store.width
    finally:
        store.close()


@pytest.mark.slow
def test_rows_texts_columns_and_vectors_arrive(
    new_url: Callable[[], str], folder: Path, expected: np.ndarray, tiny_bert: Path
) -> None:
    url = new_url()
    report = push(url, folder, batch_rows=64)
    assert (report.rows, report.pushed, report.stored) == (ROWS, ROWS, ROWS)
    store = open_store(url)
    assert (store.count(), store.width, store.dims) == (ROWS, 32, (8, 16, 32))
    assert store.model == str(tiny_bert.resolve())
    assert store.plan == report.plan
    own = [{"lang": ("en", "de")[row % 2], "year": 1900 + row} for row in range(ROWS)]
    rows = [Document(name, TEXTS[row], own[row]) for row, name in enumerate(ids())]
    assert store.documents(ids()) == rows
    queries = expected[::24].astype(np.float32)
    scores = expected[::24] @ expected.T
    found = store.exact(queries, 5)
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :5], atol=2e-3)
    known = {name: row for row, name in enumerate(ids())}
    for row, names in enumerate(found.ids):  # ids, whatever the order of ties
        np.testing.assert_allclose(found.scores[row], [scores[row, known[name]] for name in names], atol=2e-3)
    hits = store.search(queries, 1)  # by the plan: a shortlist of 200 of 240
    np.testing.assert_allclose(hits.scores[:, 0], 1, atol=2e-3)
    store.close()
    assert not list(folder.glob("push-*"))


@pytest.mark.slow
def test_an_interrupted_push_goes_on_after_the_last_confirmed_batch(
    new_url: Callable[[], str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = new_url(), new_url()
    push(whole, folder, batch_rows=40)
    opened = open_store(whole)
    store_class = type(opened)
    opened.close()
    sent: list[int] = []
    most = [3]
    add = store_class.add

    def counting(self: Any, names: list[str], *rest: Any) -> None:
        if len(sent) == most[0]:
            raise KeyboardInterrupt
        sent.append(len(names))
        add(self, names, *rest)

    monkeypatch.setattr(store_class, "add", counting)
    with pytest.raises(KeyboardInterrupt):
        push(broken, folder, batch_rows=40, checkpoint_seconds=0)
    sent, most[0] = [], 1000
    report = push(broken, folder, batch_rows=40, checkpoint_seconds=0)
    assert report.pushed == sum(sent) == ROWS - 40 - 40 - 20  # the first shard ends at 100
    assert contents(broken) == contents(whole)
    assert not list(folder.glob("push-*"))


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_if_undisturbed(folder: Path, tmp_path: Path) -> None:
    push(tmp_path / "whole", folder)
    broken = tmp_path / "broken"
    call = f"push({str(broken)!r}, {str(folder)!r}, batch_rows=3, checkpoint_seconds=0)"
    script = f"from mrl_text.search.push import push; {call}"
    moments = random.Random(1)
    for _ in range(2):
        process = Started(script)
        journal = Journal(folder, broken)
        wanted = journal.rows + moments.randrange(1, 80)
        while process.poll() is None and Journal(folder, broken).rows < wanted:
            time.sleep(0.002)
        assert process.poll() is None, "it was over before it could be killed"
        process.kill()
        process.wait()
        assert 0 < Journal(folder, broken).rows < ROWS
    report = push(broken, folder)
    assert 0 < report.pushed < ROWS
    assert contents(str(broken)) == contents(str(tmp_path / "whole"))
    whole, again = (FaissStore.open(str(tmp_path / name)).index for name in ("whole", "broken"))
    np.testing.assert_array_equal(whole.vectors(whole.find(ids())), again.vectors(again.find(ids())))


def stopped_after(url: str | Path, folder: Path, batches: int) -> None:
    """A push that is interrupted in the middle."""
    calls: list[int] = []
    add = FaissStore.add

    def counting(self: Any, *rest: Any) -> None:
        if len(calls) == batches:
            raise KeyboardInterrupt
        calls.append(1)
        add(self, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FaissStore, "add", counting)
        with pytest.raises(KeyboardInterrupt):
            push(url, folder, batch_rows=20, checkpoint_seconds=0)


def test_a_store_that_lost_its_rows_gets_all_of_them(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped_after(tmp_path / "index", folder, 4)
    assert Journal(folder, tmp_path / "index").rows == 80
    shutil.rmtree(tmp_path / "index")
    with caplog.at_level(logging.WARNING):
        report = push(tmp_path / "index", folder)
    assert "has lost rows that it had confirmed" in caplog.text
    assert (report.pushed, report.stored) == (ROWS, ROWS)


def test_a_note_about_other_vectors_does_not_count(folder: Path, tmp_path: Path) -> None:
    stopped_after(tmp_path / "index", folder, 4)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert push(tmp_path / "index", folder).pushed == ROWS
    assert push(tmp_path / "other", folder).pushed == ROWS


def test_other_columns_are_another_push(folder: Path, tmp_path: Path) -> None:
    stopped_after(tmp_path / "index", folder, 4)
    report = push(tmp_path / "index", folder, keep=["lang"])
    assert report.pushed == ROWS
    store = open_store(tmp_path / "index")
    assert store.documents(ids()[:1]) == [Document(ids()[0], TEXTS[0], {"lang": "en", "year": None})]
    store.close()


def test_a_folder_without_texts_is_told(tmp_path: Path, tiny_bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("id,body\na,a cat\nb,a dog\n")
    read: dict[str, Any] = {"model": str(tiny_bert), "text_columns": ["body"]}
    encode_files([rows], tmp_path / "without", keep=["body"], **read)
    with caplog.at_level(logging.WARNING):
        push(tmp_path / "first", tmp_path / "without")
    assert "mrl-text encode keeps them with --keep text" in caplog.text
    assert "does not say which sizes it was trained for: tuning will try 16, 32\n" in caplog.text
    caplog.clear()
    encode_files([rows], tmp_path / "with", keep=["text"], **read)  # as the warning says
    with caplog.at_level(logging.WARNING):
        push(tmp_path / "second", tmp_path / "with")
    assert "--keep text" not in caplog.text
    with contextlib.closing(open_store(tmp_path / "second")) as store:
        assert store.documents(["a"])[0].text == "a cat"


def test_columns_of_parquet(tmp_path: Path, tiny_bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    hours = [datetime.datetime(2020, 1, 1, hour, tzinfo=datetime.UTC) for hour in (1, 2)]
    own = {
        "score": [1.5, float("nan"), None],
        "day": [datetime.date(2020, 1, day) for day in (1, 2, 3)],
        "seen": [*hours, None],
        "local": [datetime.datetime(2020, 1, 1, 12, 30, 0, 5)] * 3,
    }
    kept = [
        {"score": 1.5, "day": "2020-01-01", "seen": "2020-01-01T01:00:00+00:00"},
        {"score": None, "day": "2020-01-02", "seen": "2020-01-01T02:00:00+00:00"},
        {"score": None, "day": "2020-01-03", "seen": None},
    ]
    parquet.write_table(pa.table({"id": ["a", "b", "c"], "text": TEXTS[:3], **own}), tmp_path / "corpus.parquet")
    encode_files([tmp_path / "corpus.parquet"], tmp_path / "out", model=str(tiny_bert), keep=["text", *own])
    for number, source in enumerate((tmp_path / "out", tmp_path / "corpus.parquet")):
        options: dict[str, Any] = {"model": str(tiny_bert), "keep": list(own)} if number else {}
        with caplog.at_level(logging.INFO, "mrl_text.search"):
            push(tmp_path / f"index-{number}", source, **options)
        assert "'day', 'seen', 'local': dates and times, stored as text such as 2020-01-31T12:00:00" in caplog.text
        caplog.clear()
        with contextlib.closing(open_store(tmp_path / f"index-{number}")) as store:
            columns = [one and one.columns for one in store.documents(["a", "b", "c"])]
            assert columns == [one | {"local": "2020-01-01T12:30:00.000005"} for one in kept]
            assert store.search(np.ones(32, np.float32), 3, where={"day": "2020-01-02"}).ids[0].tolist()[0] == "b"


def test_a_folder_that_cannot_be_written_is_pushed_all_the_same(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, content: bytes, *, private: bool = False) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("mrl_text.search.push.write_atomically", refused)
    assert push(tmp_path / "index", folder, checkpoint_seconds=0).stored == ROWS
    assert caplog.text.count("an interrupted push will begin anew") == 1


def test_corpus_files_are_encoded_first_and_their_vectors_removed(
    folder: Path, tmp_path: Path, tiny_bert: Path
) -> None:
    files = [corpus(tmp_path / "one.jsonl", TEXTS[:150]), corpus(tmp_path / "two.jsonl", TEXTS[150:], 150)]
    options: dict[str, Any] = {"model": str(tiny_bert), "keep": ["lang", "year"], "dims": DIMS}
    report = push(tmp_path / "index", [str(file) for file in files], **options)
    assert (report.stored, report.left_out, report.folder) == (ROWS, 0, None)
    assert not list((tmp_path / "cache" / "push").iterdir())
    push(tmp_path / "other", folder)
    assert contents(str(tmp_path / "index"))[:2] == contents(str(tmp_path / "other"))[:2]
    for one, other in zip(contents(str(tmp_path / "index"))[2], contents(str(tmp_path / "other"))[2], strict=True):
        assert all(abs(one[name] - other[name]) < 0.01 for name in one)  # bfloat16, where the processor has it
    kept = push(tmp_path / "third", files, work=tmp_path / "work", **options)
    assert kept.folder == tmp_path / "work"
    assert open_encoded(kept.folder).rows == ROWS


def test_rows_that_are_left_out_are_named_and_kept_on_record(tmp_path: Path, tiny_bert: Path) -> None:
    file = corpus(tmp_path / "corpus.jsonl", [*TEXTS[:5], " "])
    report = push(tmp_path / "index", file, model=str(tiny_bert))
    assert (report.stored, report.left_out) == (5, 1)
    assert "corpus.jsonl, row 6" in report.problems[0]
    assert report.folder is not None
    assert (report.folder / "problems.jsonl").read_text()
    with pytest.raises(ValueError, match="row 6"):
        push(tmp_path / "strict", file, model=str(tiny_bert), on_error="fail")
    assert not (tmp_path / "strict").exists()


def test_problems_are_counted_beyond_those_that_are_listed(tmp_path: Path, tiny_bert: Path) -> None:
    file = corpus(tmp_path / "corpus.jsonl", ["word " * 300] * 25 + [TEXTS[0], " "])
    report = push(tmp_path / "index", file, model=str(tiny_bert))
    assert (len(report.problems), report.noted, report.left_out) == (10, 26, 1)
    lines = invoke("index", "push", tmp_path / "other", file, "--model", tiny_bert).stderr.splitlines()
    assert f"... and 23 more, all in {tmp_path}" in next(line for line in lines if "more" in line)


def test_rows_that_come_again_replace_what_was_there(tmp_path: Path, tiny_bert: Path, folder: Path) -> None:
    push(tmp_path / "index", folder)
    changed = corpus(tmp_path / "changed.jsonl", [f"{text} slow" for text in TEXTS[100:]], 100)
    report = push(tmp_path / "index", changed, model=str(tiny_bert), keep=["lang"])
    assert (report.pushed, report.stored) == (140, ROWS)
    store = open_store(tmp_path / "index")
    before, after = store.documents([ids()[99], ids()[100]])
    assert before == Document(ids()[99], TEXTS[99], {"lang": "de", "year": 1999})
    assert after == Document(ids()[100], f"{TEXTS[100]} slow", {"lang": "en", "year": None})
    assert store.plan == report.plan
    store.close()


def test_an_id_that_comes_twice_fails_before_anything_is_encoded_or_one_row_wins(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "corpus.jsonl"
    rows = [{"id": f"r{row % 30}", "text": TEXTS[row]} for row in range(50)]
    file.write_text("\n".join(map(json.dumps, rows)))
    with monkeypatch.context() as patched:
        patched.setattr("mrl_text.encoding.encode_files", lambda *_, **__: pytest.fail("it was encoded"), raising=False)
        with pytest.raises(ValueError, match=r"'r0' is used twice: corpus.jsonl, row 1 and corpus.jsonl, row 31; mend"):
            push(tmp_path / "index", file, model=str(tiny_bert))
    assert not (tmp_path / "index").exists()
    encode_files([file], tmp_path / "encoded", model=str(tiny_bert), keep=["text"], shard_rows=20)
    with pytest.raises(ValueError, match=r"the id 'r0' comes twice .* --on-duplicate first or last"):
        push(tmp_path / "index", tmp_path / "encoded")
    assert not (tmp_path / "index").exists()
    for policy, texts in (("last", [TEXTS[35], TEXTS[25]]), ("first", [TEXTS[5], TEXTS[25]])):
        for rows_together in (50, 7):  # within a batch and across batches
            url = tmp_path / f"index-{policy}-{rows_together}"
            options: dict[str, Any] = {"on_duplicate": policy, "batch_rows": rows_together}
            report = push(url, tmp_path / "encoded", **options)
            assert (report.rows, report.stored, report.duplicates) == (50, 30, 20)
            store = open_store(url)
            assert [one.text for one in store.documents(["r5", "r25"]) if one] == texts
            store.close()


def test_corpus_files_are_read_by_the_columns_that_are_named(tmp_path: Path, tiny_bert: Path) -> None:
    file = tmp_path / "corpus.csv"
    file.write_text("key,body\na,the cat\nb,a dog\n", encoding="utf-8")
    report = push(tmp_path / "index", file, model=str(tiny_bert), text_columns=["body"], id_column="key")
    assert report.stored == 2
    store = open_store(tmp_path / "index")
    assert store.documents(["a", "b"]) == [Document("a", "the cat", {}), Document("b", "a dog", {})]
    store.close()


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_going_on_reads_the_vectors_of_no_confirmed_row(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    folder = tmp_path / "encoded"
    options: dict[str, Any] = {"keep": ["text"], "shard_rows": 20, "format": form}
    encode_files([corpus(tmp_path / "corpus.jsonl")], folder, model=str(tiny_bert), **options)
    stopped_after(tmp_path / "index", folder, 10)
    looked: list[str] = []
    documents = FaissStore.documents
    monkeypatch.setattr(FaissStore, "documents", lambda self, ids: looked.extend(ids) or documents(self, ids))
    read: list[int] = []
    batches = EncodedFolder.batches

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        for batch in batches(self, *arguments, **options):
            read.append(len(batch.ids))
            yield batch

    monkeypatch.setattr(EncodedFolder, "batches", counted)
    report = push(tmp_path / "index", folder, batch_rows=20)
    assert (report.pushed, report.stored) == (40, ROWS)
    assert sum(read) == 40
    assert 50 <= len(looked) <= 100
    assert {int(name.split()[0][2:]) // 20 for name in looked} == set(range(10))  # all over what was confirmed


@pytest.mark.slow
def test_the_plan_of_a_store_is_kept_and_another_one_taken_when_it_is_given(
    new_url: Callable[[], str], folder: Path
) -> None:
    url = new_url()
    own = SearchPlan(8, "hnsw", "float16", shortlist=50, effort=60)
    create_store(url, width=32, plan=own, dims=[8, 16]).close()
    assert push(url, folder).plan == own
    assert contents(url)[3] == own
    other = SearchPlan(16, "flat", "float16", shortlist=70)
    assert push(url, folder, plan=other).plan == other
    store = open_store(url)
    assert (store.plan, store.count()) == (other, ROWS)
    store.close()


def test_starting_plans_fit_the_engine_and_the_size() -> None:
    database, folder = engine_of("postgresql://db/texts?table=t").starting_plan, engine_of("folder").starting_plan
    assert database(50_000, 384, [16, 64, 128, 384]).label == "128 float16 hnsw, 200 → full"
    assert database(500, 384, [384]).single
    assert database(500, 384, [64, 384]).kind == "flat"
    assert folder(500, 384, [64, 384]).precision == "float32"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": "corpus.jsonl"}, "give --model"),
        ({"sources": "."}, "it has no manifest.json"),
        ({"sources": ["encoded", "corpus.jsonl"]}, "one encoded folder, or corpus files"),
        ({"sources": "narrow"}, "a store needs the full width, 32, in float32 or float16"),
        ({"keep": ["langs"]}, "did you mean 'lang'"),
        ({"on_duplicate": "frist"}, "on_duplicate 'frist' is unknown"),
        ({"batch_rows": 0}, "batch_rows must be at least 1"),
        ({"plan": SearchPlan(64)}, "64"),
        ({"store_url": "mysql://here"}, "is not a store"),
        ({"plan": SearchPlan(8, "hnsw", "binary")}, "binary is for flat and ivf in FAISS"),
        ({"store_url": "qdrant:q#docs", "plan": SearchPlan(8, "ivf")}, "Qdrant has no ivf"),
        ({"limit": 3}, "limit 3 is for corpus files, and encoded is encoded already: leave it out"),
        ({"device": "cpu"}, "device cpu is for corpus files"),
        ({"model": "other"}, "was encoded with .*tiny-bert.*, not with other: leave --model out"),
        ({"work": "there"}, "work there is for corpus files"),
        ({"store_url": "wide"}, "holds vectors of width 64, these have 32"),
        ({"store_url": "foreign"}, "holds vectors of their/model, these are of"),
        ({"store_url": "sized", "dims": [8]}, "was made with the sizes 4, 32: leave --dims out"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    folder: Path, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus(Path("corpus.jsonl"), TEXTS[:3])
    encode_files(["corpus.jsonl"], "narrow", model=str(tiny_bert), dims=[8])
    shutil.copytree(tiny_bert, "other")
    others: dict[str, Any] = {"wide": {"width": 64}, "foreign": {"model": "their/model"}, "sized": {"dims": [4]}}
    for name, settings in others.items():
        other = create_store(name, **{"width": 32, **settings})
        other.add(["theirs"], np.ones((1, other.width), np.float32))
        other.flush()
        other.close()
    with pytest.raises(ValueError, match=message):
        push(**{"store_url": "index", "sources": "encoded", **change})
    assert not Path("index").exists()
    for name in ("wide", "foreign", "sized"):
        assert open_store(name).count() == 1


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("taken", {}, "taken has files already: choose another folder"),
        ("file", {}, "file cannot be a folder, .*file is a file: choose another folder"),
        ("qdrant:file#docs", {}, "file cannot be a folder"),
        ("index", {"plan": SearchPlan(8, "hnsw", "binary")}, "binary is for flat and ivf in FAISS"),
        ("qdrant:q#docs", {"plan": SearchPlan(8, "ivf")}, "Qdrant has no ivf"),
    ],
)
def test_what_cannot_be_stored_is_not_encoded(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, url: str, options: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mrl_text.encoding.engines.load_encoder", lambda _: pytest.fail("the model was loaded"))
    Path("taken").mkdir()
    for file in (Path("taken/precious.txt"), Path("file")):
        file.write_text("mine")
    with pytest.raises((ValueError, FileExistsError), match=message):
        push(url, corpus(Path("corpus.jsonl"), TEXTS[:3]), model=str(tiny_bert), **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "file", "taken"]


def test_a_note_is_of_a_store_and_not_of_its_user(folder: Path) -> None:
    url = "postgresql://me:geheim@db:5432/texts?table=t&sslmode=require"
    Journal(folder, url).write(7)
    assert Journal(folder, url.replace("geheim", "anders")).rows == 7  # a new password, the same store
    assert Journal(folder, url.replace("table=t", "table=u")).rows == 0


def test_a_report_says_what_was_done(folder: Path, tmp_path: Path) -> None:
    report = push(tmp_path / "index", folder)
    assert isinstance(report, PushReport)
    assert report.url == str(tmp_path / "index")
    assert report.seconds > 0


def test_an_option_that_there_is_not_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"no option 'text_column'.*text_columns"):
        push(tmp_path / "index", folder, text_column=["title"])
    assert not (tmp_path / "index").exists()


def test_a_push_without_rows_makes_no_store(new_url: Callable[[], str], tmp_path: Path, tiny_bert: Path) -> None:
    url, empty = new_url(), corpus(tmp_path / "empty.jsonl", ["", " "])
    with pytest.raises(ValueError, match=r"nothing was pushed: .*empty.jsonl has no rows to store: 2 were left out, "):
        push(url, empty, model=str(tiny_bert))
    encode_files([empty], tmp_path / "out", model=str(tiny_bert))
    with pytest.raises(ValueError, match=r"nothing was pushed: .*out has no rows to store"):
        push(url, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        open_store(url)


def test_a_store_without_rows_fixes_neither_model_nor_sizes(
    new_url: Callable[[], str], folder: Path, tiny_bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = new_url()
    other = create_store(url, width=16, model="another/model", dims=[4])
    other.add(["a"], np.ones((1, 16), np.float32))
    other.flush()
    other.close()
    with pytest.raises(ValueError, match="holds vectors of width 16"):
        push(url, folder)
    other = open_store(url)
    other.delete(["a"])
    other.flush()
    other.close()
    with caplog.at_level(logging.WARNING, "mrl_text.search.push"):
        report = push(url, folder)
    assert "holds no rows, and is made anew for these" in caplog.text
    assert report.stored == ROWS
    store = open_store(url)
    assert (store.width, store.model, store.dims) == (32, str(tiny_bert), tuple(DIMS))
    store.close()
