from __future__ import annotations

import pytest

from mrl_text.suggest import did_you_mean


@pytest.mark.parametrize(
    ("word", "nearest"),
    [("quikstart", "quickstart"), ("dim", "dims"), ("STSBENCHMARK", "STSBenchmark"), ("stsbenchmrk", "STSBenchmark")],
)
def test_the_nearest_known_word_is_named(word: str, nearest: str) -> None:
    assert did_you_mean(word, ["quickstart", "dims", "STSBenchmark"]) == f"; did you mean {nearest!r}?"


def test_a_word_in_other_letters_comes_before_a_nearer_one() -> None:
    assert did_you_mean("CosentLoss", ["ContrastiveLoss", "CoSENTLoss", "CosenLoss"]) == "; did you mean 'CoSENTLoss'?"


def test_without_a_near_word_the_known_ones_are_listed_in_order() -> None:
    assert did_you_mean("xyz", {"beta", "alpha"}) == "; known: alpha, beta"


def test_a_long_list_is_cut() -> None:
    words = [f"name{number:02}" for number in range(13)]
    assert did_you_mean("xyz", words[:12]) == f"; known: {', '.join(words[:12])}"
    assert did_you_mean("xyz", words) == f"; known: {', '.join(words[:12])}, ..."
