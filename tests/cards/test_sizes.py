from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from huggingface_hub import ModelCard as HubCard
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerModelCardData,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)

from mrl_text import MatryoshkaEncoder
from mrl_text.cards.measured import curve_text, write_curve
from mrl_text.cards.sizes import describe_adaptation, describe_sizes, sizes_measured, write_card
from mrl_text.cards.trained import ModelCard
from mrl_text.choices import AdaptMethod
from mrl_text.eval import sweep
from mrl_text.eval.grid import Cell
from mrl_text.losses import nested_infonce
from tests.conftest import WORDS
from tests.eval.test_results import BASE, MODEL, MadeUpSweep, queries, share_kept

README = "---\nlicense: mit\ntags:\n- sentence-similarity\n---\n\n# A model\n\nAbout it.\n\n## Usage\n\nUse it.\n"
BEFORE, AFTER = {8: 0.125, 32: 0.5}, {8: 0.2504, 32: 0.49}
RECIPE = "model:\n  name: base\ndescription: has ``` and a <b>tag</b>\n"


def rows(card: str) -> list[list[str]]:
    """Cells of every table row, heads included, rulers left out."""
    lines = [line for line in card.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def without_section(card: str) -> str:
    return re.sub(r"<!-- mrl-text sizes: begin -->.*<!-- mrl-text sizes: end -->\n\n", "", card, flags=re.DOTALL)


def test_the_table_shows_bytes_and_the_curve_beside_the_starting_model() -> None:
    card = describe_sizes(README, dims=[8, 32], before=BEFORE, after=AFTER)
    assert rows(card) == [
        ["size", "bytes per vector", "starting model", "this model"],
        ["32", "128", "50.00", "49.00"],
        ["8", "32", "12.50", "25.04"],
    ]
    assert "mrl-text eval" not in card
    assert "with nDCG@10 (x100) on the validation data" in card
    scored = describe_sizes(README, dims=[8, 32], before=BEFORE, after=AFTER, metric="Spearman correlation")
    assert scored == card.replace("nDCG@10", "Spearman correlation")


def test_without_validation_the_card_says_that_nothing_was_measured() -> None:
    card = describe_sizes(README, dims=[32, 8], run="runs/mine")
    assert rows(card) == [["size", "bytes per vector"], ["32", "128"], ["8", "32"]]
    assert "has not been measured: run `mrl-text eval runs/mine`" in card


def test_the_section_comes_first_and_nothing_else_changes() -> None:
    card = describe_sizes(README, dims=[8], after=AFTER, recipe=RECIPE)
    assert without_section(card) == README
    assert card.index("About it.") < card.index("## Sizes") < card.index("## Usage")
    assert (
        HubCard(card).data.to_dict()
        == HubCard(README).data.to_dict()
        == {
            "license": "mit",
            "tags": ["sentence-similarity"],
        }
    )


@pytest.mark.parametrize("readme", ["", "# Only a title\n", "---\nlicense: mit\n---\n"])
def test_a_card_without_sections_gets_one_at_its_end(readme: str) -> None:
    card = describe_sizes(readme, dims=[8], after=AFTER)
    assert card.startswith(readme.rstrip())
    assert card.count("## Sizes") == 1
    assert card.endswith("<!-- mrl-text sizes: end -->\n")


def test_a_second_time_the_section_is_replaced() -> None:
    first = describe_sizes(README, dims=[8, 16, 32], after=AFTER, data={"old": 3})
    second = describe_sizes(first, dims=[8], after=AFTER, data={"new": 4})
    assert second == describe_sizes(README, dims=[8], after=AFTER, data={"new": 4})


def test_a_marker_that_lost_its_end_is_an_error_and_not_the_rest_of_the_card() -> None:
    card = describe_sizes(README, dims=[8]).replace("<!-- mrl-text sizes: end -->", "")
    with pytest.raises(ValueError, match="sizes: begin -->' without '<!-- mrl-text sizes: end -->'"):
        describe_sizes(card, dims=[8])


def test_recipe_data_and_versions_are_there_and_read_as_what_they_are() -> None:
    data = {"pairs|of *mine*": 12_345, "one": 1, "streamed": None}
    card = describe_sizes(README, dims=[8], recipe=RECIPE, data=data, versions={"torch": "2.13.0+cpu"})
    assert f"````yaml\n{RECIPE}````" in card, "the fence is longer than any inside"
    assert "- pairs\\|of \\*mine\\*: 12,345 rows\n- one: 1 row\n- streamed\n" in card
    assert "- torch 2.13.0+cpu" in card
    assert card.count("<details>") == card.count("</details>") == 2


@pytest.mark.parametrize("method", get_args(AdaptMethod))
def test_the_card_of_an_adapted_model_keeps_that_of_its_base(method: AdaptMethod) -> None:
    facts: dict[str, Any] = {"base": "org/base", "method": method, "dims": [8, 32], "texts": 12_000}
    card = describe_adaptation('---\nlicense: mit\n---\n\n# Base\n\nSentenceTransformer("base")\n', "mine", **facts)
    assert card.startswith("---\nlicense: mit\n---\n\n# mine\n\n## Adapted with mrl-text\n\nThe vectors of org/base")
    ours, theirs = card.split("## Card of the base model\n\n")
    assert "cut to 8, 32 numbers" in ours and "12,000 texts" in ours and "truncate_dim=8" in ours
    assert theirs == '# Base\n\nSentenceTransformer("base")\n'
    assert describe_adaptation("", "mine", **facts).startswith("# mine\n\n## Adapted with mrl-text\n")


def test_sizes_are_read_from_the_evaluators_names() -> None:
    metrics = {"validation_dim8_ndcg@10": 0.25, "validation_dim128_ndcg@10": 0.5, "loss": 1.0}
    assert sizes_measured(metrics) == {8: 0.25, 128: 0.5}


def train_one_step(folder: Path, tiny_bert: Path, card: SentenceTransformerModelCardData, data: Dataset) -> None:
    model = MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=[8, 32], model_card_data=card, device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        str(folder / "checkpoints"), max_steps=1, report_to="none", save_strategy="no", use_cpu=True
    )
    SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=nested_infonce(model, [8, 32])).train()
    model.save_pretrained(str(folder))


