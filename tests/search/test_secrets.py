"""Passwords of any characters, and everything that is shown or written: none of them is ever seen."""

from __future__ import annotations

import logging
import stat
import string
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

pytest.importorskip("psycopg")
pytest.importorskip("qdrant_client")

from mrl_text.search import open_store
from mrl_text.search.postgres.connection import Connection
from mrl_text.search.postgres.store import PostgresStore
from mrl_text.search.push import Journal
from mrl_text.search.settings import StoreSettings
from mrl_text.search.urls import without_password
from tests.conftest import invoke

SECRET = "Geheim"
PIECE = st.text(st.sampled_from(string.printable[:95] + "äß日"), max_size=8)
PASSWORDS = st.tuples(PIECE, PIECE, PIECE).map(SECRET.join)  # each part of one must be cut out
PLACE = "127.0.0.1:1/db?table=t&wait=0"  # where nobody listens
FORMS = {
    "credentials": "postgresql://me:{raw}@" + PLACE,
    "quoted": "postgresql://me:{quoted}@" + PLACE,
    "user": "postgresql://{raw}@" + PLACE,
    "no table": "postgres://me:{raw}@127.0.0.1:1/db",
    "no host": "postgresql://me:{quoted}/db?table=t",
    "parameter": "postgresql://me@" + PLACE + "&password={raw}",
    "parameter and no user": "postgresql://127.0.0.1:1/db?password={raw}&table=t&wait=0",
    "quoted parameter": "postgresql://me@" + PLACE + "&password={quoted}",
    "keywords": "host=127.0.0.1 port=1 password={raw}",
    "no slashes": "postgresql:me:{raw}@127.0.0.1:1/db",
    "key": "qdrant://{raw}@127.0.0.1:1/docs?wait=0",
    "key as a parameter": "qdrant://127.0.0.1:1/docs?wait=0&api_key={raw}",
    "a port that is none": "qdrant://me:{raw}@127.0.0.1:port/docs",
    "another database": "mysql://me:{raw}@127.0.0.1:1/db",
}
SEPARATED = ["a#Geheim", "Geheim/xGeheim", "a@Geheim", "a Geheim", "a[Geheim..", "a?Geheim", "a&Geheim", "a%Geheim:"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder, with an encoded folder and queries."""
    place = tmp_path_factory.mktemp("secrets")
    (place / "encoded").mkdir()
    (place / "encoded" / "manifest.json").write_text("{}")
    (place / "queries.csv").write_text("id,text\nq,the cat\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield place


def told(error: BaseException | None) -> Iterator[str]:
    """What an error says, and what all that led to it say."""
    while error is not None:
        yield from (str(error), repr(error), *traceback.format_exception(error))
        error = error.__cause__ or error.__context__


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("search", "URL", "the cat"),
    ("index", "push", "URL", "encoded"),
    ("index", "tune", "URL", "--queries", "queries.csv"),
    ("search", "URL", "--queries", "queries.csv"),
    ("index", "info", "URL"),
    ("index", "delete", "URL", "--id", "a"),
    ("index", "verify", "URL"),
    ("index", "export", "URL", "exported"),
    ("index", "compact", "URL"),
    ("serve", "--index", "URL"),
    ("search", "index", "the cat", "URL"),
    ("search", "index", "the cat", "-k", "URL"),
)


@pytest.mark.slow
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # a password needs no shrinking
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(password=PASSWORDS, form=st.sampled_from(sorted(FORMS)), command=st.sampled_from(COMMANDS))
@example(password="Geheim" + string.punctuation + "Geheim", form="credentials", command=COMMANDS[0])
def test_a_password_is_never_seen(
    folder: Path, caplog: pytest.LogCaptureFixture, password: str, form: str, command: tuple[str, ...]
) -> None:
    check(folder, caplog, FORMS[form].format(raw=password, quoted=quote(password, safe="")), command)


@pytest.mark.parametrize("password", SEPARATED)
def test_a_password_that_a_url_cannot_hold_is_never_seen(
    folder: Path, caplog: pytest.LogCaptureFixture, password: str
) -> None:
    for command in COMMANDS:
        check(folder, caplog, FORMS["credentials"].format(raw=password), command)


def check(folder: Path, caplog: pytest.LogCaptureFixture, url: str, command: tuple[str, ...]) -> None:
    result = invoke(*(url if one == "URL" else one for one in command))
    assert result.exit_code == 2, result.output
    seen = [without_password(url), result.stdout, result.stderr]
    journal = Journal(folder / "encoded", url)
    journal.write(7)
    [file] = (folder / "encoded").glob("push-*")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    seen += [file.name, file.read_text()]
    journal.remove()
    try:
        open_store(url)
    except Exception as error:
        seen += told(error)
    if url.startswith("postgres"):
        try:
            store = PostgresStore(url, Connection(url), StoreSettings(8), "halfvec")
        except ValueError as error:
            seen += told(error)
        else:
            seen += [str(store), repr(store), repr(store._connection)]
            with pytest.raises(ValueError, match="does not tell") as caught:
                store.explain(None)  # type: ignore[arg-type]
            seen += told(caught.value)
    seen += [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG]
    caplog.clear()
    for text in seen:
        assert SECRET not in text and SECRET not in text.replace("\\", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql://me:a#secret@db:5432/texts?table=t&sslmode=require",
            "postgresql://db:5432/texts?table=t&sslmode=require",
        ),
        ("postgresql://me:secret/x@db/texts?table=t", "postgresql://db/texts?table=t"),
        ("postgresql://me:a?b=c@db/texts?table=t", "postgresql://db/texts?table=t"),
        ("postgresql://me:secret/texts?table=t", "postgresql://..."),
        ("postgresql://db/texts?table=a@b", "postgresql://..."),
        ("postgresql://me@db/texts?table=a@b", "postgresql://db/texts?table=a@b"),
        ("postgresql://[::1]:5432/texts?table=t", "postgresql://[::1]:5432/texts?table=t"),
        ("postgresql:///texts?host=/run/postgresql&table=t", "postgresql:///texts?host=/run/postgresql&table=t"),
        ("qdrants://db:6333/docs?wait=5", "qdrants://db:6333/docs?wait=5"),
        ("host=db password=a b", "host=db password=..."),
        ("a folder/index", "a folder/index"),
        ("qdrant:here#docs", "qdrant:here#docs"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize("password", ["secret/x", "a@secret", "a secret", "100%secret", "50%", "a\tsecret"])
def test_a_password_that_cannot_be_in_a_url_is_an_error_that_says_how_to_write_it(password: str) -> None:
    with pytest.raises(ValueError, match=r"percent-encoded, as Python's urllib\.parse\.quote\(password, safe=''\)"):
        Connection(f"postgresql://me:{password}@db/texts?table=t")


@pytest.mark.parametrize("password", ["a#secret", "a[secret..", "a:secret", "a?b=c", "pä!$&'()*+,;=~", "日本"])
def test_a_password_is_read_as_it_is_where_a_url_can_hold_it(password: str) -> None:
    for written in (password, quote(password, safe="")):
        options = Connection(f"postgresql://me:{written}@db:5433/texts?table=t")._options
        assert [options[name] for name in ("user", "password", "host", "port", "dbname")] == [
            "me", password, "db", "5433", "texts"
        ]  # fmt: skip


def test_every_printable_password_is_read_when_it_is_quoted() -> None:
    assert Connection(f"postgresql://me:{quote(string.printable, safe='')}@db/x?table=t")._options["password"] == (
        string.printable
    )
