"""Files as users have them, each with what is in it, written down by hand."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet


@dataclass(frozen=True)
class Odd:
    """A file with a column ``text`` and, mostly, one of labels, or something that should be one.

    Attributes:
        name: of the file.
        content: its bytes.
        texts: of the rows that can be read and have one, without the blanks around them.
        unreadable: lines (rows of Parquet and of JSON documents) that cannot be read.
        not_text: those whose ``text`` is something else.
        empty: those whose ``text`` is missing or blank.
        whole: what every command says of a file that cannot be read at all; None for one that can.
        labelled: whether there is a column ``label``.
        no_texts: it can be read, but holds no column ``text`` or no row.
    """

    name: str
    content: bytes
    texts: tuple[str, ...] = ()
    unreadable: tuple[int, ...] = ()
    not_text: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()
    whole: str | None = None
    labelled: bool = True
    no_texts: bool = False

    def write(self, folder: Path) -> Path:
        """Write the file."""
        (folder / self.name).write_bytes(self.content)
        return folder / self.name


AB = ("first words", "second words")
HUGE = "long " * 40_000 + "text"
CSV = b"text,label\nfirst words,a\nsecond words,b\n"
TSV = b"text\tlabel\nfirst words\ta\nsecond words\tb\n"
JSONL = b'{"text": "first words", "label": "a"}\n{"text": "second words", "label": "b"}\n'
TXT = b"first words\nsecond words\n"
GOOD = b'{"text": "first words", "label": "a"}\n'
MORE = b'{"text": "second words", "label": "b"}\n'


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


def packed(columns: Mapping[str, Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(pa.table(dict(columns)), stream, **options)
    return stream.getvalue()


def twice_named() -> bytes:
    stream = io.BytesIO()
    values = pa.array(AB)
    parquet.write_table(pa.Table.from_arrays([values, values, values], names=["text", "label", "text"]), stream)
    return stream.getvalue()


def csv(*lines: str, end: str = "\n", header: str = "text,label", encode: Callable[[str], bytes] = str.encode) -> bytes:
    return encode(end.join([header, *lines, ""]))


def jsonl(*lines: str) -> bytes:
    return GOOD + "".join(f"{line}\n" for line in lines).encode() + MORE


DELIMITED = [
    Odd("plain.csv", CSV, AB),
    Odd("UPPER.CSV", CSV, AB),
    Odd("bom.csv", b"\xef\xbb\xbf" + CSV, AB),
    Odd("quoted-bom.csv", b'\xef\xbb\xbf"text","label"\n"first words","a"\n"second words","b"\n', AB),
    Odd("crlf.csv", CSV.replace(b"\n", b"\r\n"), AB),
    Odd("lone-cr.csv", CSV.replace(b"\n", b"\r"), AB),
    Odd("mixed-ends.csv", b"text,label\r\nfirst words,a\nsecond words,b\rthird words,a", (*AB, "third words")),
    Odd("no-final-newline.csv", CSV.rstrip(), AB),
    Odd("quotes.csv", csv('"say ""hi"", now",a', '"two\nlines",b'), ('say "hi", now', "two\nlines")),
    Odd("crlf-in-cell.csv", csv('"two\r\nlines",a', "second words,b", end="\r\n"), ("two\r\nlines", "second words")),
    Odd("quote-in-cell.csv", csv('6" screen,a', "second words,b"), ('6" screen', "second words")),
    Odd("stray-quote.csv", csv("first words,a", '"two" words,b', "second words,b"), AB, unreadable=(3,)),
    Odd("unclosed.csv", csv("first words,a", '"two words,b', "second words,b"), AB[:1], unreadable=(3,)),
    Odd("ragged.csv", csv("first words,a", "short", "too,long,b", "second words,b"), AB, unreadable=(3, 4)),
    Odd("blank-lines.csv", b"\n\r\ntext,label\n\nfirst words,a\n\n\nsecond words,b\n\n", AB),
    Odd("header-only.csv", b"text,label\n", whole=".", no_texts=True),
    Odd("empty.csv", b"", whole="is empty"),
    Odd("bom-only.csv", b"\xef\xbb\xbf", whole="is empty"),
    Odd("blank-only.csv", b"\n\n \r\n", whole="is empty"),
    Odd(
        "latin-1.csv",
        csv("first words,a", "caf\xe9,b", "second words,b", encode=lambda t: t.encode("latin-1")),
        AB,
        (3,),
    ),
    Odd("windows.csv", b"text,label\nfirst words,a\n\x93words\x94,b\nsecond words,b\n", AB, (3,)),
    Odd("latin-header.csv", b"text,label,caf\xe9\nfirst words,a,1\n", whole="not UTF-8"),
    Odd("utf-16.csv", CSV.decode().encode("utf-16"), whole="is UTF-16"),
    Odd("utf-16-be.csv", b"\xfe\xff" + CSV.decode().encode("utf-16-be"), whole="is UTF-16"),
    Odd("nul.csv", csv("first\0words,a", "second words,b"), ("first\0words", "second words")),
    Odd("huge.csv", csv(f"{HUGE},a", "second words,b"), (HUGE, "second words")),
    Odd("semicolons.csv", CSV.replace(b",", b";"), whole="text;label", no_texts=True),
    Odd("named-twice.csv", b"text,label,text\na,b,c\n", whole="names the column 'text' twice"),
    Odd(
        "separators.csv",
        csv("one\u2028line,a", "next\x85line,b", "page\x0c\x1cend,a"),
        ("one\u2028line", "next\x85line", "page\x0c\x1cend"),
    ),
    Odd("scripts.csv", csv("日本語 العربية,a", "🙂 e\u0301,b"), ("日本語 العربية", "🙂 e\u0301")),
    Odd("missing-words.csv", csv("NA,a", "null,b", "None,a", "nan,b"), ("NA", "null", "None", "nan")),
    Odd("numbers.csv", csv("1984,a", "007,b", "1e5,a", "3.50,b"), ("1984", "007", "1e5", "3.50")),
    Odd("late-word.csv", csv(*["1984,a"] * 12_000, "a word,b"), ("1984",) * 12_000 + ("a word",)),
    Odd("empty-cells.csv", csv("first words,a", ",b", '"  ",b', "second words,b"), AB, empty=(3, 4)),
    Odd("last-comma.csv", csv("first words,a,", "second words,b,", header="text,label,"), AB),
    Odd("row-names.csv", csv("0,first words,a", "1,second words,b", header=",text,label"), AB),
    Odd("one-column.csv", b"text\nfirst words\n\nsecond words\n", AB, labelled=False),
    Odd("spreadsheet.csv", b"PK\x03\x04\x14\x00", whole="spreadsheet"),
    Odd("parquet.csv", packed({"text": AB}), whole="is Parquet"),
    Odd("gzip.csv", gzip.compress(CSV), whole="compressed with gzip"),
    Odd("plain.tsv", TSV, AB),
    Odd("bom-crlf.tsv", b"\xef\xbb\xbf" + TSV.replace(b"\n", b"\r\n"), AB),
    Odd(
        "speech.tsv",
        b'text\tlabel\n"We shall leave,\ta\nand go."\ta\nThe rain fell.\tb\n',
        ('"We shall leave,', 'and go."', "The rain fell."),
    ),
    Odd("whole-quoted.tsv", b'text\tlabel\n"a ""tab""\there"\ta\n"two\nlines"\tb\n', ('a "tab"\there', "two\nlines")),
    Odd("last-quoted.tsv", b'label\ttext\na\t"two\nlines"\nb\tsecond words\n', ("two\nlines", "second words")),
    Odd("inches.tsv", b'text\tlabel\n6" by 4"\ta\n"one" and "two"\tb\n', ('6" by 4"', '"one" and "two"')),
    Odd("unclosed.tsv", b'text\tlabel\nfirst words\ta\n"last words\tb\n', ("first words", '"last words')),
    Odd("commas.tsv", b"text\tlabel\none, two\ta\nsecond words\tb\n", ("one, two", "second words")),
    Odd("ragged.tsv", b'text\tlabel\nfirst words\ta\n"short\nsecond words\tb\n', AB, unreadable=(3,)),
    Odd("lone-cr.tsv", b"text\tlabel\nfirst\rwords\ta\nsecond words\tb\n", ("first\rwords", "second words")),
    Odd("latin-1.tsv", b"text\tlabel\nfirst words\ta\ncaf\xe9\tb\nsecond words\tb\n", AB, unreadable=(3,)),
    Odd("huge.tsv", f"text\tlabel\n{HUGE}\ta\nsecond words\tb\n".encode(), (HUGE, "second words")),
    Odd("one-column.tsv", b'text\n"first words\nsecond words"\n', ('"first words', 'second words"'), labelled=False),
]

JSON = [
    Odd("plain.jsonl", JSONL, AB),
    Odd("plain.ndjson", JSONL, AB),
    Odd("lines.json", JSONL, AB),
    Odd("bom-crlf.jsonl", b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n"), AB),
    Odd("no-final-newline.jsonl", JSONL.rstrip(), AB),
    Odd("blank-lines.jsonl", b"\n" + JSONL.replace(b"\n", b"\n \t\n"), AB),
    Odd(
        "late-columns.jsonl",
        jsonl('{"title": "t", "lang": "en", "text": "more", "label": "b"}'),
        (AB[0], "more", AB[1]),
    ),
    Odd("text-comes-late.jsonl", b'{"label": "a"}\n' + JSONL, AB, empty=(1,)),
    Odd("nulls.jsonl", jsonl('{"text": null, "label": "a"}', '{"text": "", "label": "a"}'), AB, empty=(2, 3)),
    Odd(
        "other-columns-mixed.jsonl",
        jsonl('{"text": "more", "label": "b", "meta": 1}', '{"text": "most", "label": "b", "meta": {"a": [1]}}'),
        (AB[0], "more", "most", AB[1]),
    ),
    Odd(
        "mixed-texts.jsonl",
        jsonl(*(f'{{"text": {value}, "label": "a"}}' for value in ("7", "true", '["x"]', '{"a": "b"}', "1.5"))),
        AB,
        not_text=(2, 3, 4, 5, 6),
    ),
    Odd(
        "half-a-character.jsonl",
        jsonl('{"text": "lone \\ud800 half", "label": "a"}', '{"text": "\\ud83d\\ude42", "label": "a"}'),
        (AB[0], "🙂", AB[1]),
        not_text=(2,),
    ),
    Odd("deep.jsonl", jsonl("[" * 100_000), AB, unreadable=(2,)),
    Odd("broken.jsonl", jsonl('{"text": "x"', "{'text': 'y'}"), AB, unreadable=(2, 3)),
    Odd("no-objects.jsonl", jsonl("[1]", "7", '"text"', "null"), AB, unreadable=(2, 3, 4, 5)),
    Odd("two-on-a-line.jsonl", jsonl('{"text": "x"}{"text": "y"}'), AB, unreadable=(2,)),
    Odd("digits.jsonl", jsonl(f'{{"text": "x", "label": "a", "n": {"1" * 5000}}}'), AB, unreadable=(2,)),
    Odd("not-numbers.jsonl", jsonl('{"text": "more", "label": "a", "n": NaN, "m": -Infinity}'), (AB[0], "more", AB[1])),
    Odd("latin-1.jsonl", GOOD + b'{"text": "caf\xe9", "label": "a"}\n' + MORE, AB, unreadable=(2,)),
    Odd("separators.jsonl", jsonl('{"text": "one\u2028line", "label": "a"}'), (AB[0], "one\u2028line", AB[1])),
    Odd("nul.jsonl", jsonl('{"text": "a\\u0000b", "label": "a"}'), (AB[0], "a\0b", AB[1])),
    Odd("key-twice.jsonl", jsonl('{"text": "x", "text": "more", "label": "a"}'), AB, unreadable=(2,)),
    Odd("huge.jsonl", jsonl(f'{{"text": "{HUGE}", "label": "a"}}'), (AB[0], HUGE, AB[1])),
    Odd("no-texts.jsonl", b'{"body": "a"}\n{"body": "b"}\n', whole="body", no_texts=True),
    Odd("nothing-named.jsonl", b"{}\n{}\n", whole=".", no_texts=True),
    Odd("all-broken.jsonl", b"text\nwords\n", whole="not valid JSON"),
    Odd("utf-16.jsonl", JSONL.decode().encode("utf-16"), whole="is UTF-16"),
    Odd("array.json", b'[{"text": "first words", "label": "a"}, {"text": "second words", "label": "b"}]', AB),
    Odd(
        "pretty.json",
        b"\xef\xbb\xbf" + json.dumps([json.loads(GOOD), json.loads(MORE)], indent=2).encode(),
        AB,
    ),
    Odd(
        "array.jsonl",
        b'[{"text": "first words", "label": "a"}, 7, {"text": "second words", "label": "b"}]',
        AB,
        unreadable=(2,),
    ),
    Odd("broken-array.json", b'[{"text": "first words", "label": "a"},\n{"text": ', whole="not valid JSON"),
    Odd("latin-array.json", b'[{"text": "caf\xe9", "label": "a"}]', whole="not UTF-8"),
]

TEXT = [
    Odd("plain.txt", TXT, AB, labelled=False),
    Odd("bom-crlf.txt", b"\xef\xbb\xbf" + TXT.replace(b"\n", b"\r\n"), AB, labelled=False),
    Odd(
        "separators.txt",
        "one\u2028line\nnext\x85line\npage\x0cend\n".encode(),
        ("one\u2028line", "next\x85line", "page\x0cend"),
        labelled=False,
    ),
    Odd("blank-lines.txt", b"\nfirst words\n \nsecond words\n\n", AB, labelled=False),
    Odd("lone-cr.txt", b"first\rwords\nsecond words", ("first\rwords", "second words"), labelled=False),
    Odd("latin-1.txt", b"first words\ncaf\xe9\nsecond words\n", AB, unreadable=(2,), labelled=False),
    Odd("nul.txt", b"a\0b\nsecond words\n", ("a\0b", "second words"), labelled=False),
    Odd("quotes.txt", b'"first, words\n"second\twords"\n', ('"first, words', '"second\twords"'), labelled=False),
    Odd("numbers.txt", b"1984\n007\n", ("1984", "007"), labelled=False),
    Odd("huge.txt", f"{HUGE}\nsecond words\n".encode(), (HUGE, "second words"), labelled=False),
    Odd("blank-only.txt", b"\n \n\n", whole="is empty"),
    Odd("utf-16.txt", TXT.decode().encode("utf-16"), whole="is UTF-16"),
]

COMPRESSED = [
    Odd("packed.csv.gz", gzip.compress(CSV), AB),
    Odd("packed.tsv.zst", zstd(TSV), AB),
    Odd("packed.jsonl.gz", gzip.compress(GOOD) + gzip.compress(MORE), AB),
    Odd("packed.jsonl.zst", zstd(GOOD) + zstd(MORE), AB),
    Odd("packed.json.gz", gzip.compress(b'[{"text": "first words", "label": "a"},\n' + MORE + b"]"), AB),
    Odd("packed.txt.gz", gzip.compress(TXT), AB, labelled=False),
    Odd(
        "latin-1.csv.gz", gzip.compress(b"text,label\nfirst words,a\ncaf\xe9,b\nsecond words,b\n"), AB, unreadable=(3,)
    ),
    Odd("cut.csv.gz", gzip.compress(CSV)[:-12], whole="cannot be read"),
    Odd("cut.jsonl.zst", zstd(JSONL * 1000)[:-20], whole="cannot be read"),
    Odd("plain.csv.gz", CSV, whole="cannot be read"),
    Odd("plain.jsonl.zst", JSONL, whole="cannot be read"),
    Odd("empty.csv.gz", gzip.compress(b""), whole="is empty"),
    Odd("packed.parquet.gz", gzip.compress(packed({"text": AB})), whole="."),
    Odd("sheet.xlsx", b"PK\x03\x04", whole="."),
]

LABELS = ["a", "b"]
PARQUET = [
    Odd("plain.parquet", packed({"text": AB, "label": LABELS}), AB),
    Odd(
        "dictionary.parquet",
        packed({"text": pa.array(AB).dictionary_encode(), "label": pa.array(LABELS).dictionary_encode()}),
        AB,
    ),
    Odd(
        "large.parquet",
        packed({"text": pa.array(AB, pa.large_string()), "label": pa.array(LABELS, pa.large_string())}),
        AB,
    ),
    Odd("views.parquet", packed({"text": pa.array(AB, pa.string_view()), "label": LABELS}), AB),
    Odd("groups.parquet", packed({"text": [*AB] * 5, "label": LABELS * 5}, row_group_size=3), AB * 5),
    Odd("nulls.parquet", packed({"text": [AB[0], None, " ", AB[1]], "label": LABELS * 2}), AB, empty=(2, 3)),
    Odd("vectors.parquet", packed({"text": AB, "label": LABELS, "v": [[1.0], [2.0]], "s": [{"text": "x"}, None]}), AB),
    Odd("nul.parquet", packed({"text": ["a\0b", AB[1]], "label": LABELS}), ("a\0b", AB[1])),
    Odd("huge.parquet", packed({"text": [HUGE, AB[1]], "label": LABELS}), (HUGE, AB[1])),
    Odd("numbers.parquet", packed({"text": [7, 8], "label": LABELS}), not_text=(1, 2)),
    Odd("bytes.parquet", packed({"text": [b"first", b"second"], "label": LABELS}), not_text=(1, 2)),
    Odd("lists.parquet", packed({"text": [["first"], ["second"]], "label": LABELS}), not_text=(1, 2)),
    Odd(
        "no-rows.parquet",
        packed({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}),
        whole=".",
        no_texts=True,
    ),
    Odd("no-texts.parquet", packed({"body": AB}), whole="body", no_texts=True),
    Odd("named-twice.parquet", twice_named(), whole="names the column 'text' twice"),
    Odd("empty.parquet", b"", whole="is empty"),
    Odd("fake.parquet", b"PAR1 and nothing more than that", whole="cannot be read as Parquet"),
    Odd("cut.parquet", packed({"text": AB, "label": LABELS})[:-40], whole="cannot be read as Parquet"),
]

ODD_FILES = [*DELIMITED, *JSON, *TEXT, *COMPRESSED, *PARQUET]
