"""Files to folders of vectors: rows, policies, resumption, errors."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from filelock import FileLock
from pyarrow import parquet
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings

import mrl_text.encoding.run as run_module
from mrl_text import MatryoshkaEncoder, streaming
from mrl_text.codes import Codec, FewBits
from mrl_text.encoding import encode_files, open_encoded
from mrl_text.encoding.folder import read_embeddings
from mrl_text.encoding.job import Reader, Segment
from mrl_text.tables.corpus import CorpusFile, open_corpus
from mrl_text.truncation import Precision
from tests.conftest import invoke
from tests.encoding.conftest import sentences

_CODEC_WORDS: dict[str, FewBits] = {"int4": "int4", "int2": "int2", "ubinary": "binary"}
ALL: tuple[Precision, ...] = ("float32", "float16", "int8", "uint8", "binary", "ubinary")


def encode(corpus: Path, output: Path, tiny_bert: Path, **options: Any) -> Any:
    return encode_files([corpus], output, model=str(tiny_bert), **{"shard_rows": 64, "dtype": "float32", **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def vectors(folder: Path, dim: int | None = None, precision: Precision = "float32") -> np.ndarray:
    return np.concatenate([batch.vectors for batch in open_encoded(folder).batches(dim, precision)])


def ids(folder: Path, precision: Precision = "float32") -> list[str]:
    return list(itertools.chain.from_iterable(batch.ids for batch in open_encoded(folder).batches(None, precision)))


def test_rows_columns_and_problems(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    report = encode(corpus, tmp_path / "out", tiny_bert, keep=["text", "lang", "pages"])
    lines = corpus.read_text(encoding="utf-8").splitlines()
    good = [row for number, line in enumerate(lines) if number not in (17, 33, 50) for row in [json.loads(line)]]
    assert (report.rows, report.encoded, report.left_out, report.cut, report.misfits) == (297, 300, 3, 1, 0)
    folder = open_encoded(tmp_path / "out")
    batches = list(folder.batches())
    assert [name for batch in batches for name in batch.ids] == [row["id"] for row in good]
    assert [text for batch in batches for text in batch.texts or []] == [row["text"].strip() for row in good]
    assert [cell for batch in batches for cell in batch.columns["lang"]] == [row.get("lang") for row in good]
    # of mixed type within the first thousand rows: stored as text
    assert [cell for batch in batches for cell in batch.columns["pages"]] == [str(row["pages"]) for row in good]
    expected = MatryoshkaEncoder(str(tiny_bert), device="cpu").encode([row["text"] for row in good])
    np.testing.assert_allclose(vectors(tmp_path / "out"), expected, atol=1e-5)
    problems = [json.loads(line) for line in (tmp_path / "out/problems.jsonl").read_text().splitlines()]
    assert [(problem["row"], problem["kind"]) for problem in problems] == [
        (18, "left out"),
        (34, "left out"),
        (51, "left out"),
        (60, "cut"),
    ]


def test_codes_alone_and_a_repeated_id_are_no_vectors_of_a_provider(tiny_bert: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("id,text\na,a cat\nb,a dog\na,the cat\n")
    encode(rows, tmp_path / "coded", tiny_bert, precisions=["int8"])
    with pytest.raises(ValueError, match=r"holds codes alone \(int8\): encode with --precision float32, too"):
        read_embeddings(tmp_path / "coded")
    encode(rows, tmp_path / "half", tiny_bert, precisions=["float16", "int8"])
    found, named = read_embeddings(tmp_path / "half")
    assert (found.dtype, found.shape, named) == (np.float16, (3, 32), None)
    with pytest.raises(ValueError, match="row 3: the id 'a' is that of row 1: each needs its own"):
        read_embeddings(tmp_path / "half", ["id"])


@pytest.mark.slow
def test_several_sizes_and_precisions_equal_single_ones(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    encode(corpus, tmp_path / "all", tiny_bert, dims=[8, 32], precisions=ALL)
    full = vectors(tmp_path / "all", 32)
    extremes = np.stack([full.min(0), full.max(0)])  # of all shards: fewer texts than ranges look at
    np.testing.assert_allclose(open_encoded(tmp_path / "all").ranges(32), extremes, atol=1e-5)
    for dim in (8, 32):
        folder = tmp_path / f"{dim}"
        encode(corpus, folder, tiny_bert, dims=[dim], precisions=["int8"])
        np.testing.assert_array_equal(vectors(folder, dim, "int8"), vectors(tmp_path / "all", dim, "int8"))
        cut = full[:, :dim] / np.linalg.norm(full[:, :dim].astype(np.float64), axis=1, keepdims=True)
        np.testing.assert_allclose(vectors(tmp_path / "all", dim), cut, atol=1e-6)
        stored = vectors(tmp_path / "all", dim)
        ranges = open_encoded(tmp_path / "all").ranges(dim)
        for precision in ("int8", "uint8", "binary", "ubinary"):
            expected = quantize_embeddings(stored, precision=precision, ranges=ranges)
            np.testing.assert_array_equal(vectors(tmp_path / "all", dim, precision), expected)
        np.testing.assert_array_equal(vectors(tmp_path / "all", dim, "float16"), stored.astype(np.float16))
    schema = parquet.read_schema(tmp_path / "all/shards/00000.parquet")
    assert schema.field("embedding_8").type.list_size == 8
    assert schema.field("embedding_8_binary").type.list_size == 1


@pytest.mark.slow
def test_npy_equals_parquet(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    options = {"dims": [8, 32], "precisions": ["float32", "binary"], "keep": ["text", "lang"]}
    encode(corpus, tmp_path / "parquet", tiny_bert, **options)
    encode(corpus, tmp_path / "npy", tiny_bert, format="npy", **options)
    for dim in (8, 32):
        for precision in ("float32", "binary"):
            expected = vectors(tmp_path / "parquet", dim, precision)
            np.testing.assert_array_equal(vectors(tmp_path / "npy", dim, precision), expected)
    mapped = np.load(tmp_path / "npy/embedding_8_binary.npy", mmap_mode="r")
    np.testing.assert_array_equal(mapped, vectors(tmp_path / "parquet", 8, "binary"))
    assert ids(tmp_path / "npy") == ids(tmp_path / "parquet")
    langs = [
        [cell for batch in open_encoded(tmp_path / name).batches() for cell in batch.columns["lang"]]
        for name in ("parquet", "npy")
    ]
    assert langs[0] == langs[1]
    for name in ("embedding_8.npy", "embedding_8_binary.npy"):
        plain = io.BytesIO()
        np.save(plain, vectors(tmp_path / "parquet", 8, "binary" if "binary" in name else "float32"))
        assert (tmp_path / "npy" / name).read_bytes() == plain.getvalue()
    assert not (tmp_path / "npy/shards").exists()
    shutil.copytree(tmp_path / "parquet/shards", tmp_path / "npy/shards")  # as if killed before they were removed
    assert encode(corpus, tmp_path / "npy", tiny_bert, format="npy", **options).encoded == 0
    assert not (tmp_path / "npy/shards").exists()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_codes_hold_those_of_fewer_numbers_and_bits(corpus: Path, tiny_bert: Path, tmp_path: Path, form: str) -> None:
    options: dict[str, Any] = {"dims": [8, 32], "format": form, "keep": ["lang"]}
    encode(corpus, tmp_path / "all", tiny_bert, precisions=["float32", "int4", "int2", "ubinary"], **options)
    encode(corpus, tmp_path / "few", tiny_bert, precisions=["int4"], dims=[32])
    full, few, all_of_it = vectors(tmp_path / "all"), open_encoded(tmp_path / "few"), open_encoded(tmp_path / "all")
    codec = Codec.load(tmp_path / "few/codec.json")
    np.testing.assert_allclose(codec.scales, np.sqrt((full.astype(np.float64) ** 2).mean(axis=0)), rtol=1e-5)
    precisions: tuple[Precision, ...] = ("int4", "int2", "ubinary")
    for dim, precision in itertools.product((8, 32), precisions):
        stored = vectors(tmp_path / "all", dim, precision)
        assert stored.dtype == np.uint8
        np.testing.assert_array_equal(stored, codec.encode(full, dim, _CODEC_WORDS[precision]))
        np.testing.assert_array_equal(vectors(tmp_path / "few", dim, precision), stored)
        decoded = codec.decode(stored, dim, _CODEC_WORDS[precision])
        np.testing.assert_allclose(all_of_it.decode(stored, dim, precision), decoded, atol=1e-6)
    np.testing.assert_array_equal(vectors(tmp_path / "few", 12, "int2"), codec.encode(full, 12, "int2"))
    np.testing.assert_array_equal(vectors(tmp_path / "few", 12, "binary"), quantize_embeddings(full[:, :12], "binary"))
    not_held: list[tuple[int, Precision]] = [(33, "int2"), (0, "int4"), (8, "int8"), (8, "float32")]
    for asked in not_held:
        with pytest.raises(ValueError, match="holds no"):
            few.batches(*asked)


def test_a_saved_codec_is_used_and_a_lost_one_is_named(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), device="cpu")
    model.codec = Codec(np.linspace(0.3, 0.1, 32).astype(np.float32))
    model.save(str(tmp_path / "model"))
    encode(corpus, tmp_path / "out", tmp_path / "model", precisions=["float32", "int2"])
    np.testing.assert_array_equal(Codec.load(tmp_path / "out/codec.json").scales, model.codec.scales)
    coded = model.codec.encode(vectors(tmp_path / "out"), 32, "int2")
    np.testing.assert_array_equal(vectors(tmp_path / "out", 32, "int2"), coded)
    (tmp_path / "out/codec.json").write_text("{}")
    with pytest.raises(ValueError, match=r"codec.json is damaged .* encode again into another folder"):
        open_encoded(tmp_path / "out")
    (tmp_path / "out/codec.json").unlink()
    with pytest.raises(ValueError, match=r"codec.json is missing: restore it"):
        open_encoded(tmp_path / "out")


def test_shards_reach_over_files_of_every_type(tiny_bert: Path, tmp_path: Path) -> None:
    texts = sentences(50)
    (tmp_path / "a.txt").write_text("\n".join(texts[:11]) + "\n")
    with (tmp_path / "b.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["body", "text"])
        writer.writerows([["over\ntwo lines", text] for text in texts[11:30]])
    parquet.write_table(pa.table({"text": texts[30:]}), tmp_path / "c.parquet", row_group_size=7)
    inputs = [tmp_path / name for name in ("a.txt", "b.csv", "c.parquet")]
    report = encode_files(inputs, tmp_path / "out", model=str(tiny_bert), shard_rows=16, dtype="float32", keep=["text"])
    assert report.rows == 50
    assert [shard["rows"] for shard in open_encoded(tmp_path / "out").manifest["shards"]] == [16, 16, 16, 2]
    batches = list(open_encoded(tmp_path / "out").batches())
    assert [text for batch in batches for text in batch.texts or []] == texts
    names = [str(number + 1) for number in range(11)]
    names += [f"b.csv:{number + 1}" for number in range(19)] + [f"c.parquet:{number + 1}" for number in range(20)]
    assert ids(tmp_path / "out") == names
    expected = MatryoshkaEncoder(str(tiny_bert), device="cpu").encode(texts)
    np.testing.assert_allclose(vectors(tmp_path / "out"), expected, atol=1e-5)


def test_files_of_one_name_in_several_folders_give_different_ids(tiny_bert: Path, tmp_path: Path) -> None:
    inputs = [tmp_path / name for name in ("x.txt", "a/x.txt", "b/x.txt", "c/b/x.txt", "y.txt")]
    for file in inputs:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a dog\na cat\n")
    for count, name in ((2, "two"), (5, "five")):  # files that are added change no name
        encode_files(inputs[:count], tmp_path / name, model=str(tiny_bert), dtype="float32")
    expected = ["1", "2", "x.txt:1", "x.txt:2", "b/x.txt:1", "b/x.txt:2", "c/b/x.txt:1", "c/b/x.txt:2"]
    assert ids(tmp_path / "five") == [*expected, "y.txt:1", "y.txt:2"]
    assert ids(tmp_path / "two") == expected[:4]


def test_columns_may_be_missing_in_the_first_row(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"text": "a dog"}, {"_id": "d2", "title": "Photosynthesis", "text": "a cat", "lang": "en"}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    encode(tmp_path / "c.jsonl", tmp_path / "out", tiny_bert, keep=["text", "lang"])
    [batch] = open_encoded(tmp_path / "out").batches()
    assert (batch.ids, batch.texts) == (["1", "d2"], ["a dog", "Photosynthesis a cat"])
    assert batch.columns["lang"] == [None, "en"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_segments_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    texts = [f"text {number}" for number in range(3000)]
    file = tmp_path / f"c.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pa.table({"text": texts}), file, row_group_size=1300)
    else:
        lines = [json.dumps({"text": text}) for text in texts] if suffix == "jsonl" else ["text", *texts]
        file.write_text("\n".join(lines))
    opened: list[int] = []
    texts_of = CorpusFile.texts
    monkeypatch.setattr(CorpusFile, "texts", lambda *given: opened.append(given[1]) or texts_of(*given))
    reader = Reader([open_corpus(file)])
    for skip in (0, 100, 1200, 2900, 1250):  # the first, the next, behind a gap, and back
        found = reader.read([Segment(0, skip, 50), Segment(0, skip + 50, 50)])
        assert [(row.number, row.text) for _, row in found] == list(enumerate(texts, 1))[skip : skip + 100]
    assert opened == ([0, 1200, 2900, 1250] if suffix == "parquet" else [0, 1250])
    with pytest.raises(ValueError, match="had more rows"):
        reader.read([Segment(0, 2990, 20)])
    assert [row.number for _, row in reader.read([Segment(0, 2990, 10)])] == list(range(2991, 3001))


def test_an_empty_cell_of_the_only_column_is_a_row(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("text\na cat\n\na dog\n")
    report = encode(tmp_path / "one.csv", tmp_path / "one", tiny_bert)
    assert (report.encoded, ids(tmp_path / "one"), report.problems) == (3, ["1", "3"], ["one.csv, row 2: is blank"])
    (tmp_path / "two.csv").write_text("text,n\na cat,1\n\na dog,2\n")
    assert (encode(tmp_path / "two.csv", tmp_path / "two", tiny_bert).encoded, ids(tmp_path / "two")) == (2, ["1", "2"])


def test_kept_types_and_cells_that_do_not_fit(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [{"text": "a cat", "n": number, "tags": ["a", number]} for number in range(1100)]
    rows[1050]["n"] = "eleven"
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = encode(tmp_path / "c.jsonl", tmp_path / "out", tiny_bert, keep=["n", "tags"])
    assert (report.rows, report.misfits) == (1100, 1)
    assert report.problems == ["c.jsonl, row 1051: has in n 'eleven', no int64: stored as null"]
    cells = [cell for batch in open_encoded(tmp_path / "out").batches() for cell in batch.columns["n"]]
    assert cells == [None if number == 1050 else number for number in range(1100)]
    tags = [cell for batch in open_encoded(tmp_path / "out").batches() for cell in batch.columns["tags"]]
    assert json.loads(tags[7]) == ["a", 7]


def test_failing_policies_name_the_row(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 60 is longer than the model"):
        encode(corpus, tmp_path / "long", tiny_bert, on_long="fail")
    with pytest.raises(ValueError, match=r"corpus.jsonl, row 18 is blank"):
        encode(corpus, tmp_path / "out", tiny_bert, on_error="fail")
    with pytest.raises(ValueError, match="was interrupted"):
        open_encoded(tmp_path / "out")
    assert encode(corpus, tmp_path / "out", tiny_bert).rows == 297  # made up one's mind


@pytest.mark.slow
def test_a_stop_at_a_long_text_can_be_thought_better_of(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    options = {"shard_rows": 25, "precisions": ["float32", "int8"]}
    encode(corpus, tmp_path / "whole", tiny_bert, **options)
    with pytest.raises(ValueError, match="row 60 is longer"):
        encode(corpus, tmp_path / "out", tiny_bert, on_long="fail", **options)
    assert encode(corpus, tmp_path / "out", tiny_bert, on_long="cut", **options).encoded == 250
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_long_texts_left_out(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    report = encode(corpus, tmp_path / "out", tiny_bert, on_long="skip")
    assert (report.rows, report.left_out, report.cut) == (296, 4, 0)
    assert "d60" not in ids(tmp_path / "out")


@pytest.mark.slow
def test_a_long_text_is_shortened_before_it_is_tokenised(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(sentences(3000))
    (tmp_path / "c.txt").write_text(f"a cat\n{text}\n")
    tokenise, lengths = streaming.token_batches, []

    def spy(model: Any, texts: list[str], *more: Any) -> Any:
        lengths.extend(map(len, texts))
        return tokenise(model, texts, *more)

    monkeypatch.setattr(streaming, "token_batches", spy)
    read = Reader.read
    held: list[int] = []

    def hold(self: Reader, segments: Any) -> Any:
        rows = read(self, segments)
        held.append(max(len(row.text) for _, row in rows))
        return rows

    monkeypatch.setattr(Reader, "read", hold)
    expected = SentenceTransformer(str(tiny_bert)).encode(["a cat", text], normalize_embeddings=True)
    for name, keep in (("plain", []), ("kept", ["text"])):
        report = encode(tmp_path / "c.txt", tmp_path / name, tiny_bert, keep=keep)
        assert (report.rows, report.cut) == (2, 1)
        np.testing.assert_allclose(vectors(tmp_path / name), expected, atol=1e-5)
    [batch] = open_encoded(tmp_path / "kept").batches()
    assert batch.texts == ["a cat", text]
    assert max(*lengths, held[0]) < 2000 < len(text) == held[1]  # nothing longer is held, unless it is kept


def test_rows_without_a_direction_are_left_out(tiny_bert: Path, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = MatryoshkaEncoder(str(tiny_bert)).tokenizer
    MatryoshkaEncoder(modules=[StaticEmbedding(tokenizer, np.eye(55, 16, -6, dtype=np.float32))]).save(
        str(tmp_path / "static")
    )
    (tmp_path / "c.txt").write_text("the cat\na\nthe cat\n")  # the vector of "a" is zero
    report = encode(tmp_path / "c.txt", tmp_path / "out", tmp_path / "static")
    assert ids(tmp_path / "out") == ["1", "3"]
    assert report.problems == ["c.txt, row 2: got a vector from the model that is zero or not finite"]
    weights = np.eye(55, 16, -6, dtype=np.float32)
    weights[5] = 3e38  # "a", whose length overflows
    MatryoshkaEncoder(modules=[StaticEmbedding(tokenizer, weights)]).save(str(tmp_path / "broken"))
    encode(tmp_path / "c.txt", tmp_path / "int8", tmp_path / "broken", precisions=["int8"])
    assert ids(tmp_path / "int8", "int8") == ["1", "3"]
    assert np.isfinite(open_encoded(tmp_path / "int8").ranges(16)).all()
    with pytest.raises(ValueError, match="none of the first 1 texts got a usable vector"):
        (tmp_path / "d.txt").write_text("a\n")
        encode(tmp_path / "d.txt", tmp_path / "none", tmp_path / "broken", precisions=["int8"])


def test_all_rows_bad(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": ""}\n{"text": 1}\n\n')
    for form in ("parquet", "npy"):
        report = encode(tmp_path / "c.jsonl", tmp_path / form, tiny_bert, format=form, precisions=["float32", "int8"])
        assert (report.rows, report.left_out) == (0, 3)
        assert sum(len(batch.ids) for batch in open_encoded(tmp_path / form).batches()) == 0


@pytest.mark.slow
def test_goes_on_where_it_was(corpus: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"dims": [8, 32], "precisions": ["float32", "int8"], "keep": ["text", "pages"]}
    encode(corpus, tmp_path / "whole", tiny_bert, **options)
    write = run_module.write_atomically

    def stop_at_the_third(path: Path, content: bytes) -> None:
        if path.name == "00002.parquet":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(run_module, "write_atomically", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        encode(corpus, tmp_path / "out", tiny_bert, **options)
    monkeypatch.undo()
    (tmp_path / "out/shards/.00002.parquet.left").write_bytes(b"half")
    (tmp_path / "out/.manifest.json.left").write_bytes(b"half")
    report = encode(corpus, tmp_path / "out", tiny_bert, **options)
    assert report.encoded == 300 - 2 * 64
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    (tmp_path / "out/shards/00001.parquet").unlink()
    (tmp_path / "out/manifest.json").write_text(
        (tmp_path / "out/manifest.json").read_text().replace('"complete": true', '"complete": false')
    )
    assert encode(corpus, tmp_path / "out", tiny_bert, **options).encoded == 64  # one in the middle
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert encode(corpus, tmp_path / "out", tiny_bert, **options).encoded == 0


def test_a_finished_folder_that_lost_files_gets_them_again(
    corpus: Path, tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encode(corpus, tmp_path / "whole", tiny_bert, precisions=["float32", "int8"])
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    (tmp_path / "out/shards/00002.parquet").unlink()
    (tmp_path / "out/problems.jsonl").unlink()
    report = encode(corpus, tmp_path / "out", tiny_bert, precisions=["float32", "int8"])
    assert (report.encoded, report.rows, report.left_out) == (64, 297, 3)
    assert "has lost 00002.parquet, problems.jsonl: it is made again" in caplog.text
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    (tmp_path / "out/shards/00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"00001.parquet is damaged .*encode again into another folder"):
        encode(corpus, tmp_path / "out", tiny_bert, precisions=["float32", "int8"])


def test_a_finished_array_that_is_gone_is_an_error(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    encode(corpus, tmp_path / "out", tiny_bert, format="npy", limit=20)
    for name in ("embedding_32.npy", "ids.parquet", "problems.jsonl"):
        (tmp_path / "out" / name).rename(tmp_path / "gone")
        with pytest.raises(ValueError, match=rf"{name} is missing: restore it, or encode again"):
            encode(corpus, tmp_path / "out", tiny_bert, format="npy", limit=20)
        (tmp_path / "gone").rename(tmp_path / "out" / name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dims": [16]}, "was begun with dims 8, not 16"),
        ({"precisions": ["int8"]}, "was begun with precisions float32, not int8"),
        ({"dtype": "bfloat16"}, "was begun with dtype float32, not bfloat16"),
        ({"format": "npy"}, "was begun with format parquet, not npy"),
        ({"keep": ["lang"]}, "was begun with keep none, not lang"),
        ({"limit": 100}, "was begun with limit None, not 100"),
        ({"on_long": "skip"}, "was begun with on_long cut, not skip"),
        ({"id_column": "lang"}, "id_column of .* is lang and was id"),
    ],
)
def test_refuses_to_go_on_otherwise(
    corpus: Path, tiny_bert: Path, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    encode(corpus, tmp_path / "out", tiny_bert, dims=[8])
    with pytest.raises(ValueError, match=message):
        encode(corpus, tmp_path / "out", tiny_bert, **{"dims": [8], **changed})


def test_refuses_a_changed_input_or_model(tiny_bert: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_bert, model)
    corpus = tmp_path / "c.txt"
    corpus.write_text("a cat\n")
    encode(corpus, tmp_path / "out", model)
    with pytest.raises(ValueError, match="the inputs are"):
        encode_files([corpus, *[_write(tmp_path / "d.txt")]], tmp_path / "out", model=str(model), shard_rows=64)
    corpus.write_text("a cat\na dog\n")
    with pytest.raises(ValueError, match=r"c.txt has changed since"):
        encode(corpus, tmp_path / "out", model)
    corpus.unlink()
    encode(_write(tmp_path / "e.txt"), tmp_path / "out2", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))
    with pytest.raises(ValueError, match="has changed since"):
        encode(tmp_path / "e.txt", tmp_path / "out2", model)


def _write(file: Path) -> Path:
    file.write_text("a dog\n")
    return file


def test_refuses_a_second_writer_and_foreign_folders(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out/.lock"), pytest.raises(ValueError, match="another process is writing into"):
        encode(corpus, tmp_path / "out", tiny_bert)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("do not touch")
    with pytest.raises(ValueError, match=r"holds 'thesis.txt' and no manifest.json"):
        encode(corpus, tmp_path / "mine", tiny_bert)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": [64]}, "dim must be from 1 to 32"),
        ({"dims": []}, "dims is empty"),
        ({"precisions": ["int5"]}, "precision 'int5' is unknown; did you mean 'int8'"),
        ({"keep": ["langg"]}, "no column 'langg'.*lang"),
        ({"keep": ["id"]}, "keep names 'id'"),
        ({"shard_rows": 0}, "shard_rows must be at least 1"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"on_error": "ignore"}, "on_error 'ignore' is unknown"),
        ({"engine": "spark"}, "engine 'spark' is unknown"),
        ({"dtype": "float8"}, "dtype 'float8' is unknown"),
    ],
)
def test_impossible_options(
    corpus: Path, tiny_bert: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encode(corpus, tmp_path / "out", tiny_bert, **options)


def test_opening_what_is_not_there(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mrl-text encode makes one"):
        open_encoded(tmp_path)
    encode(corpus, tmp_path / "out", tiny_bert, dims=[8], limit=20)
    folder = open_encoded(tmp_path / "out")
    assert folder.rows == 19
    with pytest.raises(ValueError, match="holds no size 16; it holds 8"):
        folder.batches(16)
    with pytest.raises(ValueError, match="holds no int8 vectors but float32"):
        folder.batches(8, "int8")


@pytest.mark.parametrize("form", ["parquet", "npy"])
def test_damage_is_one_line_with_the_file_and_the_fix(tiny_bert: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "corpus.txt").write_text("\n".join(sentences(30)), encoding="utf-8")
    encode(tmp_path / "corpus.txt", tmp_path / "out", tiny_bert, shard_rows=16, format=form)
    files = [file for file in (tmp_path / "out").rglob("*.*") if file.suffix in (".json", ".npy", ".parquet")]
    assert len(files) == 3
    for file in files:
        content = file.read_bytes()
        half, garbage = content[: len(content) // 2], np.random.default_rng(0).bytes(len(content))
        for damaged in (None, b"", half, content.rstrip(b"\n")[:-1], garbage):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            with pytest.raises((ValueError, FileNotFoundError), match=file.name) as caught:
                open_encoded(tmp_path / "out")
            assert "\n" not in str(caught.value)
            file.write_bytes(content)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    for name in ("complete", "width", "dims", "precisions", "format", "columns", "rows", "shards", "version"):
        (tmp_path / "out/manifest.json").write_text(
            json.dumps({key: one for key, one in manifest.items() if key != name})
        )
        with pytest.raises(ValueError, match=rf"lacks '{name}'.: encode again|is of version None"):
            open_encoded(tmp_path / "out")


def test_an_output_that_cannot_be_is_refused_before_anything_is_encoded(tiny_bert: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a cat", encoding="utf-8")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/precious.txt").write_text("mine")
    for output, words in (("file", "cannot be a folder, .*file is a file"), ("folder", "holds 'precious.txt'")):
        with pytest.raises((FileExistsError, ValueError), match=f"{words}.*: choose an empty or a new folder"):
            encode(tmp_path / "corpus.txt", tmp_path / output, tiny_bert)
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["precious.txt"]


def test_the_command(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:

    arguments = ["encode", str(corpus), "-o", str(tmp_path / "out"), "--model", str(tiny_bert), "--dim", "8,16"]
    arguments += ["--precision", "float16,int8", "--keep", "text,lang", "--dtype", "float32"]
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    assert "297 rows (300 read now)" in done.stdout
    assert "float32; 3 left out, 1 cut" in done.stdout
    assert "row 34" not in done.stdout and "corpus.jsonl, row 34: is not valid JSON" in done.stderr
    assert vectors(tmp_path / "out", 16, "float16").shape == (297, 16)
    told = json.loads(invoke(*arguments, "--json").stdout)
    assert (told["rows"], told["encoded"], told["left_out"], told["cut"]) == (297, 0, 3, 1)
    assert told["folder"] == str(tmp_path / "out")
    failed = invoke(*arguments[:6], "--dims", "64")
    assert failed.exit_code == 2
    assert "error: " in failed.stderr
