"""The one-pass evaluation: every model, every task, every size, each text encoded once."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mteb
import pandas as pd
import pytrec_eval
from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.cache import ResultCache
from mteb.models import ModelMeta
from mteb.results import TaskResult
from tqdm.auto import tqdm

from mrl_text.encoder import MatryoshkaEncoder
from mrl_text.files import write_atomically
from mrl_text.models import ModelSource, find_model, peek_width
from mrl_text.training.recipe import EvalConfig, load_recipe
from mrl_text.truncation import bytes_per_vector, check_dims

from .cache import EmbeddingCache
from .encoders import PrefixEncoder, RecordingSearch, model_meta
from .statistics import Interval, bootstrap_mean, paired_bootstrap
from .tasks import TaskLoader

logger = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Line:
    """One model of a sweep: a line in the figure."""

    source: ModelSource
    dims: tuple[int, ...]
    role: str
    """``"model"``, or ``"control"`` for the untrained base of another model."""
    dtype: Dtype = "float32"
    """What the model computes in."""

    @property
    def label(self) -> str:
        """Name in tables and figures."""
        return f"{self.source.label} (untrained base)" if self.role == "control" else self.source.label

    @property
    def slug(self) -> str:
        """Folder name for what belongs to these weights computed in this type."""
        kind = "" if self.dtype == "float32" else f"-{self.dtype}"
        return f"{self.source.name.replace('/', '__')}-{self.source.revision}{kind}"


class SweepResult:
    """Scores of a sweep and where they are kept.

    Attributes:
        scores: the tidy table, one row per model, task, split, subset and size; scores 0..1.
        folder: where the files are.
        lines: the models, in the order of the request, each control after its model.
        encoded: texts that were encoded in this process, by model name.
    """

    def __init__(self, scores: pd.DataFrame, folder: Path, lines: list[Line], encoded: dict[str, int]) -> None:
        self.scores = scores
        self.folder = folder
        self.lines = lines
        self.encoded = encoded

    def curve(self, line: Line) -> dict[int, float]:
        """Size -> mean score over tasks; a task counts once, however many splits and subsets it has."""
        rows = self.scores[
            (self.scores["model"] == line.source.name) & (self.scores["revision"] == line.source.revision)
        ]
        means = rows.groupby(["dim", "task"])["score"].mean().groupby("dim").mean()
        return dict(zip(means.index.astype(int).tolist(), means.astype(float).tolist(), strict=True))

    def compare(self, task: str, line: Line, dim: int, other: Line, other_dim: int) -> Interval:
        """Paired bootstrap of the score difference of two lines on one task with per-item scores.

        Raises:
            FileNotFoundError: the size was not evaluated.
            ValueError: the task has no per-item scores.
        """
        scores = _read_items(_items_file(self.folder, line, dim, task))
        control = _read_items(_items_file(self.folder, other, other_dim, task))
        return paired_bootstrap(scores, control)


def sweep(
    models: Sequence[str],
    tasks: Sequence[str],
    *,
    output: str | Path,
    dims: Sequence[int] | None = None,
    mirror: str | Path | None = None,
    control: bool = True,
    batch_size: int = 32,
    device: str | None = None,
    dtype: Dtype = "float32",
) -> SweepResult:
    """Evaluate models on mteb tasks at every size from one encoding pass per text.

    Texts are encoded once at full width and kept in ``output/embeddings``; each size is a slice of that. Results
    that ``output`` already holds for the same model revision, data revision and mteb version are not computed
    again, so an interrupted sweep continues where it stopped.

    Args:
        models: names or folders, see :func:`mrl_text.models.find_model`.
        tasks: mteb task names, or ``DocstringRetrieval``.
        output: folder for everything: ``results/`` in mteb's own layout, ``items/`` with per-query scores,
            ``embeddings/``, and the tidy table ``scores.csv`` and ``scores.parquet``.
        dims: sizes to evaluate; None takes the trained sizes of a Matryoshka model and halvings of the width down
            to 16 of any other. Full width is always evaluated, since retention is measured against it, and sizes
            beyond a model's width are left out for that model.
        mirror: folder with local copies of hub data sets.
        control: for a model that names the base it was trained from, evaluate that base truncated the same way.
        batch_size: texts per forward pass.
        device: where to encode; None chooses.
        dtype: what the models compute in. bfloat16 is faster where the processor has it and differs from
            float32 in the second decimal of a score; results of different types are kept apart.

    Raises:
        FileNotFoundError: model or mirror data not there.
        ValueError: unknown task, impossible size (below 1, or beyond every model's width), no model.
    """
    folder = Path(output)
    lines = _lines(models, dims, control, dtype)
    loader = TaskLoader(tasks, mirror)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    encoded: dict[str, int] = {}
    total = len(loader.names) * sum(len(line.dims) for line in lines)
    with tqdm(total=total, desc="Evaluating", unit="result", dynamic_ncols=True) as bar:
        for line in lines:
            cache = embedding_cache(folder, line, batch_size=batch_size, device=device)
            for name in loader.names:
                for dim in line.dims:
                    bar.set_postfix_str(f"{line.source.label}, {name}, {dim}")
                    result = _evaluate(folder, line, cache, loader, name, dim)
                    rows.extend(_rows(folder, line, loader.metadata(name), dim, result))
                    bar.update()
                if line is lines[-1]:
                    loader.release(name)
            encoded[line.source.name] = cache.encoded
    table = pd.DataFrame(rows)
    write_atomically(folder / "scores.csv", table.to_csv(index=False).encode())
    write_atomically(folder / "scores.parquet", table.to_parquet(index=False))
    return SweepResult(table, folder, lines, encoded)


def recipe_eval(model: str) -> EvalConfig:
    """What the recipe of a run says about its evaluation; empty for a model that is no run of ours.

    Args:
        model: folder of a run, or of the model in it; any other name gives the empty answer.
    """
    folder = Path(model)
    run = folder.parent if folder.name == "model" and (folder / "modules.json").is_file() else folder
    recipe = run / "recipe.yaml"
    return load_recipe(str(recipe)).eval if recipe.is_file() else EvalConfig()


def _lines(models: Sequence[str], dims: Sequence[int] | None, control: bool, dtype: Dtype) -> list[Line]:
    if not models:
        raise ValueError("no model given")
    lines: list[Line] = []
    for name in models:
        source = find_model(name)
        lines.append(Line(source, _sizes(source, dims), "model", dtype))
        if control and source.base_model is not None:
            try:
                base = find_model(source.base_model)
                lines.append(Line(base, _sizes(base, lines[-1].dims), "control", dtype))
            except FileNotFoundError as error:
                logger.warning("%s is shown without the untrained base: %s", source.name, error)
    if dims and (highest := max(max(line.dims) for line in lines)) < max(dims):
        raise ValueError(f"dims asks for {max(dims)}, but the widest of these models has {highest} numbers")
    unique: dict[tuple[str, str], Line] = {}
    for line in lines:
        known = unique.get((line.source.name, line.source.revision))
        if known is None or (known.role == "control" and line.role == "model"):
            unique[line.source.name, line.source.revision] = line
    return list(unique.values())


def _sizes(source: ModelSource, dims: Sequence[int] | None) -> tuple[int, ...]:
    width = peek_width(source)
    wanted = check_dims(dims) if dims else source.matryoshka_dims
    if width is None:
        if not wanted:
            raise ValueError(f"{source.name} does not tell its width: give the sizes with --dims, full width included")
        return check_dims(wanted)
    if not wanted:
        wanted = tuple(width >> shift for shift in range(int(math.log2(max(width, 16) / 16)) + 1))
    return check_dims([*(dim for dim in wanted if dim <= width), width])


def embedding_cache(folder: Path, line: Line, *, batch_size: int = 32, device: str | None = None) -> EmbeddingCache:
    """The full-width embeddings that a sweep into ``folder`` keeps of one model."""

    def load() -> MatryoshkaEncoder:
        try:
            model = MatryoshkaEncoder(line.source.path, device=device, model_kwargs={"dtype": line.dtype})
        except OSError as error:
            reason = " ".join(str(error).split())[:200]
            raise FileNotFoundError(f"model {line.source.name} cannot be loaded: {reason}") from error
        model.truncate_dim = None  # a cut saved with the model must not pass for full width
        model.warn_when_cut = False  # a benchmark's texts are as long as they are
        return model

    return EmbeddingCache(load, folder / "embeddings" / line.slug, batch_size)


def _evaluate(folder: Path, line: Line, cache: EmbeddingCache, loader: TaskLoader, name: str, dim: int) -> TaskResult:
    results = ResultCache(cache_path=folder)
    meta = model_meta(line.source, dim, line.dtype)
    items = _items_file(folder, line, dim, name)
    data = loader.fingerprint(name)
    known = _known_result(results, name, meta, items, data)
    if known is not None:
        return known
    task = loader.fresh(name)
    described = model_meta(line.source, dim, line.dtype, cache.model.similarity_fn_name)
    encoder = PrefixEncoder(cache, dim, described)
    model = RecordingSearch(encoder) if isinstance(task, AbsTaskRetrieval) else encoder
    answer = mteb.evaluate(
        model,
        task,
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
        encode_kwargs={"batch_size": 32, "show_progress_bar": False},
    )
    result = answer.task_results[0]
    scores = _per_query(task, model) if isinstance(model, RecordingSearch) else {}
    write_atomically(items, json.dumps({"data": data, "scores": scores}).encode())
    results.save_to_cache(result, meta)  # last: a result on disk means its items are, too
    return result


def _known_result(results: ResultCache, name: str, meta: ModelMeta, items: Path, data: str) -> TaskResult | None:
    """The result of an earlier run, if it is whole and was measured on the same data with the same mteb."""
    try:
        known = results.load_task_result(name, meta)
        same_data = json.loads(items.read_text(encoding="utf-8"))["data"] == data
    except FileNotFoundError:
        return None
    except (ValueError, KeyError):  # half a file
        logger.warning("the result of %s for %s is damaged and is computed again", name, meta.name)
        return None
    return known if known is not None and same_data and known.mteb_version == mteb.__version__ else None


def _per_query(task: AbsTask, search: RecordingSearch) -> dict[str, float]:
    """nDCG@10 of every query, by the evaluator that mteb itself uses; ids carry split and subset."""
    scores = {}
    for (split, subset), ranking in search.rankings.items():
        judgements = task.dataset[subset][split]["relevant_docs"]
        evaluator = pytrec_eval.RelevanceEvaluator(judgements, {"ndcg_cut.10"})
        for query, measures in evaluator.evaluate(ranking).items():
            scores[f"{split}/{subset}/{query}"] = float(measures["ndcg_cut_10"])
    return scores


def _rows(folder: Path, line: Line, metadata: Any, dim: int, result: TaskResult) -> list[dict[str, Any]]:
    items = _items_file(folder, line, dim, metadata.name)
    per_item = _read_items(items)
    rows = []
    for split, subsets in result.scores.items():
        for scores in subsets:
            prefix = f"{split}/{scores['hf_subset']}/"
            values = [score for item, score in per_item.items() if item.startswith(prefix)]
            interval = bootstrap_mean(values) if values and metadata.main_score == "ndcg_at_10" else None
            rows.append(
                {
                    "model": line.source.name,
                    "revision": line.source.revision,
                    "role": line.role,
                    "task": metadata.name,
                    "type": metadata.type,
                    "split": split,
                    "subset": scores["hf_subset"],
                    "dim": dim,
                    "precision": "float32",
                    "dtype": line.dtype,
                    "bytes": bytes_per_vector(dim),
                    "metric": metadata.main_score,
                    "score": float(scores["main_score"]),
                    "ci_low": interval.low if interval else float("nan"),
                    "ci_high": interval.high if interval else float("nan"),
                    "n": interval.n if interval else pd.NA,
                }
            )
    return rows


def _items_file(folder: Path, line: Line, dim: int, task: str) -> Path:
    return folder / "items" / line.slug / f"embed_dim_{dim}" / f"{task}.json"


def _read_items(file: Path) -> dict[str, float]:
    scores: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))["scores"]
    return scores
