"""A corpus over the tiny vocabulary with everything that can be wrong in it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.conftest import WORDS


def sentences(count: int, longest: int = 40) -> list[str]:
    """Made-up texts of mixed length."""
    draw = random.Random(3)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(count)]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows as JSON lines: row 18 is blank, 34 broken, 51 no text, 60 too long, 71 holds another type."""
    lines = []
    for number, text in enumerate(sentences(300), start=1):
        row = {"id": f"d{number}", "text": text, "lang": "en" if number % 2 else None, "pages": number}
        lines.append(json.dumps(row))
    lines[17] = ""
    lines[33] = "{broken"
    lines[50] = json.dumps({"id": "d51", "text": 5})
    lines[59] = json.dumps({"id": "d60", "text": "cat " * 100, "pages": 60})
    lines[70] = json.dumps({"id": "d71", "text": "a cat", "pages": "many"})
    file = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
