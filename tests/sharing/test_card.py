from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import mteb
import pandas as pd
import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from matplotlib.image import imread
from mteb.results import TaskResult

from mrl_text.sharing import prepare, write_upload
from tests.sharing.conftest import REVISION, SCORES, write_scores

REPO = "me/small"


@pytest.fixture(scope="module")
def scores(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scores(saved, tmp_path_factory.mktemp("scores"))


@pytest.fixture(scope="module")
def published(saved: Path, scores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The would-be repository, with scores and license."""
    folder = tmp_path_factory.mktemp("published") / "small"
    return write_upload(prepare(saved, REPO, results=[scores], license="mit", languages=["en"]), folder)


def read_scores(card: Path) -> list[EvalResult]:
    return model_index_to_eval_results(metadata_load(card)["model-index"])[1]


def rows(card: str) -> list[list[str]]:
    lines = [line for line in card.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.mark.slow
def test_the_hub_reads_the_scores_of_the_table(published: Path, scores: Path) -> None:
    found = {
        (one.dataset_name, (one.metric_args or {}).get("truncate_dim", 32)): one
        for one in read_scores(published / "README.md")
    }
    table = pd.read_parquet(scores / "scores.parquet")
    own = table[(table["role"] == "model") & (table["precision"] == "float32")]
    assert len(found) == len(own) == 9
    for row in own.to_dict("records"):
        one = found[f"{row['task']} (default)", row["dim"]]
        assert (one.metric_value, one.metric_type) == (row["score"], row["metric"])
        assert one.metric_name == (row["metric"] if row["dim"] == 32 else f"{row['metric']} (dim {row['dim']})")
        assert (one.dataset_split, one.dataset_config) == ("test", "default")
    assert metadata_load(published / "README.md")["model-index"][0]["name"] == "small"


@pytest.mark.slow
def test_full_width_is_what_mteb_itself_would_write(published: Path) -> None:
    facts = {"mteb_version": "2.26.0", "evaluation_time": 1.0, "dataset_revision": REVISION, "task_name": "SciFact"}
    part = {"hf_subset": "default", "languages": ["eng-Latn"], "main_score": 0.4, "ndcg_at_10": 0.4}
    theirs = TaskResult.model_validate({**facts, "scores": {"test": [part]}}).get_hf_eval_results()[0]
    ours = next(one for one in read_scores(published / "README.md") if one.dataset_name.startswith("SciFact"))
    assert mteb.get_task("SciFact").metadata.dataset["revision"] == REVISION
    assert ours == EvalResult(**{**vars(theirs), "source_name": ours.source_name})
    own_data = next(one for one in read_scores(published / "README.md") if one.dataset_name.startswith("my-pairs"))
    assert (own_data.dataset_type, own_data.dataset_revision) == ("my-pairs", None)


def test_the_metadata_is_what_the_hub_files_it_under(published: Path) -> None:
    data = metadata_load(published / "README.md")
    assert data["base_model"] == "some-org/some-base"
    assert (data["license"], data["language"]) == ("mit", ["en"])
    assert (data["library_name"], data["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    assert {"sentence-transformers", "feature-extraction", "sentence-similarity", "matryoshka", "mteb"} <= set(
        data["tags"]
    )
    card = ModelCard.load(published / "README.md")
    assert card.content == (published / "README.md").read_text(encoding="utf-8"), "it survives the hub's own library"


def test_the_tables_show_scores_retention_and_control(published: Path) -> None:
    text = (published / "README.md").read_text(encoding="utf-8")
    means = {dim: 100 * sum(task[dim] for task in SCORES.values()) / 3 for dim in (32, 16, 8)}
    table = [row for row in rows(text) if len(row) == 5 and re.fullmatch(r"[\d.]+", row[2])]
    first = {int(row[1]): row for row in table[:3]}
    for dim, mean in means.items():
        bytes_, _, score, kept, base = first[dim]
        assert (bytes_, score) == (str(4 * dim), f"{mean:.2f}")
        assert kept == ("100.00" if dim == 32 else f"{100 * mean / means[32]:.2f}")
        assert base == f"{mean - 10:.2f}"
    assert "Compared with: the untrained base, cut the same way." in text
    assert (
        "**Quality per byte**: nothing else measured scores higher in as few bytes of memory, or of memory and disk."
        in text
    )
    assert ["8", "8", "int8"] in [row[:3] for row in rows(text)]
    assert imread(io.BytesIO((published / "curve.png").read_bytes())).std() > 0.05, "something is drawn"
    assert "](curve.png)" in text


@pytest.mark.slow
def test_a_missing_control_is_said(saved: Path, tmp_path: Path) -> None:
    results = write_scores(saved, tmp_path / "alone", base=False)
    assert "The untrained base was not measured." in prepare(saved, REPO, results=[results]).card.compose()


def test_the_snippet_is_for_this_repository_and_runs(published: Path, saved: Path) -> None:
    text = (published / "README.md").read_text(encoding="utf-8")
    assert "sentence_transformers_model_id" not in text
    snippets = [one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f'"{REPO}", truncate_dim' in one]
    names: dict[str, Any] = {}
    exec(snippets[0].replace(f'"{REPO}"', f'"{published}"'), names)
    dim = int(re.search(r"truncate_dim=(\d+)", snippets[0])[1])  # type: ignore[index]
    assert names["embeddings"].shape == (2, dim)
    assert abs((names["embeddings"] ** 2).sum(1) - 1).max() < 1e-5


@pytest.mark.slow
def test_words_and_metadata_of_the_author_stay(saved: Path, scores: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(saved, model)
    head = {
        "license": "apache-2.0",
        "tags": ["legal", "sentence-transformers"],
        "thumbnail": "x.png",
        "base_model": "other/base",
        "model-index": [
            {
                "name": "mine",
                "results": [
                    {
                        "task": {"type": "text-retrieval"},
                        "dataset": {"type": "mine/contracts", "name": "Contracts"},
                        "metrics": [{"type": "ndcg_at_10", "value": 0.5}],
                    }
                ],
            }
        ],
    }
    author = "# Contracts\n\nBy Ada.\n\n## Intended use\n\nContracts | *only* — déjà vu.\n\n## Thanks\n\nTo all.\n"
    (model / "README.md").write_text(f"---\n{yaml.safe_dump(head)}---\n{author}", encoding="utf-8")
    results = write_scores(model, tmp_path / "scores")
    card = prepare(model, REPO, results=[results]).card.compose()
    data = yaml.safe_load(card.split("---\n")[1])
    assert (data["license"], data["thumbnail"], data["base_model"]) == ("apache-2.0", "x.png", "other/base")
    assert data["tags"][:2] == ["legal", "sentence-transformers"]
    assert data["tags"].count("sentence-transformers") == 1
    assert sum(len(one["metrics"]) for one in data["model-index"][0]["results"]) == 10
    rest = re.sub(
        r"<!-- mrl-text (\w+): begin -->.*?<!-- mrl-text \1: end -->\n\n",
        "",
        card.split("---\n", 2)[2],
        flags=re.DOTALL,
    )
    assert rest.strip() == author.strip()
    (model / "README.md").write_text(card, encoding="utf-8")
    assert prepare(model, REPO, results=[results]).card.compose() == card, "a second time nothing is added"


def test_without_results_the_card_says_how_to_measure(saved: Path) -> None:
    upload = prepare(saved, REPO)
    card = upload.card.compose()
    assert "model-index" not in card
    assert "curve.png" not in card
    assert any("--results" in note for note in upload.card.notes())
    assert any("--license" in note for note in upload.card.notes())


@pytest.mark.slow
def test_results_beside_the_model_are_found_and_of_other_weights_left_aside(
    saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "run" / "model"
    shutil.copytree(saved, model)
    write_scores(model, tmp_path / "run" / "eval")
    assert prepare(tmp_path / "run", REPO).card.measured is not None
    config = model / "1_Pooling" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert prepare(model, REPO).card.measured is None
    assert "left aside" in caplog.text
    with pytest.raises(ValueError, match="no scores of the weights"):
        prepare(model, REPO, results=[tmp_path / "run" / "eval"])


def test_paths_of_this_machine_stay_here(saved: Path, tmp_path: Path) -> None:
    from mrl_text.cards.sizes import write_card

    model = tmp_path / "run" / "model"
    shutil.copytree(saved, model)
    write_card(model, dims=[8], recipe="data:\n  train:\n  - source: /home/ada/secret/pairs.csv\n", run="/home/ada/run")
    (tmp_path / "run" / "recipe.yaml").write_text(
        "data:\n  train:\n  - source: /home/ada/secret/pairs.csv\n  - source: some-org/pairs\n  - source: docstrings\n"
    )
    card = prepare(model, REPO).card.compose()
    assert "/home" not in card
    assert "source: pairs.csv" in card
    assert yaml.safe_load(card.split("---\n")[1])["datasets"] == ["some-org/pairs"]
    readme = (model / "README.md").read_text()
    (model / "README.md").write_text(readme + "\n\nThe data are in /home/ada/secret/pairs.csv.\n")
    with pytest.raises(ValueError, match=r"README\.md names /home/ada/secret/pairs\.csv"):
        prepare(model, REPO)


@pytest.mark.parametrize(
    ("head", "message"),
    [("license: [", "cannot be read"), ("model-index: [{name: x}]", "cannot be read"), ("- a\n- b", "cannot be read")],
)
def test_a_broken_head_is_named(saved: Path, tmp_path: Path, head: str, message: str) -> None:
    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text(f"---\n{head}\n---\n# A\n")
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "model", REPO)


def test_the_card_of_another_model_is_noticed(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("# Base\n\n```\nSentenceTransformer('org/base')\n```\n")
    assert any("org/base, not me/small" in note for note in prepare(tmp_path / "model", REPO).card.notes())
