"""Three small tasks of different kind, made here, that mteb evaluates like its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTask, AbsTaskClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.eval import tasks as eval_tasks
from tests.conftest import WORDS


@pytest.fixture(scope="session", autouse=True)
def _areas_without_checks() -> Iterator[None]:
    """mteb takes hundreds of areas under curves for a retrieval result; scikit-learn checks each for a millisecond."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mteb._evaluators.retrieval_metrics.auc", lambda x, y: float(np.trapezoid(y, x)))
        yield


def _metadata(name: str, kind: str, main_score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        dataset={"path": f"made-up/{name}", "revision": "1"},
        description=name,
        reference=None,
        type=kind,
        category="t2t" if kind == "Retrieval" else "t2c",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        date=("2020-01-01", "2020-12-31"),
        domains=["Written"],
        task_subtypes=[],
        license="cc0-1.0",
        annotations_creators="derived",
        dialect=[],
        sample_creation="created",
        bibtex_citation=None,
    )


def _sentence(seed: int, length: int = 5) -> str:
    return " ".join(WORDS[(seed * 7 + position * (seed % 5 + 1)) % len(WORDS)] for position in range(length))


class TinySTS(AbsTaskSTS):
    metadata = _metadata("TinySTS", "STS", "cosine_spearman")
    min_score, max_score = 0, 5

    def load_data(self, **kwargs: Any) -> None:
        pairs = {
            "sentence1": [_sentence(index) for index in range(40)],
            "sentence2": [_sentence(index + index % 3) for index in range(40)],
            "score": [float(5 - index % 3 - (index % 7) / 7) for index in range(40)],
        }
        self.dataset = DatasetDict({"test": Dataset.from_dict(pairs)})
        self.data_loaded = True


class TinyClassification(AbsTaskClassification):
    metadata = _metadata("TinyClassification", "Classification", "accuracy")
    samples_per_label, n_experiments = 4, 3

    def load_data(self, **kwargs: Any) -> None:
        def rows(start: int) -> Dataset:
            texts = [f"{_sentence(index)} {WORDS[index % 2]}" for index in range(start, start + 60)]
            return Dataset.from_dict({"text": texts, "label": [index % 2 for index in range(start, start + 60)]})

        self.dataset = DatasetDict({"train": rows(0), "test": rows(100)})
        self.data_loaded = True


class TinyRetrieval(AbsTaskRetrieval):
    metadata = _metadata("TinyRetrieval", "Retrieval", "ndcg_at_10")

    def load_data(self, **kwargs: Any) -> None:
        documents = [_sentence(index, 9) for index in range(50)]
        queries = [_sentence(index, 4) for index in range(0, 50, 2)]
        self.dataset = {
            "default": {
                "test": RetrievalSplitData(
                    corpus=Dataset.from_dict({"id": [f"d{i}" for i in range(50)], "text": documents}),
                    queries=Dataset.from_dict({"id": [f"q{i}" for i in range(25)], "text": queries}),
                    relevant_docs={f"q{i}": {f"d{2 * i}": 1, f"d{(2 * i + 9) % 50}": 1} for i in range(25)},
                    top_ranked=None,
                )
            }
        }
        self.data_loaded = True


TINY_TASKS: dict[str, type[AbsTask]] = {
    task.metadata.name: task for task in (TinySTS, TinyClassification, TinyRetrieval)
}


@pytest.fixture
def tiny_tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the three tasks, known to the evaluation for the time of a test."""
    for name, task in TINY_TASKS.items():
        monkeypatch.setitem(eval_tasks.OWN_TASKS, name, task)
    return list(TINY_TASKS)


@pytest.fixture
def trained(tiny_bert: Path, tmp_path: Path) -> Path:
    """A model that says it was trained from the tiny BERT: its weights, moved a little."""
    model = MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=[8, 16, 32])
    for parameter in model.parameters():
        parameter.data.mul_(1.02)
    model.describe(name="moved", base_model=str(tiny_bert))
    model.save_pretrained(str(tmp_path / "run" / "model"))
    return tmp_path / "run" / "model"


# ---- a browser

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window, which keeps what pages write into its console."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    yield driver
    driver.quit()
