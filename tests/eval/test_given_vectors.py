"""Vectors without a model: the same scores as of the model that made them, and as plain numpy finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from mrl_text import MatryoshkaEncoder
from mrl_text.codes import Codec
from mrl_text.eval import sweep
from mrl_text.eval.given_vectors import read_vector_task
from tests.conftest import WORDS, invoke

WIDTH, DOCUMENTS, QUERIES = 32, 60, 12


def made_up(noise: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Documents, and queries near the first of them, in lengths of all kinds."""
    generator = np.random.default_rng(0)
    documents = generator.normal(size=(DOCUMENTS, WIDTH)) * np.linspace(2, 0.5, WIDTH)
    queries = documents[:QUERIES] + noise * generator.normal(size=(QUERIES, WIDTH)) * np.linspace(2, 0.5, WIDTH)
    return (documents * generator.uniform(1, 9, (DOCUMENTS, 1))).astype(np.float32), queries.astype(np.float32)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Both as .npy and as tables with ids, and judgements about either."""
    documents, queries = made_up()
    for name, rows in (("corpus", documents), ("asked", queries)):
        np.save(tmp_path / f"{name}.npy", rows)
        column = pa.FixedSizeListArray.from_arrays(rows.reshape(-1), WIDTH)
        order = np.random.default_rng(3).permutation(len(rows))
        table = pa.table({"_id": [f"{name[0]}{row}" for row in range(len(rows))], "v": column}).take(order)
        parquet.write_table(table, tmp_path / f"{name}.parquet")
        feather.write_feather(table, str(tmp_path / f"{name}.arrow"), compression="uncompressed")
    judged = [(row, row, 1) for row in range(QUERIES - 1)] + [(0, 30, 2)]  # nobody judged the last
    for name, letters in (("rows", ("", "")), ("ids", ("a", "c"))):
        lines = [f"{letters[0]}{query}\t{letters[1]}{document}\t{grade}" for query, document, grade in judged]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    return {file.name: file for file in tmp_path.iterdir()}


def ndcg_at_10(scores: np.ndarray) -> float:
    """Of the judgements above, linear gain, in float64."""
    found = []
    for query, row in enumerate(scores[: QUERIES - 1].astype(np.float64)):
        grades = {query: 1, **({30: 2} if query == 0 else {})}
        best = np.argsort(-row, kind="stable")[:10]
        ideal = sum(grade / np.log2(2 + rank) for rank, grade in enumerate(sorted(grades.values(), reverse=True)))
        found.append(sum(grades.get(int(one), 0) / np.log2(2 + rank) for rank, one in enumerate(best)) / ideal)
    return float(np.mean(found))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.slow
def test_every_cell_is_what_numpy_finds(files: dict[str, Path], tmp_path: Path) -> None:
    documents, queries = (unit(part) for part in made_up())
    source, task = read_vector_task(files["corpus.npy"], files["asked.npy"], files["rows.tsv"])
    assert (source.name, source.width, task.relevant["0"]) == ("local/corpus", WIDTH, {"0": 1, "30": 2})
    chosen = {"dims": [8, 16], "controls": ["pca", "rabitq"], "precisions": ["float32", "int2", "binary"]}
    result = sweep([source], read=[task], output=tmp_path / "out", **chosen)  # type: ignore[arg-type]
    own = result.scores[result.scores["method"] == "truncation"].set_index(["dim", "precision"])["score"]
    assert sorted(own.index) == sorted((dim, word) for dim in (8, 16, 32) for word in ("float32", "int2", "binary"))
    codec = Codec.fit(documents)
    for dim in (8, 16, 32):
        asked = unit(queries[:, :dim])
        assert own[dim, "float32"] == pytest.approx(ndcg_at_10(asked @ unit(documents[:, :dim]).T), abs=1e-5)
        for word in ("int2", "binary"):
            scores = codec.scores(queries, codec.encode(documents, dim, word), dim, word)  # type: ignore[arg-type]
            assert own[dim, word] == pytest.approx(ndcg_at_10(scores), abs=1e-5)
    curves = result.compare("rows", result.lines[0], 8, result.lines[0], 32)
    assert (curves.n, result.encoded) == (QUERIES - 1, {"local/corpus": 0})
    assert curves.low <= curves.mean <= curves.high


@pytest.mark.slow
def test_row_numbers_and_ids_of_any_file_are_one_task(files: dict[str, Path], tmp_path: Path) -> None:
    scores = {}
    for ending, judged in (("npy", "rows"), ("parquet", "ids"), ("arrow", "ids")):
        given = read_vector_task(files[f"corpus.{ending}"], files[f"asked.{ending}"], files[f"{judged}.tsv"])
        result = sweep(given[:1], read=given[1:], output=tmp_path / ending, dims=[8], controls=[], precisions=["int4"])
        scores[ending] = result.scores["score"].tolist()
        if ending != "npy":
            assert set(given[1].tables["queries"]["id"]) == {f"a{row}" for row in range(QUERIES - 1)}
    assert scores["npy"] == scores["parquet"] == scores["arrow"]
    first, second = (
        read_vector_task(files[f"corpus.{ending}"], files[f"asked.{ending}"], files["ids.tsv"])
        for ending in ("parquet", "arrow")
    )
    assert first[1].revision == second[1].revision
    np.save(files["corpus.npy"], 2 * made_up()[0])
    other, task = read_vector_task(files["corpus.npy"], files["asked.npy"], files["rows.tsv"])
    assert other.revision != first[0].revision and task.revision != first[1].revision


@pytest.mark.slow
@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_folders_that_encode_wrote_are_vectors_with_ids(tmp_path: Path, tiny_bert: Path, format: str) -> None:
    texts = {"corpus": [f"a {word} cat" for word in WORDS[:40]], "asked": [f"the {word} cat" for word in WORDS[:9]]}
    for name, rows in texts.items():
        lines = [json.dumps({"_id": f"{name[0]}{row}", "text": text}) for row, text in enumerate(rows)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        told = f"encode {tmp_path / name}.jsonl -o {tmp_path / name} --model {tiny_bert} --format {format} --dims 8,32"
        told += " --dtype float32"
        assert invoke(*told.split()).exit_code == 0
    judged = "".join(f"a{row}\tc{row}\t1\n" for row in range(9))
    (tmp_path / "judged.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    source, task = read_vector_task(tmp_path / "corpus", tmp_path / "asked", tmp_path / "judged.tsv")
    expected = MatryoshkaEncoder(str(tiny_bert), device="cpu").encode(texts["corpus"])
    np.testing.assert_allclose(source.documents, expected, atol=1e-5)
    assert task.tables["corpus"]["id"] == [f"c{row}" for row in range(40)]
    assert task.relevant["a3"] == {"c3": 1}


@pytest.mark.slow
def test_a_second_model_is_compared_on_the_same_queries(files: dict[str, Path], tmp_path: Path) -> None:
    """Two providers share an output folder, and the command does the whole of it."""
    other = files["corpus.npy"].parent / "other.npy"
    np.save(other, made_up()[0] + np.random.default_rng(5).normal(size=(DOCUMENTS, WIDTH)) * 8)
    for name in (files["corpus.npy"], other):
        told = (
            f"eval --vectors {name} --queries {files['asked.npy']} --qrels {files['rows.tsv']} --dims 8,16 --rescore 1"
        )
        answer = invoke(*f"{told} --controls rabitq --precisions float32,binary -o {tmp_path / 'out'}".split())
        assert answer.exit_code == 0, answer.output
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert set(table["rescore"]) == {0, 1}
    full = table[(table["bytes"] == 4 * WIDTH) & (table["rescore"] == 0)].set_index("model")["score"]
    assert full["local/corpus"] > full["local/other"]
    assert table["data"].nunique() == 1
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.slow
def test_json_is_all_that_is_printed_and_says_what_the_files_say(files: dict[str, Path], tmp_path: Path) -> None:
    asked = f"--queries {files['asked.npy']} --qrels {files['rows.tsv']} --controls none -o {tmp_path / 'out'} --json"
    answer = invoke(*f"eval --vectors {files['corpus.npy']} --dims 8,16 --precisions float32,int8 {asked}".split())
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    table = pd.read_csv(tmp_path / "out" / "scores.csv").set_index(["dim", "precision"])["score"]
    told = {(cell["dim"], cell["precision"]): cell["overall"]["score"] for cell in found["cells"]}
    assert told == pytest.approx(table.to_dict(), abs=1e-5)  # mteb rounds
    assert len(told) == 6
    overall = next(one for one in found["recommendations"] if one["scope"] == "overall")
    assert (overall["dim"], overall["precision"]) in told
    assert all(Path(file).is_file() for file in found["files"])


def test_rows_that_are_numbered_from_one_are_noticed(
    files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["query-id\tcorpus-id\tscore", *(f"{row}\t{row + 1}\t1" for row in range(5))]
    judged = tmp_path / "judged.tsv"
    for last, words in ((DOCUMENTS - 1, "names row 0 of corpus.npy: are its rows numbered from 1"), (7, "")):
        caplog.clear()
        judged.write_text("\n".join([*lines, f"0\t{last}\t1"]))
        read_vector_task(files["corpus.npy"], files["asked.npy"], judged)
        told = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert len(told) == bool(words)
        assert words in "".join(told).replace(str(files["corpus.npy"].parent) + "/", "")
    judged.write_text("\n".join([*lines, f"0\t{DOCUMENTS}\t1", f"1\t{DOCUMENTS}\t1"]))
    advice = "rows of corpus.npy and asked.npy are numbered from 0: give ids in a column _id of Parquet"
    with pytest.raises(ValueError, match=f"is not in corpus.npy; .* is not in corpus.npy; {advice}$"):
        read_vector_task(files["corpus.npy"], files["asked.npy"], judged)


def test_what_is_wrong_is_named(files: dict[str, Path]) -> None:
    whole = made_up()[0]
    for damaged, words in (
        (np.where(np.arange(DOCUMENTS)[:, None] == 5, np.nan, whole), "position 5 is zero or not finite"),
        (np.zeros((0, WIDTH)), "shape .0, 32."),
        (whole[0], "shape .32,."),
        (whole[:, :30], "of 30 numbers, .*asked.npy of 32"),
        (whole[:20], "corpus-id '30' is not in corpus.npy"),
    ):
        np.save(files["corpus.npy"], damaged)
        with pytest.raises(ValueError, match=words):
            read_vector_task(files["corpus.npy"], files["asked.npy"], files["rows.tsv"])