@pytest.mark.slow
def test_the_card_of_a_trained_model_has_no_training_text(
    tiny_bert: Path, tmp_path: Path, triplets: list[dict[str, str]]
) -> None:
    data = Dataset.from_list(triplets).select_columns(["anchor", "positive"])
    found = {}
    for kind in (SentenceTransformerModelCardData, ModelCard):
        train_one_step(tmp_path / kind.__name__, tiny_bert, kind(), data)
        card = (tmp_path / kind.__name__ / "README.md").read_text(encoding="utf-8")
        found[kind] = sum(row["anchor"] in card or row["positive"] in card for row in triplets)
        assert "64 training samples" in card
    assert found[SentenceTransformerModelCardData] > 0, "the parent does show them"
    assert found[ModelCard] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SentenceTransformer, MatryoshkaEncoder])
def test_the_section_outlives_loading_and_saving(
    tiny_bert: Path, tmp_path: Path, triplets: list[dict[str, str]], kind: type[SentenceTransformer]
) -> None:
    data = Dataset.from_list(triplets).select_columns(["anchor", "positive"])
    train_one_step(tmp_path / "model", tiny_bert, ModelCard(), data)
    write_card(tmp_path / "model", dims=[8, 32], before=BEFORE, after=AFTER, recipe=RECIPE)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert ["8", "32", "12.50", "25.04"] in rows(card)
    assert "sentence-transformers" in HubCard(card).data.to_dict()["tags"]
    kind(str(tmp_path / "model"), device="cpu").save_pretrained(str(tmp_path / "again"))
    assert (tmp_path / "again" / "README.md").read_text(encoding="utf-8") == card


