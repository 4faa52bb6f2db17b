"""What is typed is looked at before anything heavy is imported, and every command does it the same way."""

from __future__ import annotations

import inspect
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from typer.testing import CliRunner

from mrl_text.cli import app
from tests.conftest import invoke

pytestmark = pytest.mark.usefixtures("command_line")

MISSING = """
encode nope.jsonl -m m -o out
encode texts.txt -m ./nope -o out
index build nope.csv.gz -m m -o out
index push out nope.parquet -m m
index push out nope
index tune nope --queries texts.txt
index tune index --queries nope.txt
index tune index --queries texts.txt --qrels nope.tsv
index figure nope --queries texts.txt -o out
search nope cat
search index --queries nope.jsonl
search index cat --model ./nope
classify m nope.csv -o out
classify m labels.csv --test nope.csv -o out
classify ./nope labels.csv -o out
label nope texts.txt
label classifier nope.csv
adapt m --texts nope.txt -o out
adapt ./nope --texts texts.txt -o out
adapt --embeddings nope.npy -o out.npy
adapt m --texts texts.txt --method linear --pairs nope.csv -o out
eval ./nope --data labels.csv
eval m --data nope.csv
eval m --data nope
eval m --data labels.csv --pca-texts nope.txt
eval m --data labels.csv --reference nope.csv
eval m --data labels.csv --precisions nope
eval m --data labels.csv --controls nope
eval m --tasks STSBenchmark --mirror nope
leaderboard nope
leaderboard index --reference nope.csv -o x.html
paper m --data nope.csv
paper m --data labels.csv --train nope.txt
paper m --data labels.csv --search nope.json
paper m --data labels.csv --classification nope.json
paper m --data labels.csv --base ./nope
paper m --data labels.csv --columns text=nope
serve ./nope
push ./nope me/model
train nope.yaml
encode labels.csv -m m -o out --text-column nope
encode labels.csv -m m -o out --keep nope
classify m labels.csv -o out --label-column nope
adapt m --texts labels.csv --text-column nope -o out
eval m --data no-pairs-nope.csv
eval m --data labels.csv --columns text=nope
label classifier labels.csv --text-column nope
""".strip().splitlines()

PROGRAM = """
import json, shlex, sys
from typer.testing import CliRunner
from mrl_text.cli import app
for command in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, shlex.split(command))
    heavy = {"torch", "transformers", "mteb", "datasets", "faiss", "pandas", "sklearn", "matplotlib"} & set(sys.modules)
    print(json.dumps([result.exit_code, result.stderr, sorted(heavy)]))
"""


@pytest.fixture
def files(tmp_path: Path) -> None:
    """What the commands name beside the thing that is not there."""
    for name in ("m", "index", "classifier"):
        (tmp_path / name).mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "texts.txt").write_text("a cat\n")
    (tmp_path / "no-pairs-nope.csv").write_text("question,answer\na cat?,a dog\n")
    (tmp_path / "nope-ids.tsv").write_text("query-id\tcorpus-id\tscore\n0\tnope\t1\n")
    np.save(tmp_path / "two.npy", np.eye(2, dtype=np.float32))
    (tmp_path / "labels.csv").write_text("text,label\na cat,1\na dog,1\nthe car,2\na train,2\n")


def ran(commands: list[str]) -> Iterator[tuple[str, str]]:
    """Each command, which must fail without a heavy import, and what it said."""
    arguments = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    for command, line in zip(commands, done.stdout.splitlines(), strict=True):
        code, said, heavy = json.loads(line)
        assert (code, heavy) == (2, []), command
        yield command, said


@pytest.mark.slow
@pytest.mark.usefixtures("files")
def test_what_is_not_there_is_noticed_before_anything_heavy_is_imported() -> None:
    for command, said in ran(MISSING):
        assert said.startswith("error: ") and "nope" in said, command
        assert len(said.strip().splitlines()) == 1, command


@pytest.mark.slow
@pytest.mark.usefixtures("files")
def test_ids_that_are_not_there_are_noticed_before_anything_heavy_is_imported() -> None:
    [(_, said)] = ran(["eval --vectors two.npy --queries two.npy --qrels nope-ids.tsv"])
    assert said.splitlines()[-1].startswith("error: ") and "'nope' is not in two.npy" in said


