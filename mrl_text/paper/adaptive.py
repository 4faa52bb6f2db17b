"""Adaptive classification and retrieval: numbers of other measurements, shown where they were handed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrl_text.figures import Panel, Series
from mrl_text.paper import published
from mrl_text.paper.experiment import Experiment, Missing
from mrl_text.paper.page import Question, Section


def measure(experiment: Experiment) -> dict[str, Any]:
    """Read the result files; one that is not there or lacks a key raises as :func:`read_classification` says."""
    if experiment.classification is None and experiment.search is None:
        raise Missing("needs result files of adaptive classification (--classification) or search (--search)")
    return {
        "classification": [] if experiment.classification is None else [read_classification(experiment.classification)],
        "search": [] if experiment.search is None else [read_tuning(experiment.search)],
    }


def read_classification(file: Path) -> dict[str, Any]:
    """From ``results.json`` of ``mrl-text classify``: name, width, its accuracy, the cascade's and its expected size.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file.
    """

    def values(found: Any) -> dict[str, Any]:
        single = {int(dim): float(score) for dim, score in found["single"].items()}
        return {
            "name": Path(found["train"]).stem,
            "width": max(single),
            "accuracy": single[max(single)],
            "expected_dim": float(found["cascade"]["largest"]),
            "cascade_accuracy": float(found["cascade"]["accuracy"]),
        }

    return _read(file, "results.json of mrl-text classify", values)


def read_tuning(file: Path) -> dict[str, Any]:
    """From ``tune.json`` of ``mrl-text index tune``: name, documents, how much faster than exact search, share kept.

    The share is that on the queries the plan was not chosen by. Errors are those of :func:`read_classification`, and
    ValueError for a file without exact search (``--max-ram``).
    """

    def values(found: Any) -> dict[str, Any]:
        chosen, exact = (found[name]["seconds_per_query"]["single"] for name in ("chosen", "exact"))
        return {
            "name": file.absolute().parent.name,
            "documents": int(found["documents"]),
            "speedup": exact / chosen,
            "share": float(found["chosen"]["retention"][1]),
        }

    return _read(file, "tune.json of mrl-text index tune with exact search", values)


def _read(file: Path, what: str, values: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"no result file at {file}")
    try:
        return values(json.loads(file.read_text(encoding="utf-8")))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no {what}: it lacks {error}") from None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error


def draw(result: dict[str, Any]) -> list[Panel]:
    """Accuracy lost against the full size, over the share of it that is used, images beside text."""
    if not result["classification"]:
        return []
    full = published.LINEAR[published.SIZES[-1]]
    images = [(dim, accuracy - full, None, None) for dim, accuracy in published.CASCADE]
    series = [Series("images, cascade of the paper", images, control=True)]
    for row in result["classification"]:
        point = (row["expected_dim"], 100 * (row["cascade_accuracy"] - row["accuracy"]), None, None)
        series.append(Series(f"text, {row['name']}", [point]))
    return [Panel("cascade against the full size", "points of accuracy", series, xlabel="expected size")]


def tell(result: dict[str, Any]) -> Section:
    """How much smaller and faster for the same quality."""
    words = [
        f"{row['name']}: {100 * row['cascade_accuracy']:.1f} at an expected {row['expected_dim']:.0f} numbers,"
        f" {100 * row['accuracy']:.1f} at {row['width']}: {row['width'] / row['expected_dim']:.1f} times smaller"
        for row in result["classification"]
    ] + [
        f"{row['name']}, {row['documents']:,} documents: {row['speedup']:.1f} times faster at"
        f" {100 * row['share']:.1f} % of the quality of exact full-width search"
        for row in result["search"]
    ]
    dim, accuracy = published.CASCADE[3]
    best = max([row["width"] / row["expected_dim"] for row in result["classification"]] or [0.0])
    fastest = max([row["speedup"] for row in result["search"]] or [0.0])
    verdict = [
        f"the cascade is {best:.1f} times smaller, against up to 14 for images" if best else "",
        f"search is {fastest:.1f} times faster, against up to 14 for images" if fastest else "",
    ]
    joined = "; ".join(filter(None, verdict))
    return Section(
        paper=(
            "Up to 14 times smaller for the same accuracy and up to 14 times faster retrieval (abstract); the cascade"
            f" reaches {accuracy:.2f} at an expected {dim:.0f} numbers (cascade plot data)."
        ),
        ours="; ".join(words) + ".",
        verdict=f"For text {joined}.",
        notes="Numbers of other measurements, taken from the files that were handed over.",
    )


QUESTION = Question("adaptive", "Adaptive classification and retrieval", measure, draw, tell)
