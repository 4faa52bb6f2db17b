"""The Python of every page runs, and the YAML is a recipe's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mrl_text.models import find_model
from mrl_text.training.recipe import Recipe
from tests.docs.pages import PAGES, ROOT, Block, blocks

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["a cat sits on the mat", "Matryoshka dolls nest", "vectors cost memory", "how long is a vector?"]
NOT_RUN = {
    "docs/leaderboard.md": "sentence_transformers",
    "docs/serving.md": "openai",
    "docs/sharing.md": "mrl_text.sharing",
    "docs/stores.md": "mrl_text.search",
}
"""Pages whose Python needs a server, which the tests of the module beside them have, or another package's model."""


def _of_a_page(page: str) -> dict[str, Any]:
    """What a page takes as given, in a folder where models and files have the names that it uses."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((200, 384)).astype(np.float32)
    given: dict[str, Any] = {"vectors": vectors, "texts": TEXTS, "store": lambda _: None}
    return {**given, **(PREPARED[page](vectors) if page in PREPARED else {})}


def _adapting(vectors: np.ndarray) -> dict[str, Any]:
    from mrl_text.adapt import fit

    fit(vectors, dims=[64, 384], steps=2).save("rotation.npy")
    Path("vectors").mkdir()
    np.save("vectors/embedding_1536.npy", vectors)
    return {"query_vectors": vectors[:2]}


def _classifying(vectors: np.ndarray) -> dict[str, Any]:
    labels = np.where(vectors[:, 0] > 0, "long", "short")
    return {"labels": labels, "new": vectors[:5], "test": vectors[100:], "truth": labels[100:]}


def _encoding(_: np.ndarray) -> dict[str, Any]:
    from mrl_text.encoding import encode_files

    Path("corpus.jsonl").write_text("".join(f'{{"text": "{text}", "lang": "en"}}\n' for text in TEXTS))
    encode_files(["corpus.jsonl"], "vectors", model=MODEL, dims=[64], precisions=["float32", "int8"], keep=["lang"])
    return {}


def _searching(_: np.ndarray) -> dict[str, Any]:
    from mrl_text.search.build import build

    Path("corpus.jsonl").write_text("".join(f'{{"text": "{text} {n}"}}\n' for n in range(100) for text in TEXTS))
    build(["corpus.jsonl"], "my-index", model=MODEL)
    return {}


def _training(_: np.ndarray) -> dict[str, Any]:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer

    from mrl_text import MatryoshkaEncoder

    pairs = Dataset.from_dict({"anchor": TEXTS[:2], "positive": TEXTS[2:]})
    models = {name: MatryoshkaEncoder(MODEL, device="cpu") for name in ("model", "frozen")}
    return {**models, "dims": [64, 384], "pairs": pairs, "SentenceTransformerTrainer": SentenceTransformerTrainer}


PREPARED: dict[str, Callable[[np.ndarray], dict[str, Any]]] = {
    "docs/adapting.md": _adapting,
    "docs/api-models.md": _adapting,
    "docs/classifying.md": _classifying,
    "docs/codes.md": lambda vectors: {"queries": vectors[:3]},
    "docs/encoding.md": _encoding,
    "docs/searching.md": _searching,
    "docs/training.md": _training,
    "README.md": _training,
}
PYTHON = {
    str(page.relative_to(ROOT)): blocks(page, "python")
    for page in PAGES
    if blocks(page, "python") and page.parent.name != "stacks"  # these run as they stand, in tests/stacks
}
YAML = [block for page in PAGES for block in blocks(page, "yaml")]


@pytest.mark.model
@pytest.mark.parametrize("page", sorted(PYTHON.keys() - NOT_RUN.keys()))
def test_python_runs(page: str, command_line: None) -> None:
    packaged = find_model(MODEL).path
    for name in ("runs/quickstart/model", "runs/2d/model"):
        Path(name).parent.mkdir(parents=True)
        Path(name).symlink_to(packaged)
    names = _of_a_page(page)
    for block in PYTHON[page]:
        exec(compile(block.text, block.place, "exec"), names)


@pytest.mark.parametrize("page", sorted(NOT_RUN))
def test_python_that_is_not_run_imports_what_there_is(page: str) -> None:
    ours = []
    for block in PYTHON[page]:
        lines = re.findall(r"^(?:from|import) .*$", block.text, re.MULTILINE)
        assert lines
        exec(compile("\n".join(lines), block.place, "exec"), {})
        compile(block.text, block.place, "exec")
        ours += [line for line in lines if NOT_RUN[page] in line]
    assert ours


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.place)
def test_yaml_is_a_part_of_a_recipe(block: Block) -> None:
    part = yaml.safe_load(block.text)
    triplets = {"source": "triplets.csv", "columns": ["anchor", "positive", "negative"]}
    whole = {"model": {"name": MODEL}, "data": {"train": [triplets]}}
    name = part.get("loss", {}).get("name", "nested_infonce")
    merged = {**whole, "loss": {"name": name, "dims": [64, 384]}}
    for section, values in part.items():
        merged[section] = {**merged.get(section, {}), **values}
    assert Recipe(**merged).loss.name == name
