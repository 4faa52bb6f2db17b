"""Filters as people type them: read as they are meant, or refused, and never something else in silence."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mrl_text.search import AllOf, AnyOf, Not, Prefix, Range, Where
from mrl_text.search.conditions import parse_where
from tests.search.wheres import holds, typeable, typed, wheres

READ: dict[str, Any] = {
    "lang=en": {"lang": "en"},
    "lang==en": {"lang": "en"},
    "lang = en, de": {"lang": ["en", "de"]},
    "open=true": {"open": True},
    "open = FALSE": {"open": False},
    'zip="01234"': {"zip": "01234"},
    "zip='01234'": {"zip": "01234"},
    "name='O''Brien'": {"name": "O'Brien"},
    "name=O'Brien": {"name": "O'Brien"},
    'name="a, \\"b\\"",c': {"name": ['a, "b"', "c"]},
    'name="tab\\t\\u00e9"': {"name": "tab\té"},
    'name=""': {"name": ""},
    "city=New York": {"city": "New York"},
    "ein Feld.v2=ja": {"ein Feld.v2": "ja"},
    '"rock or pop"=yes': {"rock or pop": "yes"},
    "x=1.5": {"x": 1.5},
    "d=-2e3": {"d": -2000.0},
    "w=1_000": {"w": "1_000"},
    "n>-3": {"n": Range(gt=-3)},
    "year>=2020": {"year": Range(gte=2020)},
    "year < 2024.5": {"year": Range(lt=2024.5)},
    "lang!=en": {"lang": Not("en")},
    "lang != en,de": {"lang": Not(["en", "de"])},
    "lang=null": {"lang": None},
    "lang=NULL": {"lang": None},
    "lang is null": {"lang": None},
    "lang IS NOT NULL": {"lang": Not(None)},
    "lang!=null": {"lang": Not(None)},
    "lang=en,null": {"lang": ["en", None]},
    'lang="null"': {"lang": "null"},
    '"is null" is null': {"is null": None},
    "what is null=x": {"what is null": "x"},
    "title=Photo*": {"title": Prefix("Photo")},
    'title="New York"*': {"title": Prefix("New York")},
    "title=New York*": {"title": Prefix("New York")},
    'title="Photo*"': {"title": "Photo*"},
    "title=7*": {"title": Prefix("7")},
    "title!=Photo*": {"title": Not(Prefix("Photo"))},
    "title=Photo*,Video": AnyOf(({"title": Prefix("Photo")}, {"title": "Video"})),
    "title!=Photo*,Video": AllOf(({"title": Not(Prefix("Photo"))}, {"title": Not("Video")})),
    "lang=en or year>=2020": AnyOf(({"lang": "en"}, {"year": Range(gte=2020)})),
    "lang=en and year>=2020": {"lang": "en", "year": Range(gte=2020)},
    "year>=2020 AND year<2024": AllOf(({"year": Range(gte=2020)}, {"year": Range(lt=2024)})),
    "a=1 or b=2 and c=3": AnyOf(({"a": 1}, {"b": 2, "c": 3})),
    "(a=1 or b=2) and c=3": AllOf(({"c": 3}, AnyOf(({"a": 1}, {"b": 2})))),
    "((a=1))": {"a": 1},
    'q="x or y"': {"q": "x or y"},
}


@pytest.mark.parametrize("condition", READ)
def test_a_condition_is_read_as_it_is_meant(condition: str) -> None:
    assert parse_where([condition]) == READ[condition]


def test_several_must_all_hold() -> None:
    assert parse_where([]) is None
    assert parse_where(["lang=en", "year>=2020"]) == {"lang": "en", "year": Range(gte=2020)}
    assert parse_where(["y>1", "y<3", "z=1"]) == AllOf(({"y": Range(gt=1), "z": 1}, {"y": Range(lt=3)}))


REFUSED = {
    "": "a condition is missing",
    "year": "'year' is no condition",
    "=3": "'=3' is no condition",
    "is null": "'is null' is no condition",
    "year=": "a value is missing after =",
    "year=1,": "a value is missing after =",
    "year=,1": "a value is missing after =",
    "year===1": "a value is missing after ==",
    "year>>3": "a value is missing after >",
    "year=>3": "a value is missing after =",
    "year<>3": "a value is missing after <",
    "year>new": "expected a number after >",
    "year>1,2": "expected a number after >",
    "year<true": "expected a number after <",
    "year<null": "expected a number after <",
    'year<"3"': "expected a number after <",
    "year<3*": "expected a number after <",
    'lang="en': 'the quote of "en is never closed',
    "lang='en": "the quote of 'en is never closed",
    'lang="a\\d"': "double each backslash",
    'lang="en"x': "'x' cannot follow there",
    'lang=x"en"': "'\"en\"' cannot follow there",
    "lang=en year>=2020": "cannot follow there",
    "lang=!en": "'!en' cannot be read",
    "lang=en|fr": "'|fr' cannot be read",
    "lang=en && x=1": "'&& x=1' cannot be read",
    "lang=en or": "a condition is missing",
    "lang=en or fr": "'fr' is no condition",
    "title=rock and roll": "'roll' is no condition",
    "or lang=en": "'or lang=en' is no condition",
    "(lang=en": "a parenthesis is never closed",
    "lang=en)": "')' cannot follow there",
    "name=Smith (UK)": "'(UK)' cannot follow there",
    "()": "')' is no condition",
    "title=*": "'*' cannot be read",
    "title=a*b": "has a star before its end",
    "title=New* York": "has a star before its end",
    "tit*=a": "is no condition",
    '"tit"*=a': "is no condition",
    "(" * 60 + "a=1" + ")" * 60: "more than 50 parentheses",
}


@pytest.mark.parametrize("condition", REFUSED)
def test_another_form_is_refused_with_what_is_wrong_and_all_forms(condition: str) -> None:
    with pytest.raises(ValueError, match="'year>=2020', joined by and, or; put text with") as caught:
        parse_where([condition])
    assert str(caught.value).startswith(f"--where {condition!r}: ")
    assert REFUSED[condition] in str(caught.value)


ROWS = [
    {"lang": lang, "year": year, "score": score, "open": opened, "ein Feld.v2": own}
    for lang, year, score, opened, own in itertools.product(
        ("en", "e", "", 'a "b", c', "or", "e*", None),
        (2000, 2020, None),
        (0.125, 3.0, None),
        (True, None),
        ("ja", None),
    )
]


@pytest.mark.slow
@settings(deadline=None)
@given(wheres())
def test_what_is_typed_is_what_is_meant(where: Where) -> None:
    assume(typeable(where))
    found = parse_where([typed(where)])
    assert [holds(found, row) for row in ROWS] == [holds(where, row) for row in ROWS]


PIECES = (*"xy7=<>!,()*|&'\"\\", "==", "!=", ">=", " ", " ", " or ", " and ", " is ", " not ", "null", '"x y"', "'y'")


@pytest.mark.slow
@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_nothing_typed_is_dropped_in_silence(text: str) -> None:
    try:
        where = parse_where([text])
    except ValueError as error:
        assert str(error).startswith("--where ")
        return
    assert where is not None
    again = typed(where)
    assert all(again.count(one) >= text.count(one) for one in "xy7")
    assert text.count('"') % 2 == 0 or "'" in text or "\\" in text
    assert parse_where([again]) == where
