from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl_text.paper import ablation, adaptive, against, fewshot, interpolation, published, robustness, superclasses
from mrl_text.paper.wording import by_size, interval, listed
from mrl_text.truncation import truncate


def test_misspelling_is_seeded_keeps_spaces_and_makes_at_most_so_many_errors() -> None:
    text = "Where is my card? It was sent 5 days ago."
    for edits in (1, 2, 4):
        wrong = robustness.misspell(text, edits)
        assert wrong != text and wrong == robustness.misspell(text, edits)
        assert wrong.count(" ") == text.count(" ") and "?" in wrong and "5" in wrong
        assert abs(len(wrong) - len(text)) <= edits
        assert levenshtein(text, wrong) <= 2 * edits  # a swap is two
    assert robustness.misspell(text, 1, seed=1) != robustness.misspell(text, 1, seed=0)
    assert robustness.misspell("42 !", 4) == "42 !"
    assert robustness.misspell("", 1) == ""
    assert robustness.misspell("a", 4) != ""


def levenshtein(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for place, letter in enumerate(first, start=1):
        previous, row[0] = row[0], place
        for column, other in enumerate(second, start=1):
            kept = previous + (letter != other)
            previous, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, kept)
    return row[-1]


def test_few_takes_so_many_of_every_class_and_differs_between_draws() -> None:
    labels = np.repeat(np.arange(6), [30, 3, 10, 1, 20, 5])
    chosen = fewshot.few(labels, 5, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [5, 3, 5, 1, 5, 5]
    assert len(np.unique(chosen)) == len(chosen)
    assert set(chosen) != set(fewshot.few(labels, 5, seed=1))


def test_long_tail_has_a_hyperbola_of_counts_and_its_thirds_are_ordered() -> None:
    labels = np.repeat(np.arange(9), 60)
    chosen = fewshot.long_tail(labels, seed=3)
    counts = np.bincount(labels[chosen])
    assert sorted(counts, reverse=True) == [60, 30, 20, 15, 12, 10, 9, 8, 7]
    parts = fewshot.thirds(labels[chosen])
    assert sorted(np.concatenate(list(parts.values()))) == list(range(9))
    assert counts[parts[fewshot.HEAD]].min() >= counts[parts[fewshot.MIDDLE]].max()
    assert counts[parts[fewshot.MIDDLE]].min() >= counts[parts[fewshot.TAIL]].max()


def test_shortfalls_are_from_the_line_over_log_size() -> None:
    line = {dim: 10 * math.log2(dim) for dim in (8, 12, 16, 24, 32)}
    assert interpolation.shortfalls(line, [8, 16, 32]) == pytest.approx({12: 0, 24: 0}, abs=1e-9)
    line[24] -= 3
    assert interpolation.shortfalls({**line, 4: 1.0, 40: 1.0}, [8, 16, 32])[24] == pytest.approx(-3)
    assert set(interpolation.shortfalls({4: 1.0, 8: 2.0, 40: 3.0}, [8])) == set()


def test_published_interpolation_of_images_lies_on_the_line_or_above() -> None:
    curve = {**published.NEAREST_NEIGHBOUR["MRL"], **published.UNTRAINED}
    below = interpolation.shortfalls(curve, list(published.SIZES))
    assert set(below) == set(published.UNTRAINED) and min(below.values()) > -0.1


def test_weightings_have_mean_one_and_lean_as_they_say() -> None:
    dims = [16, 32, 64, 128]
    found = ablation.weightings(dims)
    assert all(np.mean(weights) == pytest.approx(1) for weights in found.values())
    small, large, only = found.values()
    assert small == sorted(small, reverse=True) and large == sorted(large) and only[1:] == [0, 0, 0]
    assert ablation._sizes(16, 384) == [16, 32, 64, 128, 256, 384]
    assert ablation._sizes(8, 32) == [8, 16, 32]


def ablated(small: float) -> dict[str, Any]:
    """Starts at 8 and 16, one other weighting; ``small`` is what a start at 8 and the weighting gain at 8."""
    rows = []
    for group, side, gain in (
        ("start", "8", small),
        ("start", "16", 0.0),
        ("weights", "equal", 0.0),
        ("weights", "w", small),
    ):
        for dim, one in ((8, gain), (16, 0.0)):
            drawn = {"value": one, "low": one - 0.5, "high": one + 0.5}
            rows.append(
                {"group": group, "side": side, "dim": dim, "value": 50 + one, "low": 0, "high": 1, "gain": drawn}
            )
    return {"rows": rows, "start": 16, "texts": 1, "seeds": 1}


def test_words_about_the_smallest_size_follow_the_numbers() -> None:
    gained, lost = (ablation.tell(ablated(small)) for small in (2.0, -2.0))
    assert "best when it is fitted" in gained.verdict and "w gains at some sizes" in gained.verdict
    assert (
        "did not pay here: at 8 numbers the best start is 16" in lost.verdict and "no size gains by w" in lost.verdict
    )
    assert "starting at 8: -2.00 [-2.50, -1.50] points" in lost.ours


def test_superclasses_finds_planted_groups() -> None:
    generator = np.random.default_rng(0)
    centres = np.repeat(np.eye(16)[:3], 3, axis=0) + 0.2 * generator.normal(size=(9, 16))
    labels = np.repeat(np.arange(9), 20)
    vectors = truncate((centres[labels] + 0.1 * generator.normal(size=(180, 16))).astype(np.float32))
    groups = superclasses.superclasses(vectors, labels)
    assert len(set(groups)) == 3
    assert all(len(set(groups[start : start + 3])) == 1 for start in (0, 3, 6))


def gains(*values: float) -> dict[str, Any]:
    rows = [
        {
            "side": side,
            "control": False,
            "task": "t",
            "metric": "1-NN accuracy",
            "dim": dim,
            "value": share * 60.0,
            "low": None,
            "high": None,
        }
        for side in ("m", "random dimensions")
        for dim, share in ((16, 0.8), (384, 1.0))
    ]
    drawn = [
        {"dim": dim, "value": one, "low": one - 0.5, "high": one + 0.5}
        for dim, one in zip((16, 64, 128), values, strict=True)
    ]
    return {"rows": rows, "gains": drawn, "texts": 10, "model": "m", "seeds": 3}


def test_words_about_nesting_follow_the_numbers() -> None:
    same = against.tell(gains(0.1, -0.2, 1.0)).verdict
    assert same.startswith("As for images") and "128" in same
    lost = against.tell(gains(-2.0, -0.2, 1.0)).verdict
    assert lost.startswith("Text differs at 16") and "2.00" in lost and "gains at 128" in lost
    assert "80 %" in same and "17 %" in same and "far easier" in same
    assert "images: SVD | 46.0" in against.tell(gains(0, 0, 0)).table


def typed(more: float, gain: float) -> dict[str, Any]:
    def around(one: float) -> dict[str, float]:
        return {"value": one, "low": one - 1, "high": one + 1}

    rows = [
        {
            "task": "t",
            "side": side,
            "control": side == "b",
            "case": case,
            "dim": dim,
            **around(50.0),
            "kept": around(90.0),
            "more": around(more * (dim == 16)),
            "gain": around(gain) if side == "b" else None,
        }
        for side in ("m", "b")
        for case in ("1 error", "2 errors", "4 errors")
        for dim in (16, 384)
    ]
    return {"rows": rows, "model": "m"}


def test_words_about_robustness_follow_the_numbers() -> None:
    alike = robustness.tell(typed(-0.5, 0.5)).verdict
    assert alike.startswith("As for images") and "in 0 and less in 0" in alike and "No small size" in alike
    assert robustness.tell(typed(-5.0, 0.5)).verdict.endswith("with confidence in 3 of 3 cases, at 16.")
    assert robustness.tell(typed(-0.5, -4.0)).verdict.startswith("Text differs: of 3 cases")
    assert "-5.0 [-6.0, -4.0]" in robustness.tell(typed(-5.0, 0)).ours


def test_words_about_untrained_sizes_follow_the_numbers() -> None:
    def result(middle: float) -> dict[str, Any]:
        rows = [
            {"side": "m", "task": "t", "metric": "x", "dim": dim, "value": one, "low": one - 1, "high": one + 1}
            for dim, one in ((16, 40.0), (32, middle), (64, 60.0))
        ]
        return {"rows": rows, "trained": [16, 64], "model": "m", "step": 8}

    assert interpolation.tell(result(49.5)).verdict.startswith("As for images")
    assert interpolation.tell(result(48.0)).verdict == "Text differs: below that line with confidence are t at 32."


def grouped(superclass: float, chance: float) -> dict[str, Any]:
    rows = []
    for level, small in ((superclasses.CLASS, 60.0), (superclasses.SUPER, superclass), (superclasses.CHANCE, chance)):
        for dim, one in ((16, small), (384, 100.0)):
            kept = {"value": one, "low": one - 1, "high": one + 1}
            rows.append({"task": "t", "side": "m", "control": False, "level": level, "dim": dim, **kept, "kept": kept})
    classes = [
        {"class": "a", "small": 10.0, "full": 90.0, "texts": 5},
        {"class": "b", "small": 90.0, "full": 90.0, "texts": 5},
    ]
    return {"rows": rows, "classes": {"t": classes}, "groups": {"t": [["a"], ["b"]]}, "model": "m"}


def test_words_about_superclasses_follow_the_numbers() -> None:
    assert "as for images" in superclasses.tell(grouped(90, 70)).verdict
    assert "text differs" in superclasses.tell(grouped(80, 85)).verdict
    assert "unlike for images" in superclasses.tell(grouped(61, 50)).verdict
    assert "`a` 90 → 10" in superclasses.tell(grouped(90, 70)).table


def test_result_files_are_those_that_the_commands_write(tmp_path: Path) -> None:
    cascade = {"accuracy": 0.899, "largest": 64.0, "paid": 90.0}
    written = {"train": "n.csv", "single": {"16": 0.7, "384": 0.9}, "cascade": cascade}
    file = tmp_path / "results.json"
    file.write_text(json.dumps(written))
    row = adaptive.read_classification(file)
    assert (row["name"], row["width"], row["accuracy"], row["expected_dim"]) == ("n", 384, 0.9, 64.0)
    section = adaptive.tell({"classification": [row], "search": []})
    assert "6.0 times smaller" in section.verdict and "89.9" in section.ours
    short = copy.deepcopy(written)
    del short["single"]
    file.write_text(json.dumps(short))
    with pytest.raises(ValueError, match="lacks 'single'"):
        adaptive.read_classification(file)
    with pytest.raises(ValueError, match=r"tune\.json"):
        adaptive.read_tuning(file)
    file.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        adaptive.read_classification(file)
    with pytest.raises(FileNotFoundError, match="no result file"):
        adaptive.read_tuning(tmp_path / "none.json")


def test_tables_and_words() -> None:
    assert listed(["a", "b", "c"]) == "a, b and c" and listed([1]) == "1"
    assert interval({"value": 1.26, "low": -0.5, "high": 3.0}, sign=True) == "+1.3 [-0.5, +3.0]"
    assert interval({"value": 1.0, "low": None, "high": None}) == "1.0"
    assert interval({"value": -0.04, "low": -0.3, "high": -0.01}, sign=True) == "+0.0 [-0.3, +0.0]"
    assert interval({"value": -0.004, "low": None, "high": None}, 2) == "0.00"
    rows = [{"dim": 16, "value": 1.0}, {"dim": 16, "value": 2.0}, {"dim": 32, "value": 3.04}]
    table = "| x | 16 | 32 |\n|---|---:|---:|\n| a | 1.5 | 3.0 |\n| b | 1.0 |  |"
    assert by_size("x", {"a": rows, "b": rows[:1]}) == table
    assert by_size("x", {"a": [{"dim": 8, "kept": rows[1]}]}, "kept").endswith("| a | 2.0 |")
