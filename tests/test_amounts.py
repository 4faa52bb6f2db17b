from __future__ import annotations

import pytest

from mrl_text.amounts import FEW, count, hundredfold, percent, sure, target, too_few


def test_shares_have_two_decimals_and_their_interval_in_brackets() -> None:
    assert hundredfold(0.998) == "99.80"
    assert hundredfold(0.9985, 0.9931, 1.0012) == "99.85 [99.31, 100.12]"
    assert hundredfold(0.5, None, None) == "50.00"
    assert hundredfold(-0.00004, -0.001, -0.00001, sign="+") == "+0.00 [-0.10, +0.00]"
    assert hundredfold(0.0123, -0.001, 0.02, sign="+") == "+1.23 [-0.10, +2.00]"
    assert percent(0.9985) == "99.85 %"
    assert percent(0.9985, 0.9931, 1.0012) == "99.85 % [99.31, 100.12]"


@pytest.mark.parametrize(("share", "shown"), [(0.99, "99 %"), (0.995, "99.5 %"), (0.9999, "99.99 %"), (1, "100 %")])
def test_a_target_has_the_digits_it_was_given(share: float, shown: str) -> None:
    assert target(share) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(0.975, "97.5 %"), (0.999, "99.9 %"), (0.9991, "more than 99.9 %"), (1, "more than 99.9 %")]
)
def test_nobody_is_surer_than_resampling_can_tell(share: float, shown: str) -> None:
    assert sure(share) == shown


def test_numbers_have_commas_and_words_their_plural() -> None:
    assert [count(1536, "byte"), count(1, "byte"), count(0, "query")] == ["1,536 bytes", "1 byte", "0 queries"]
    assert count(1, "query") == "1 query"


def test_a_warning_names_what_is_few_and_how_many_it_takes() -> None:
    assert FEW == 100
    assert too_few(["beir: 20 queries", "faq: 7 pairs"]) == (
        "Few items (beir: 20 queries; faq: 7 pairs): what they say, intervals too, is luck as much as quality."
        " Take 100 or more."
    )
