"""The recipe `sts` against sentence-transformers' own trainer and losses: their weights, and both curves.

One side is `mrl-text train sts` with the data named here, the other SentenceTransformerTrainer with
MatryoshkaLoss(CoSENTLoss): the same model, rows, order, scale, rate and schedule, no dropout, float32. Printed are the
largest difference of any weight, beside the largest change that training made, and Spearman's correlation x100 of the
base and of both at every size. Rows that share a sentence with the test part are left out, as the recipe does it.

    python benchmarks/sts.py stsbenchmark-sts/ --model sentence-transformers/all-MiniLM-L6-v2
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from scipy.stats import spearmanr
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MatryoshkaLoss

from mrl_text.models import find_model
from mrl_text.training import train
from mrl_text.training.batches import NoDuplicatesBatchSampler
from mrl_text.training.recipe import Recipe
from mrl_text.training.recipe_files import load_recipe
from mrl_text.truncation import truncate

COLUMNS = ["sentence1", "sentence2", "score"]


def main() -> None:
    """Train both sides and print how they differ and what they gave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train.parquet, validation.parquet and test.parquet")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--max-steps", type=int, default=-1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        recipe = _recipe(arguments, Path(scratch) / "train.parquet")
        ours = SentenceTransformer(str(train(recipe, Path(scratch) / "ours")), device="cpu")
        theirs = _published(recipe, Path(scratch))
    base = SentenceTransformer(find_model(arguments.model).path, device="cpu")
    _compare_weights(base, ours, theirs)
    for part in ("validation", "test"):
        _print_curves(
            part, _rows(arguments.data, part), recipe.loss.dims, {"base": base, "ours": ours, "theirs": theirs}
        )


def _rows(folder: Path, part: str) -> Dataset:
    return Dataset.from_parquet(str(folder / f"{part}.parquet")).select_columns(COLUMNS)


def _recipe(arguments: argparse.Namespace, file: Path) -> Recipe:
    """The shipped recipe on the rows of the training part that share no sentence with the test part."""
    tested = {text for name in COLUMNS[:2] for text in _rows(arguments.data, "test")[name]}
    rows = _rows(arguments.data, "train").filter(lambda row: tested.isdisjoint((row["sentence1"], row["sentence2"])))
    rows.to_parquet(file)
    return load_recipe(
        "sts",
        [
            f"model.name={arguments.model}",
            f"data.train=[{{source: {file}, columns: [{', '.join(COLUMNS)}]}}]",
            "data.validation=[]",
            "data.check_against=[]",
            "data.deduplicate=false",  # the same rows for both
            f"training.max_steps={arguments.max_steps}",
            "training.use_cpu=true",
            "training.bf16=false",
            "training.save_strategy='no'",
        ],
    )


def _published(recipe: Recipe, folder: Path) -> SentenceTransformer:
    model = SentenceTransformer(find_model(recipe.model.name).path, device="cpu")
    read, model.max_seq_length = model.max_seq_length, recipe.model.train_seq_length
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    loss = MatryoshkaLoss(model, CoSENTLoss(model, scale=recipe.loss.options["scale"]), recipe.loss.dims)
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            str(folder / "theirs"),
            batch_sampler=functools.partial(NoDuplicatesBatchSampler, repeats=True),
            report_to="none",
            **recipe.training,
        ),
        train_dataset=Dataset.from_parquet(str(folder / "train.parquet")),
        loss=loss,
    ).train()
    model.max_seq_length = read
    return model


def _compare_weights(base: SentenceTransformer, ours: SentenceTransformer, theirs: SentenceTransformer) -> None:
    start, left, right = (model[0].auto_model.state_dict() for model in (base, ours, theirs))
    change = max(float((right[name] - start[name]).abs().max()) for name in right)
    apart = max(float((right[name] - left[name]).abs().max()) for name in right)
    print(f"largest change of a weight {change:.1e}; ours and theirs differ by {apart:.1e} at most")


def _print_curves(part: str, rows: Dataset, dims: list[int], models: dict[str, SentenceTransformer]) -> None:
    sizes = sorted(dims, reverse=True)
    print(f"{part}, {len(rows):,} pairs: {' / '.join(str(dim) for dim in sizes)}")
    for name, model in models.items():
        sides = [model.encode(rows[column]) for column in COLUMNS[:2]]
        cosines = [(truncate(sides[0], dim) * truncate(sides[1], dim)).sum(axis=1) for dim in sizes]
        scores = [100 * spearmanr(one, rows["score"]).statistic for one in cosines]
        print(f"  {name:7} {' / '.join(f'{score:.3f}' for score in scores)}", flush=True)


if __name__ == "__main__":
    main()