@pytest.fixture(scope="module")
def measured(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A model with its base, evaluated on pairs and on labelled texts."""
    folder = tmp_path_factory.mktemp("measured")
    model = MatryoshkaEncoder(str(tiny_bert), matryoshka_dims=[8, 32], device="cpu")
    model[0].auto_model.encoder.layer[1].output.dense.weight.data.mul_(1.5)  # other weights than the base's
    model.describe(name="mine", base_model=str(tiny_bert))
    model.save_pretrained(str(folder / "run" / "model"))
    count = len(WORDS) - 1
    pairs = {"sentence1": WORDS[1:], "sentence2": WORDS[:-1], "score": [index % 5 for index in range(count)]}
    pd.DataFrame(pairs).to_csv(folder / "pairs.csv", index=False)
    texts = {"text": [f"the {word}" for word in WORDS], "label": [len(word) % 2 for word in WORDS]}
    pd.DataFrame(texts).to_csv(folder / "labels.csv", index=False)
    result = sweep(
        [str(folder / "run")],
        data=[folder / "pairs.csv", folder / "labels.csv"],
        output=folder / "evaluation",
        dims=[8, 32],
        precisions=["float32"],
        controls=["base", "pca"],
        as_="clustering",
    )
    return folder / "run", result


@pytest.mark.slow
def test_the_measured_curve_comes_with_its_controls_and_replaces_the_one_before(measured: tuple[Path, Any]) -> None:
    run, result = measured
    file = run / "model" / "README.md"
    write_card(run / "model", dims=[8, 32], recipe=RECIPE)
    described = file.read_text(encoding="utf-8")
    write_curve(run, result)
    once = file.read_text(encoding="utf-8")
    tables = rows(once)[len(rows(described)) :]
    for heading in ("**Mean of 2 tasks**", "**STS** (pairs)", "**Clustering** (labels)"):
        assert once.count(heading) == 1
    assert [row[:2] for row in tables] == [["bytes", "size"], ["128", "32"], ["32", "8"]] * 3
    assert len(tables[0]) == 2 + len(result.lines) + 1 == 6
    scores = result.scores.set_index(["task", "role", "method", "dim"])["score"]
    assert list(result.tasks) == ["pairs", "labels"]
    for start, tasks in ((0, ["pairs", "labels"]), (3, ["pairs"]), (6, ["labels"])):
        means = [
            {dim: np.mean([scores[task, line.role, line.method, dim] for task in tasks]) for dim in (8, 32)}
            for line in result.lines
        ]
        for row in tables[start + 1 : start + 3]:
            dim = int(row[1])
            own, kept, *others = (float(cell.split()[0]) for cell in row[2:])
            assert [own, *others] == pytest.approx([100 * mean[dim] for mean in means], abs=0.006)
            assert kept == pytest.approx(100 * means[0][dim] / means[0][32], rel=1e-3), "mteb rounds its scores"
    write_curve(run / "model", result)
    assert file.read_text(encoding="utf-8") == once
    assert RECIPE in once


@pytest.mark.slow
def test_a_model_that_others_trained_gets_the_curve_too(measured: tuple[Path, Any]) -> None:
    run, result = measured
    (run / "model" / "README.md").write_text(README, encoding="utf-8")
    write_curve(run, result)
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert without_section(card) == README
    assert ["bytes", "size"] in [row[:2] for row in rows(card)]


def test_an_evaluation_of_other_weights_is_refused(measured: tuple[Path, Any], tmp_path: Path) -> None:
    run, result = measured
    model = MatryoshkaEncoder(str(run), device="cpu")
    model[0].auto_model.encoder.layer[0].output.dense.weight.data.mul_(2)
    model.save_pretrained(str(tmp_path / "other"))
    before = (tmp_path / "other" / "README.md").read_bytes()
    with pytest.raises(
        ValueError, match=r"the evaluation has no scores of the weights in .*other; it measured local/mine"
    ):
        write_curve(tmp_path / "other", result)
    assert (tmp_path / "other" / "README.md").read_bytes() == before


def test_a_card_leads_with_what_so_many_bytes_hold(tmp_path: Path) -> None:
    whole = queries(0.6)
    made = MadeUpSweep(tmp_path).curve({64: whole, 16: share_kept(whole, 0.8)}).curve({64: queries(0.5)}, BASE)
    made.add(share_kept(whole, 0.97), MODEL, Cell(64, "int2")).add(share_kept(whole, 0.7), MODEL, Cell(64, "binary"))
    made.add(share_kept(whole, 0.6), MODEL, Cell(64, "binary", "symmetric"))
    results = made.add(share_kept(whole, 0.9), MODEL, Cell(64, "binary", rescore=10)).results()
    text = curve_text(results, MODEL, [BASE])
    base = results.estimate(BASE, Cell(64))
    assert base is not None
    assert re.search(
        r"as few bytes of memory, or of memory and disk. The untrained base has 50.00 \[[\d., ]+\] in 256 bytes.", text
    )
    front, *_, others = [table for table in re.split(r"\n\n", text) if table.startswith("| bytes")]
    kinds = [[*row[:4], row[4].split()[0]] for row in rows(front)]
    assert kinds == [
        ["bytes", "on disk", "size", "precision", "score"],
        ["256", "", "64", "float32", "60.00"],
        ["16", "", "64", "int2", "58.20"],
        ["8", "", "64", "binary", "42.00"],
        ["8", "256", "64", "binary", "54.00"],
    ]
    assert [row[:4] for row in rows(others)] == [
        ["bytes", "size", "precision", "queries"],
        ["8", "64", "binary", "coded"],
    ]
