"""Every command refuses what it cannot use: one line, before it computes, and nothing is written.

``bad_inputs.txt`` is the table: a command, ``=>``, and what its line must say, separated by ``|``: the value that was
given, what is allowed or the fix.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import WORDS, invoke

TABLE = [
    line.split(" => ")
    for line in (Path(__file__).parent / "bad_inputs.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
COMPUTE = ("Encoding:", "Training:", "Evaluating:", "Pushing:", "Fitting:")  # progress bars

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with models, tables, corpora and results, good and bad."""
    folder = tmp_path_factory.mktemp("bad") / "home"
    folder.mkdir()
    _models(folder, tiny_bert)
    _tables(folder)
    _beir(folder)
    _others(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (
            "index build texts.txt -o index --model model",
            "encode texts.txt -o encoded --model model",
            "classify model labels.csv -o classifier",
            "eval model --data labels.csv -o evaluated --controls none --cache none --dims 8,32",
            "train recipe.yaml -o run",
        ):
            result = invoke(*shlex.split(command))
            assert result.exit_code == 0, result.output
    yield folder


@pytest.mark.parametrize(("command", "says"), TABLE, ids=[command for command, _ in TABLE])
def test_the_line_names_the_value_and_the_fix(
    command: str, says: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(logging.root, "handlers", [])  # each command begins with none
    monkeypatch.setattr("mrl_text.library_logging.quiet_libraries", lambda: None)
    before = _files(home)
    result = invoke(*shlex.split(command))
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    *notes, line = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert not [note for note in notes if note.startswith("error: ") or any(bar in note for bar in COMPUTE)]
    for word in says.split(" | "):
        assert word in line
    after = _files(home)
    made = after.keys() - before.keys()
    for name in {name.partition("/")[0] for name in made} - {name.partition("/")[0] for name in before}:
        shutil.rmtree(home / name)  # and the next row finds what it should
    assert not made
    assert after == before


def test_the_table_has_every_command() -> None:
    from typer.main import get_command

    from mrl_text.cli import app

    typed = {tuple(shlex.split(command)[:2]) for command, _ in TABLE}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        missing = {(name, one) for one in inner} - typed if inner else {name} - {first for first, *_ in typed}
        assert missing <= {("recipes", "list")}  # it takes nothing
    assert len(TABLE) == len({command for command, _ in TABLE}) > 300


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and time; locks and empty folders say nothing and hold nothing."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            if not name.endswith(".lock"):
                path = f"{place}/{name}"
                stat = os.stat(path)  # noqa: PTH116  # thousands of times
                found[path.removeprefix(f"{folder}/")] = stat.st_size, stat.st_mtime_ns
    return found


def _models(folder: Path, tiny_bert: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny_bert, folder / name))

    copy("model")
    weights = copy("cut-weights") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    (copy("no-weights") / "model.safetensors").unlink()
    (copy("bad-config") / "config.json").write_text('{"model_type": "bert", ')
    for file in copy("no-tokenizer").iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    weights = copy("nan-weights") / "model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values()))[:] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    (folder / "empty-folder").mkdir()


def _tables(folder: Path) -> None:
    rows = [
        (f"{WORDS[i % 40]} {WORDS[(3 * i + 1) % 40]}", f"the {WORDS[i % 40]} {WORDS[(5 * i + 2) % 40]} is", i % 4)
        for i in range(64)
    ]

    def csv(name: str, header: str, cells: list[tuple[object, ...]], separator: str = ",") -> None:
        (folder / name).write_text("\n".join([header, *(separator.join(map(str, cell)) for cell in cells)]) + "\n")

    csv("pairs.csv", "anchor,positive", [row[:2] for row in rows])
    csv("one-pair.csv", "anchor,positive", [rows[0][:2]])
    csv("labels.csv", "text,label", [(row[0], row[2]) for row in rows])
    csv("one-label.csv", "text,label", [(row[0], "x") for row in rows])
    csv("scored.csv", "sentence1,sentence2,score", [(*row[:2], i / 64) for i, row in enumerate(rows)])
    csv("words-for-scores.csv", "sentence1,sentence2,score", [(*row[:2], "good") for row in rows])
    csv("header.csv", "text,label", [])
    csv("other.csv", "headline,kind", [(row[0], row[2]) for row in rows])
    figures = (("x", 60, "https://a.org"), (8, 60, "a card"), (8, 400, "https://a.org"))
    wrong: list[tuple[object, ...]] = [("a/b", 32, dim, "T", "STS", "pearson", *rest) for dim, *rest in figures]
    csv("figures.csv", "model,width,dim,task,type,metric,main_score_x100,source", wrong)
    csv("semicolon.csv", "text;label", [(row[0], row[2]) for row in rows], ";")
    (folder / "latin.csv").write_bytes("text,label\ncafé,1\n".encode("latin-1"))
    (folder / "texts.txt").write_text("\n".join(row[0] for row in rows))
    for name, content in {
        "one.txt": "a cat\n",
        "empty.txt": "",
        "empty.csv": "",
        "blank.txt": "\n\n \n",
        "broken.jsonl": '{"text": "a cat"}\n{"text": \n',
        "list.json": "[1, 2]",
        "broken.parquet": "PAR1nothing",
        "word.docx": "PK",
        "no-text.jsonl": '{"n": 1}\n{"n": 2}\n',
    }.items():
        (folder / name).write_text(content)


def _beir(folder: Path) -> None:
    def copy(name: str) -> Path:
        copied = folder / name
        (copied / "qrels").mkdir(parents=True)
        texts = {f"d{i}": f"the {word} is {WORDS[-i]}" for i, word in enumerate(WORDS)}
        documents = [json.dumps({"_id": id_, "title": "", "text": text}) for id_, text in texts.items()]
        (copied / "corpus.jsonl").write_text("\n".join(documents))
        queries = [json.dumps({"_id": f"q{i}", "text": WORDS[i]}) for i in range(9)]
        (copied / "queries.jsonl").write_text("\n".join(queries))
        judged = [f"q{i}\td{i}\t1" for i in range(9)]
        (copied / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
        return copied

    copy("beir")
    shutil.rmtree(copy("beir-no-qrels") / "qrels")
    (copy("beir-no-queries") / "queries.jsonl").unlink()
    (copy("beir-other-ids") / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nx\ty\t1\n")
    (copy("beir-bad-grade") / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\tgood\n")


def _others(folder: Path) -> None:
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32))
    np.save(folder / "words.npy", np.array(["a", "b"]))
    np.save(folder / "queries.npy", np.random.default_rng(1).normal(size=(9, 32)))
    np.save(folder / "narrow.npy", np.random.default_rng(1).normal(size=(9, 16)))
    np.save(folder / "coded.npy", np.ones((50, 4), np.uint8))
    np.save(folder / "zero.npy", np.where(np.arange(50)[:, None] == 7, 0.0, np.ones((50, 32))))
    for name, document in (("judged.tsv", 3), ("judged-others.tsv", 99)):
        (folder / name).write_text(f"query-id\tcorpus-id\tscore\n0\t{document}\t1\n")
    (folder / "cut.npy").write_bytes((folder / "vectors.npy").read_bytes()[:300])
    (folder / "references.csv").write_text("model,dim,task,score\nm,32,T,0.5\n")
    (folder / "bad-references.csv").write_text("model,score\nm,0.5\n")
    (folder / "recipe.yaml").write_text(
        "model: {name: model}\ndata: {train: [{source: pairs.csv}], validation: [{source: pairs.csv}]}\n"
        "loss: {dims: [8, 32]}\ntraining: {max_steps: 2, per_device_train_batch_size: 8}\n"
    )
    for name, content in {"bad.yaml": "model: {name: model\n", "list.yaml": "- a\n", "empty.yaml": ""}.items():
        (folder / name).write_text(content)
