"""Filters for tests: any of them, what they mean in plain Python, and how they are typed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from mrl_text.search import AllOf, AnyOf, Not, Prefix, Range, Where

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "lang": st.sampled_from(["en", "de", "fr", "it", "", "e", "d\\e", 'a "b", c', "or", "null", "7", "e*", "it's"]),
    "ein Feld.v2": st.sampled_from(["ja", "nein", "j", "(ja)", "ja=nein"]),
    "year": st.integers(1998, 2042),
    "score": st.integers(-8, 40).map(lambda number: number / 8),
    "open": st.booleans(),
}
"""Values that the columns of the contract's rows may be asked for."""


def _tests(name: str) -> st.SearchStrategy[Any]:
    value = VALUES[name]
    plain = [value, st.none(), st.lists(st.none() | value, max_size=3)]
    if name in ("lang", "ein Feld.v2"):
        plain.append(st.builds(Prefix, value.filter(bool)))
    if name in ("year", "score"):
        bound = st.none() | value
        plain.append(st.builds(Range, gt=bound, gte=bound, lt=bound, lte=bound))
    return st.one_of(*plain, st.one_of(*plain).map(Not))


def wheres() -> st.SearchStrategy[Where]:
    """Filters on these columns, nested."""
    columns = st.fixed_dictionaries({}, optional={name: _tests(name) for name in VALUES})
    parts = st.lists(columns.filter(bool), min_size=1, max_size=3)
    return columns | st.recursive(
        st.one_of(parts.map(AnyOf), parts.map(AllOf)),
        lambda inner: st.lists(inner, min_size=1, max_size=2).flatmap(
            lambda found: st.sampled_from([AnyOf, AllOf]).map(lambda kind: kind(found))
        ),
        max_leaves=3,
    )


def holds(where: Where | None, row: Mapping[str, Any]) -> bool:
    """Whether a filter lets a row through."""
    if isinstance(where, AnyOf):
        return any(holds(part, row) for part in where.filters)
    if isinstance(where, AllOf):
        return all(holds(part, row) for part in where.filters)
    return all(_meets(wanted, row.get(name)) for name, wanted in (where or {}).items())


def _meets(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, Not):
        return value is not None and not _meets(wanted.wanted, value)
    if isinstance(wanted, list | tuple | set):
        return any(_meets(one, value) for one in wanted)
    if wanted is None or value is None:
        return wanted is value
    if isinstance(wanted, Prefix):
        return bool(value.startswith(wanted.text))
    if isinstance(wanted, Range):
        limits = (wanted.gt is None or value > wanted.gt, wanted.gte is None or value >= wanted.gte)
        return all((*limits, wanted.lt is None or value < wanted.lt, wanted.lte is None or value <= wanted.lte))
    return bool(value == wanted)


def typed(where: Where) -> str:
    """A filter as people type it; none without conditions, and no ``Not`` of a range."""
    if isinstance(where, AnyOf | AllOf):
        joint = " or " if isinstance(where, AnyOf) else " and "
        return joint.join(f"({typed(part)})" for part in where.filters)
    return " and ".join(_typed(json.dumps(name), wanted) for name, wanted in where.items())


def _typed(name: str, wanted: Any) -> str:
    sign = "="
    if isinstance(wanted, Not):
        sign, wanted = "!=", wanted.wanted
    if isinstance(wanted, Range):
        signs = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
        limits = [f"{name}{sign}{getattr(wanted, bound)}" for bound, sign in signs.items()]
        return " and ".join(one for one in limits if not one.endswith("None")) or f"{name} is not null"
    values = wanted if isinstance(wanted, list) else [wanted]
    shown = [f"{json.dumps(one.text)}*" if isinstance(one, Prefix) else json.dumps(one) for one in values]
    return f"{name}{sign}{', '.join(shown)}"


def typeable(where: Where) -> bool:
    """Whether :func:`typed` can write it: a bare list of values is none, and ``Not`` of a range has no sign."""
    if isinstance(where, AnyOf | AllOf):
        return all(map(typeable, where.filters))
    tests = [wanted.wanted if isinstance(wanted, Not) else wanted for wanted in where.values()]
    negated = [wanted.wanted for wanted in where.values() if isinstance(wanted, Not)]
    return bool(tests) and [] not in tests and not any(isinstance(one, Range) for one in negated)
