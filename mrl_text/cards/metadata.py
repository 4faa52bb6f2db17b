"""The YAML head of a card: what the hub files the model under, and the scores it reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import EvalResult
from huggingface_hub import ModelCard as HubCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from mrl_text.files import read_json
from mrl_text.models import ModelSource, read_metadata

if TYPE_CHECKING:
    from mrl_text.eval.grid import Line
    from mrl_text.eval.results import Results

SOURCE_NAME, SOURCE_URL = "mrl-text eval", "https://github.com/embeddings-benchmark/mteb/"
"""Marks the scores that we wrote into a card. The next push replaces only these."""

TAGS = ["sentence-transformers", "feature-extraction", "sentence-similarity", "matryoshka"]
_LANGUAGES = ("multilingual", "code")
_FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".gz")


def check_names(repo: str, license: str | None, languages: Sequence[str]) -> None:
    """Refuse with ValueError what cannot be a repository (``owner/name``), a license or a language.

    A license looks like ``apache-2.0``; a language is a code of two or three letters, ``multilingual`` or ``code``. The
    hub itself refuses what it does not know.
    """
    try:
        validate_repo_id(repo)
        problem = "" if "/" in repo else "the owner is missing"
    except HFValidationError as error:
        problem = str(error)
    if problem:
        raise ValueError(f"{repo!r} names no repository: expected owner/name, such as my-org/my-model; {problem}")
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(
            f"license {license!r}: expected the hub's short name in lower case, such as apache-2.0, mit or cc-by-4.0"
        )
    for name in languages:
        if not re.fullmatch("[a-z]{2,3}(-[A-Za-z]{2,4})?", name) and name not in _LANGUAGES:
            raise ValueError(f"language {name!r}: expected an ISO 639 code such as en or deu, or multilingual")


def known_facts(source: ModelSource, *, measured: bool) -> dict[str, Any]:
    """Collect base model, training data and tags from the model and its run.

    A base model or data set that is not a name on the hub, such as a folder of this machine, is left out.
    """
    facts: dict[str, Any] = {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity"}
    folder = Path(source.path)
    base = source.base_model or read_metadata(folder).get("base_model")
    if isinstance(base, str) and _is_hub_name(base):
        facts["base_model"] = base
    if datasets := _training_data(folder.parent / "recipe.yaml"):
        facts["datasets"] = datasets
    facts["tags"] = [*TAGS, *(["mteb"] if measured else [])]
    return facts


def eval_results(results: Results, own: Line) -> list[EvalResult]:
    """Give a model's float32 scores in the hub's form, as mteb writes them.

    One entry per task, split, subset and size. The hub tells results apart by task and data set, so the sizes of one
    data set stand in one entry, as metrics: the full width under the metric's plain name, a cut size as
    ``ndcg_at_10 (dim 64)`` with the argument ``truncate_dim``, as sentence-transformers calls it.

    Returns:
        Scores 0..1 of the line ``own`` of finished results, widest first.
    """
    import pandas as pd

    scores = [] if own.layers is not None else results.scores.to_dict("records")
    rows = [
        row
        for row in scores
        if (row["model"], row["revision"], row["role"]) == (own.model, own.revision, own.role)
        and (row["method"], row["dtype"], row["precision"]) == ("truncation", own.dtype, "float32")
        and pd.isna(row["layers"])
    ]
    widest = max((int(row["dim"]) for row in rows), default=0)
    facts = {task: _data_facts(results, own, task) for task in results.tasks}
    names: dict[tuple[str | None, ...], str] = {}
    found: list[EvalResult] = []
    order = list(results.tasks)
    for row in sorted(rows, key=lambda row: (order.index(row["task"]), -int(row["dim"]))):
        dim, metric = int(row["dim"]), str(row["metric"])
        arguments: dict[str, int | str] = {} if dim == widest else {"truncate_dim": dim}
        arguments |= {} if own.dtype == "float32" else {"dtype": own.dtype}
        task, (kind, data, revision) = str(row["task"]), facts[row["task"]]
        first = names.setdefault((kind, data, revision, row["subset"], row["split"]), task)
        name = metric if first == task else f"{task}: {metric}"  # the hub would take both tasks for one
        found.append(
            EvalResult(
                task_type=kind,
                task_name=str(row["type"]),
                dataset_type=data,
                dataset_name=f"{task} ({row['subset']})",
                dataset_config=str(row["subset"]),
                dataset_split=str(row["split"]),
                dataset_revision=revision,
                metric_type=metric,
                metric_name=name if dim == widest else f"{name} (dim {dim})",
                metric_value=float(row["score"]),
                metric_args=arguments or None,
                source_name=SOURCE_NAME,
                source_url=SOURCE_URL,
            )
        )
    return found


def merge(
    card: HubCard, facts: dict[str, Any], scores: Sequence[EvalResult], repo: str, hub: HubCard | None = None
) -> None:
    """Complete the metadata of a card in place.

    What ``card`` says stays, then what the card on the ``hub`` says; ``facts`` (:func:`known_facts`) fill what both
    leave open, but ``license`` and ``language`` in them take precedence. Tags of all are joined. Our ``scores`` replace
    those of an earlier push and stand beside those that others wrote. ``repo`` is owner and name.
    """
    data, there = card.data, hub.data if hub is not None else None
    own = [one for one in data.get("eval_results") or [] if one.source_name != SOURCE_NAME]
    if there is not None:
        own += [one for one in there.get("eval_results") or [] if one.source_name != SOURCE_NAME and one not in own]
        stored: dict[str, Any] = there.to_dict()  # type: ignore[no-untyped-call]
        for key, value in stored.items():
            if key not in ("model-index", "tags") and data.get(key) is None:
                data[key] = value
    if (base := data.get("base_model")) is not None:
        kept = [one for one in ([base] if isinstance(base, str) else base) if _is_hub_name(one)]
        data["base_model"] = (kept[0] if isinstance(base, str) else kept) if kept else None
    joined = [*(data.get("tags") or []), *((there.get("tags") if there is not None else None) or []), *facts["tags"]]
    data["tags"] = list(dict.fromkeys(joined))
    for key, value in facts.items():
        if key != "tags" and (key in ("license", "language") or data.get(key) is None):
            data[key] = value
    merged = [*own, *scores]
    data["eval_results"] = merged or None
    data["model_name"] = repo.partition("/")[2] if merged else None


def _data_facts(results: Results, own: Line, task: str) -> tuple[str, str, str | None]:
    """The hub's name for the kind of task; the data set; its revision, where the result file has it."""
    import mteb

    recorded = _recorded(results, own, task)
    try:
        metadata = mteb.get_task(task).metadata
    except (KeyError, ValueError):  # the user's own data, or our docstrings
        return "feature-extraction", task, None
    kinds = metadata._hf_task_type()  # the hub's word; mteb's own way to its model cards
    revision = recorded.get("dataset_revision")
    return kinds[0], metadata.dataset["path"], revision if isinstance(revision, str) else None


def _recorded(results: Results, own: Line, task: str) -> dict[str, Any]:
    place = f"results/{own.model.replace('/', '__')}/{own.revision}"
    for folder in results.folders:
        for file in sorted((folder / place).rglob(f"{task}.json")):
            with suppress(OSError, ValueError):
                found: dict[str, Any] = read_json(file)
                return found
    return {}


def _training_data(recipe: Path) -> list[str]:
    try:
        sources = yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"]["train"]
        names = [str(one["source"]) for one in sources]
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        return []
    return [name for name in dict.fromkeys(names) if _is_hub_name(name) and not name.endswith(_FILES)]


def _is_hub_name(name: object) -> bool:
    if not isinstance(name, str) or name.startswith("local/") or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name
