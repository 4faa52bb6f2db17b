from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from mrl_text.cli import app
from mrl_text.eval.grid import RANDOM_SEEDS, Cell, Line
from mrl_text.eval.leaderboard import formatted, leaderboard, load_results, markdown, with_earlier, write_leaderboard
from mrl_text.eval.report import asked, summarize, write_report
from mrl_text.eval.results import Results
from mrl_text.eval.runner import SweepResult
from tests.eval.test_results import BASE, MODEL, OTHER, PCA, RANDOM, MadeUpSweep, interval_of, queries, share_kept

COLUMNS = [
    *("model", "bytes", "disk", "dim", "precision", "comparison", "rescore"),
    *("score", "low", "high", "retention", "retention_low", "retention_high"),
]


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A sweep of one model with a control on two tasks."""
    whole = queries(0.6)
    sweep = MadeUpSweep(tmp_path / "first").curve({64: whole, 16: share_kept(whole, 0.8, noise=0.01)})
    sweep.curve({64: 0.8, 16: 0.5}, task="Pairs", kind="STS")
    sweep.curve({64: 0.5}, BASE).curve({64: 0.5}, BASE, task="Pairs", kind="STS")
    return sweep.save()


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """A sweep of another model on one of these tasks and another one."""
    sweep = MadeUpSweep(tmp_path / "second").curve({64: queries(0.7, seed=2), (64, "binary"): 0.3}, OTHER)
    return sweep.curve({64: 0.9}, OTHER, task="Summaries", kind="Summarization").save()


@pytest.fixture
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keep what the command sets for its own process out of the other tests."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("MRL_TEXT_DEBUG", raising=False)
    level = logging.getLogger("mrl_text").level
    yield tmp_path / "work"
    logging.getLogger("mrl_text").setLevel(level)


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["leaderboard", *map(str, arguments)])


def parsed(text: str) -> list[dict[str, str]]:
    """Rows of a Markdown table."""
    heading, rule, *rows = [line.strip("|").split("|") for line in text.strip().splitlines()]
    assert [cell.strip() for cell in rule] == ["---", *["---:"] * (len(rule) - 1)]
    assert {len(row) for row in rows} == {len(heading)}
    return [{key.strip(): cell.strip() for key, cell in zip(heading, row, strict=True)} for row in rows]


def test_one_folder_gives_the_results_that_were_saved(first: Path) -> None:
    results = load_results([first])
    assert results.lines == [MODEL, BASE]
    assert results.tasks == {"Search": "Retrieval", "Pairs": "STS"}
    assert interval_of(results.retention(MODEL, Cell(16), ["Search"])).n == 100


def test_several_folders_make_one_table_of_the_tasks_they_share(
    first: Path, second: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = load_results([str(first), second])
    assert results.lines == [MODEL, BASE, OTHER]
    assert list(results.tasks) == ["Search"]
    assert "not every model was evaluated on it: Pairs, Summaries" in caplog.text
    assert results.compare("Search", OTHER, 64, MODEL, 64).mean == pytest.approx(0.1)


def test_what_two_folders_hold_is_taken_from_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = []
    for name, score in (("a", 0.4), ("b", 0.5)):
        sweep = MadeUpSweep(tmp_path / name).curve({64: score, int(score * 80): score})
        for seed in RANDOM_SEEDS:
            sweep.add(score, RANDOM, Cell(16), seed=seed)
        folders.append(sweep.save())
    results = load_results(folders)
    assert results.curve(MODEL) == {64: 0.4, 32: 0.4, 40: 0.5}
    assert results.curve(RANDOM) == {16: pytest.approx(0.4)}
    assert len(results.scores) == 3 + len(RANDOM_SEEDS)
    assert load_results(folders[::-1]).curve(MODEL) == {64: 0.5, 32: 0.4, 40: 0.5}
    assert caplog.text == ""


def test_a_later_sweep_is_shown_with_the_earlier_tasks_of_its_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mrl_text")
    sweep = MadeUpSweep(tmp_path).curve({64: 0.6, 16: 0.5}, PCA).curve({64: 0.7}, OTHER).curve({64: 0.4}, BASE)
    sweep.curve({64: 0.6, 16: 0.3}).curve({64: 0.9}, OTHER, task="Summaries")
    sweep.curve({64: 0.8}, task="Pairs").curve({64: 0.5}, BASE, task="Pairs")
    folder = sweep.save()
    table = load_table(folder)
    mine = table[(table["task"] == "Pairs") & (table["model"] != OTHER.model)]
    results = with_earlier(SweepResult(mine, folder, {}, {}))
    assert list(results.tasks) == ["Search", "Pairs"]  # both of the models of the last sweep
    assert set(results.lines) == {MODEL, BASE, PCA}
    assert results.curve(MODEL) == {64: pytest.approx(0.7)}
    assert "shows 2 tasks, 1 of them evaluated into" in caplog.text
    assert "leaves out what was not evaluated on the same tasks: Summaries, someone/other" in caplog.text


def load_table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "scores.parquet")


def test_a_task_that_only_a_control_lacks_is_kept(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: 0.4}).curve({64: 0.4}, task="Pairs").curve({64: 0.3}, BASE)
    results = load_results([sweep.save()])
    assert list(results.tasks) == ["Search", "Pairs"]
    assert results.estimate(BASE, Cell(64)) is None
    assert leaderboard(results)["model"].tolist() == ["tuned"]


def test_scores_of_different_data_are_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = [
        MadeUpSweep(tmp_path / data).curve({64: 0.4}, line, data=data).save()
        for line, data in ((MODEL, "1"), (OTHER, "2"))
    ]
    assert len(load_results(folders).lines) == 2
    assert "Search was not measured on the same data everywhere" in caplog.text


def test_what_cannot_be_loaded_is_named(first: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results given: name the output folder"):
        load_results([])
    with pytest.raises(FileNotFoundError, match=r"no results in .*nowhere.*scores\.parquet, which mrl-text eval"):
        load_results([first, tmp_path / "nowhere"])
    table = first / "scores.parquet"
    table.write_bytes(table.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"scores\.parquet is damaged .* run the evaluation again"):
        load_results([first])
    table.write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        load_results([first])


def test_a_table_of_an_older_version_is_refused(first: Path) -> None:
    file = first / "scores.parquet"
    pd.read_parquet(file).drop(columns=["precision", "seed"]).to_parquet(file)
    with pytest.raises(ValueError, match=r"scores\.parquet has no column precision, an older version wrote it"):
        load_results([first])


def test_models_that_share_no_task_do_not_compare(tmp_path: Path) -> None:
    folders = [
        MadeUpSweep(tmp_path / task).curve({64: 0.4}, line, task=task).save()
        for line, task in ((MODEL, "Search"), (OTHER, "Pairs"))
    ]
    each = r"\(someone/tuned: Search; someone/other: Pairs\)"
    with pytest.raises(ValueError, match=f"these models share no task: evaluate them on the same ones {each}"):
        load_results(folders)


def test_the_best_come_first_and_of_equals_the_smallest(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: 0.6, (64, "float16"): 0.6, 16: 0.3}).curve({64: 0.5}, BASE)
    table = leaderboard(sweep.curve({64: 0.55, 16: 0.2}, PCA).results())
    assert list(table.columns) == COLUMNS  # one task: its score is the score
    assert list(zip(table["model"], table["dim"], table["precision"], table["bytes"], strict=True)) == [
        ("tuned", 64, "float16", 128),
        ("tuned", 64, "float32", 256),
        ("tuned (PCA)", 64, "float32", 256),
        ("base (untrained base)", 64, "float32", 256),
        ("tuned", 16, "float32", 64),
        ("tuned (PCA)", 16, "float32", 64),
    ]
    assert table["score"].tolist() == pytest.approx([0.6, 0.6, 0.55, 0.5, 0.3, 0.2])
    assert table["retention"].tolist() == pytest.approx([1, 1, 0.55 / 0.6, 1, 0.5, 0.2 / 0.6])


def test_rows_have_the_numbers_of_the_results(first: Path) -> None:
    results = load_results([first])
    table = leaderboard(results)
    assert list(table.columns) == [*COLUMNS, "Search", "Pairs"]
    row = table[table["dim"] == 16].iloc[0]
    assert row[["score", "Search", "Pairs"]].tolist() == pytest.approx([(0.48 + 0.5) / 2, 0.48, 0.5])
    assert pd.isna(row[["low", "high", "retention_low", "retention_high"]]).all()  # Pairs has no items
    search = leaderboard(Results(results.scores[results.scores["task"] == "Search"], results.folders))
    row = search[search["dim"] == 16].iloc[0]
    score, kept = results.estimate(MODEL, Cell(16), ["Search"]), results.retention(MODEL, Cell(16), ["Search"])
    expected = [interval_of(score).low, interval_of(score).high, interval_of(kept).low, interval_of(kept).high]
    assert row[["low", "high", "retention_low", "retention_high"]].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("count", "by_type"), [(8, False), (9, True)])
def test_many_tasks_are_shown_by_type(count: int, by_type: bool, tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path)
    for number in range(count):
        sweep.add(number / 10, task=f"Task{number}", kind="STS" if number % 2 else "Retrieval")
    table = leaderboard(sweep.results())
    if by_type:
        assert list(table.columns[len(COLUMNS) :]) == ["Retrieval", "STS"]
        assert table.loc[0, ["Retrieval", "STS"]].tolist() == pytest.approx([0.4, 0.4])
        assert table.loc[0, "score"] == pytest.approx(0.4)
    else:
        assert list(table.columns[len(COLUMNS) :]) == [f"Task{number}" for number in range(count)]


def test_disk_and_coded_queries_are_shown_where_there_are_any(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: 0.6}).add(0.5, MODEL, Cell(64, "binary", "symmetric"))
    shown = formatted(leaderboard(sweep.results()))
    assert list(shown.columns) == ["model", "bytes", "size", "precision", "comparison", "score", "retention %"]
    shown = formatted(leaderboard(sweep.add(0.55, MODEL, Cell(64, "binary", rescore=10)).results()))
    assert shown[["bytes", "disk", "rescore"]].to_numpy().tolist() == [["256", "0", 0], ["8", "256", 10], ["8", "0", 0]]


def test_an_engine_leaves_out_what_it_cannot_keep_and_has_lines(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path / "eval").curve({64: 0.6, (64, "int8"): 0.6, (64, "binary"): 0.5})
    sweep.add(0.59, MODEL, Cell(64, "binary", "symmetric")).save()
    shown = invoke(tmp_path / "eval", "--engine", "pgvector", "--keep", "0.9")
    assert shown.exit_code == 0, shown.output
    assert "int8" not in shown.stdout
    assert re.search(r"│ +264 │ +64 │ float32 ", shown.stdout)  # 8 bytes are pgvector's own
    assert "tuned, PostgreSQL with pgvector, overall: 64 x binary, symmetric keeps 98.33 %" in shown.stdout
    assert "CREATE TABLE items (id bigint PRIMARY KEY, code bit(64));" in shown.stdout
    refused = invoke(tmp_path / "eval", "--engine", "postgres")
    assert (refused.exit_code, "'postgres' is not one of 'faiss', 'pgvector'" in refused.stderr) == (2, True)


def test_csv_comes_back_with_every_digit(first: Path) -> None:
    results = load_results([first])
    again = pd.read_csv(io.StringIO(write_leaderboard(results, "csv")))
    table = leaderboard(results)
    assert list(again.columns) == list(table.columns)
    for column in table.columns:
        assert [*again[column].fillna(-1)] == [-1 if pd.isna(value) else value for value in table[column]]


def test_markdown_parses_back_into_the_same_numbers(first: Path) -> None:
    results = load_results([first])
    table, rows = leaderboard(results), parsed(write_leaderboard(results, "markdown"))
    assert list(rows[0]) == ["model", "bytes", "size", "precision", "score", "retention %", "Search", "Pairs"]
    assert [row["model"] for row in rows] == table["model"].tolist()
    assert [int(row["bytes"]) for row in rows] == table["bytes"].tolist()
    for name, column in (("score", "score"), ("retention %", "retention"), ("Pairs", "Pairs")):
        assert [float(row[name]) for row in rows] == pytest.approx((100 * table[column]).tolist(), abs=0.00501)


def test_intervals_stand_in_brackets_and_gaps_are_dashes(tmp_path: Path) -> None:
    whole = queries(0.6)
    sweep = MadeUpSweep(tmp_path).curve({64: whole, 32: 0.3}).curve({16: 0.2}, PCA)
    results = sweep.results()
    table = leaderboard(results)
    table.loc[table["dim"] == 16, "retention"] = None
    shown = formatted(table).set_index("size")
    interval = interval_of(results.estimate(MODEL, Cell(64)))
    assert shown.loc[64, "score"] == f"60.00 [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    assert shown.loc[64, "retention %"] == "100.00 [100.00, 100.00]"
    assert shown.loc[32].tolist()[3:] == ["30.00", "50.00"]
    assert shown.loc[16, "retention %"] == "-"


def test_a_bar_in_a_name_does_not_break_the_markdown_table(tmp_path: Path) -> None:
    text = markdown(leaderboard(MadeUpSweep(tmp_path).add(0.4, task="a|b").add(0.5, task="c").results()))
    assert list(parsed(text)[0])[-2:] == ["a/b", "c"]


def test_the_terminal_shows_every_row(first: Path) -> None:
    results = load_results([first])
    text = write_leaderboard(results)
    rows = [line for line in text.splitlines() if re.search(r"\b(tuned|base)\b", line)]
    assert len(rows) == len(leaderboard(results)) == 3
    for row, value in zip(rows, leaderboard(results)["score"], strict=True):
        assert f"{100 * value:.2f}" in row
    assert "…" not in text


def test_the_terminal_tells_models_of_one_name_apart(tmp_path: Path) -> None:
    sweep = MadeUpSweep(tmp_path).curve({64: 0.6}).curve({64: 0.5}, Line(MODEL.model, "r9"))
    text = write_leaderboard(sweep.results())
    assert "tuned [r1, float32]" in text
    assert "tuned [r9, float32]" in text


def test_html_holds_the_summary_with_published_curves(first: Path, tmp_path: Path) -> None:
    published = tmp_path / "published.csv"
    published.write_text("model,dim,task,score\nvendor/small,32,Search,0.5\n", encoding="utf-8")
    page = write_leaderboard(load_results([first]), "html", keep=0.9, references=[published])
    found = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert [line["label"] for line in data["lines"]] == ["tuned", "base (untrained base)", "small (published)"]
    assert data["keep"] == 0.9


@pytest.mark.parametrize("kind", ["terminal", "csv", "markdown", "html"])
def test_a_file_gets_what_would_be_printed(kind: str, first: Path, tmp_path: Path) -> None:
    results = load_results([first])
    file = tmp_path / "new" / "board"
    assert write_leaderboard(results, kind, file) == f"{file}\n"
    assert file.read_text(encoding="utf-8") == write_leaderboard(results, kind)


def test_an_unknown_kind_is_refused_and_writes_nothing(first: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"can be csv, markdown \(\.md\) or html, not 'xlsx'"):
        write_leaderboard(load_results([first]), "xlsx", tmp_path / "board.xlsx")
    assert not (tmp_path / "board.xlsx").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_command_prints_the_leaderboard_of_its_folders(first: Path, second: Path) -> None:
    shown = invoke(first, second)
    assert shown.exit_code == 0, shown.output
    assert "other" in shown.stdout
    assert "base (untrained base)" in shown.stdout
    rows = list(csv.DictReader(io.StringIO(invoke(first, "--format", "csv").stdout)))
    assert [row["model"] for row in rows] == ["tuned", "base (untrained base)", "tuned"]
    assert float(rows[0]["score"]) == pytest.approx(0.7)
    assert parsed(invoke(first, "--format", "markdown").stdout)[0]["score"] == "70.00"


@pytest.mark.parametrize(
    ("name", "start"), [("board.csv", "model,"), ("board.md", "| model"), ("board.HTML", "<!doctype html>")]
)
def test_the_command_writes_what_the_files_name_says(
    name: str, start: str, first: Path, in_an_empty_folder: Path
) -> None:
    result = invoke(first, "-o", name)
    assert (result.exit_code, result.stdout) == (0, f"{name}\n"), result.output
    text = (in_an_empty_folder / name).read_text(encoding="utf-8")
    assert text[:15].lower().startswith(start)


def test_the_command_hands_references_and_target_to_the_page(first: Path, in_an_empty_folder: Path) -> None:
    (in_an_empty_folder / "p.csv").write_text("model,dim,task,score\nvendor/small,32,Search,0.5\n", encoding="utf-8")
    assert invoke(first, "-o", "a.html", "--reference", "p.csv", "--keep", "0.7").exit_code == 0
    page = (in_an_empty_folder / "a.html").read_text(encoding="utf-8")
    assert "small (published)" in page
    assert '"keep":0.7' in page


def test_the_command_takes_the_target_that_was_asked_for(first: Path, in_an_empty_folder: Path) -> None:
    results = load_results([first])
    write_report(results, summarize(results, keep=0.7))
    assert asked([first]) == 0.7
    for words, keep in (([], 0.7), (["--keep", "0.9"], 0.9)):
        assert invoke(first, "-o", "a.html", *words).exit_code == 0
        assert f'"keep":{keep},' in (in_an_empty_folder / "a.html").read_text(encoding="utf-8")


def test_of_several_targets_the_largest_counts_and_of_none_the_usual_one(tmp_path: Path) -> None:
    for name, keep in (("a", 0.95), ("b", 0.98)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "target.json").write_text(json.dumps({"keep": keep}), encoding="utf-8")
    assert asked([tmp_path / "a", tmp_path / "b", tmp_path / "none"]) == 0.98
    assert asked([tmp_path / "none", tmp_path / "scores.csv"]) == asked([]) == 0.99


def test_the_command_says_what_is_best_when_it_writes_a_file(first: Path, in_an_empty_folder: Path) -> None:
    result = invoke(first, "-o", "a.html", "--keep", "0.6")
    assert result.stdout == "a.html\n"
    assert result.stderr.splitlines() == [
        "1 model on 2 tasks",
        "highest score: tuned, 64 x float32, 256 bytes, 70.00",
        (
            "fewest bytes that keep 60 % of a model's own full score: tuned, 16 x float32, 64 bytes, 49.00"
            " (a point estimate)"
        ),
    ]


def test_few_items_are_pointed_out_below_the_table(tmp_path: Path) -> None:
    results = MadeUpSweep(tmp_path).curve({64: queries(0.6, 20)}).results()
    for kind in ("terminal", "markdown"):
        assert write_leaderboard(results, kind).endswith(f"\n\n{results.caution()}\n")
    assert "Few items" not in write_leaderboard(results, "csv")
    assert "Few items (Search: 20 queries)" in write_leaderboard(results, "html")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["nothing at nowhere", "mrl-text eval"]),
        (["FIRST", "-o", "board.xlsx"], ["not 'xlsx'", "csv"]),
        (["FIRST", "--keep", "99"], ["99", "share of the full score"]),
        (["FIRST", "-o", "a.html", "--reference", "p.csv"], ["no data file at p.csv"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], words: list[str], first: Path, in_an_empty_folder: Path
) -> None:
    result = invoke(*(first if argument == "FIRST" else argument for argument in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words)
    assert list(in_an_empty_folder.iterdir()) == []
