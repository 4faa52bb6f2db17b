"""A small saved model, scores of it as an evaluation writes them, and a hub to push to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mrl_text import MatryoshkaEncoder
from mrl_text.models import find_model
from tests.sharing.hub import Hub

SCORES = {
    ("STSBenchmark", "STS", "cosine_spearman"): {32: 0.71, 16: 0.66, 8: 0.5},
    ("SciFact", "Retrieval", "ndcg_at_10"): {32: 0.4, 16: 0.35, 8: 0.123456},
    ("my-pairs", "STS", "cosine_spearman"): {32: 0.9, 16: 0.8, 8: 0.7},
}
REVISION = "d56462d0e63a25450459c4f213e49ffdb866f7f9"


@pytest.fixture(scope="session")
def saved(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with sizes 8, 16 and 32, made from a base model on the hub; not to be changed."""
    folder = tmp_path_factory.mktemp("sharing") / "small" / "model"
    model = MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=[8, 16, 32], device="cpu")
    model.describe(name="small", base_model="some-org/some-base")
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    server = hub.serve()
    yield hub
    server.shutdown()
    server.server_close()


def write_scores(model: Path, folder: Path, *, base: bool = True) -> Path:
    """An evaluation folder of that model with the scores above, in float32 and int8, and of its base."""
    source = find_model(str(model))
    lines = [(source.name, source.revision, "model")] + ([("some-org/some-base", "abc", "control")] if base else [])
    rows: list[dict[str, Any]] = []
    for (task, kind, metric), scores in SCORES.items():
        for name, revision, role in lines:
            for dim, score in scores.items():
                for precision in ("float32", "int8") if role == "model" else ("float32",):
                    worse = 0.01 * (precision != "float32") + 0.1 * (role == "control")
                    rows.append(
                        {
                            "model": name,
                            "revision": revision,
                            "role": role,
                            "method": "truncation",
                            "dtype": "float32",
                            "layers": None,
                            "task": task,
                            "type": kind,
                            "split": "test",
                            "subset": "default",
                            "dim": dim,
                            "precision": precision,
                            "seed": None,
                            "bytes": dim * (4 if precision == "float32" else 1),
                            "metric": metric,
                            "score": score - worse,
                            "data": "d",
                        }
                    )
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / "scores.parquet")
    place = folder / "results" / source.name.replace("/", "__") / source.revision / "experiments" / "embed_dim_8"
    place.mkdir(parents=True, exist_ok=True)
    (place / "SciFact.json").write_text(json.dumps({"dataset_revision": REVISION}), encoding="utf-8")
    return folder