def options() -> Iterator[tuple[str, str, Any]]:
    """Every command with each of its options and the type of that."""
    from typer.main import get_command

    pending: list[tuple[tuple[str, ...], Any]] = [((), get_command(app))]
    while pending:
        names, command = pending.pop()
        pending += [((*names, name), inner) for name, inner in getattr(command, "commands", {}).items()]
        types = get_type_hints(inspect.unwrap(command.callback)) if command.callback else {}
        yield from ((" ".join(names), option.opts[0], types.get(option.name)) for option in command.params)


FLOATS = [(command, option) for command, option, type_ in options() if float in (type_, *get_args(type_))]
NEEDED = {
    "encode": "texts.txt -o out --model m",
    "eval": "m --data labels.csv",
    "leaderboard": "index",
    "classify": "m labels.csv -o out",
    "index tune": "index --queries texts.txt",
    "serve": "m",
}


def test_the_commands_have_options_that_are_floats() -> None:
    assert {name for name, _ in FLOATS} == set(NEEDED)
    assert len(FLOATS) >= 9


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(("command", "option"), FLOATS)
def test_a_number_is_a_number(command: str, option: str, value: str) -> None:
    result = invoke(*shlex.split(f"{command} {NEEDED[command]} {option}={value}"))
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert option in line and value in line


def test_standard_input_is_a_corpus(tiny_bert: Path, tmp_path: Path) -> None:
    rows = '{"id": "a", "text": "a cat"}\n{"id": "b", "text": 5}\n{"id": "c", "text": "a dog"}\n'
    arguments = ["encode", "-", "-o", "out", "-m", str(tiny_bert), "--dtype", "float32"]
    done = CliRunner().invoke(app, arguments, input=rows)
    assert done.exit_code == 0, done.output
    assert "2 rows (3 read now)" in done.stdout
    assert "stdin.jsonl, row 2: text is 5, not text" in done.stderr
    assert not list((tmp_path / "cache" / "stdin").iterdir())
    again = CliRunner().invoke(app, arguments, input=rows)  # the same rows: nothing is left to do
    assert "2 rows (0 read now)" in again.stdout
    other = CliRunner().invoke(app, arguments, input=rows + rows)
    assert other.exit_code == 2
    assert "the inputs are" in other.stderr


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("classify m labels.csv -o out --keep 0.9 --expected-dims 8", "--expected-dims stands in place of --keep"),
        ("adapt --embeddings texts.txt -o out.npy --batch-size 8", "--embeddings needs no --batch-size"),
        ("adapt --embeddings texts.txt -o out.npy --trust-remote-code", "--embeddings needs no --trust-remote-code"),
        ("leaderboard index -o x.html --format csv", "--format csv and the ending of x.html disagree"),
        ("index push out m --kind flat", "--kind is for --plan-dim: give --plan-dim too"),
        ("paper m --data labels.csv --train-limit 9", "--train-limit is for --train"),
        ("eval m --data labels.csv --controls base --pca-texts texts.txt", "--pca-texts is for the control pca"),
        ("eval m --data labels.csv --subsets en", "--subsets is for mteb tasks, and none is evaluated"),
        ("index push out m --plan-dim 8 --kind flat --effort 9", "--effort is for hnsw and ivf"),
        ("search index", "give what to look for"),
        ("search index cat --queries texts.txt", "one of the two"),
        ("search index cat -o out.csv", "--output is for --queries: give --queries too"),
        ("search index cat --format csv", "--format is for --queries"),
        ("search index --queries texts.txt --explain", "--explain is for query"),
        ("search index --queries texts.txt --json", "--json is for query"),
        ("search index --queries texts.txt -o out.xml", "results are written to .jsonl, .csv, .trec, .run"),
        ("label classifier texts.txt -o out.xml", "labels are written to .csv, .jsonl"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(command: str, words: str) -> None:
    result = invoke(*shlex.split(command))
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert words in line
