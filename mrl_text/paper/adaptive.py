"""Adaptive classification and retrieval: numbers of other measurements, shown where they were handed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mrl_text.paper import published
from mrl_text.paper.charts import Panel, Series
from mrl_text.paper.world import Missing, Question, Section, World

CLASSIFICATION = ("name", "width", "accuracy", "expected_dim", "cascade_accuracy")
"""Of each row: task, full size, accuracy there (0 to 1), expected size of the cascade and its accuracy."""
SEARCH = ("name", "documents", "speedup", "share")
"""Of each row: index, documents, how many times faster than exact full-width search, share of its quality (0 to 1)."""


def measure(world: World) -> dict[str, Any]:
    """Read the result files.

    Raises:
        Missing: none was handed over.
        FileNotFoundError, ValueError: a file that is not there or lacks a key.
    """
    if world.classification is None and world.search is None:
        raise Missing("needs result files of adaptive classification (--classification) or search (--search)")
    return {
        "classification": [] if world.classification is None else read_rows(world.classification, CLASSIFICATION),
        "search": [] if world.search is None else read_rows(world.search, SEARCH),
    }


def read_rows(file: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """One JSON object, or a list of them, with these keys; others are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, or a key is missing.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no result file at {file}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    rows = found if isinstance(found, list) else [found]
    for row in rows:
        lacking = [key for key in keys if not isinstance(row, dict) or key not in row]
        if lacking:
            raise ValueError(f"{file} lacks {', '.join(lacking)}: it needs rows with {', '.join(keys)}")
    return [{key: row[key] for key in keys} for row in rows]


def draw(result: dict[str, Any]) -> list[Panel]:
    """Accuracy lost against the full size, over the share of it that is used, images beside text."""
    if not result["classification"]:
        return []
    full = published.LINEAR["MRL"][published.SIZES[-1]]
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
