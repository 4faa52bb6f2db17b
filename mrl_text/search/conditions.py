"""Filters as people type them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from mrl_text.search.store import AllOf, AnyOf, Not, Prefix, Range, Value, Where

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"\*?|'(?:[^']|'')*'\*?)
    |(?P<sign><=|>=|!=|==|=|<|>)
    |(?P<mark>[,()])
    |(?P<word>[^\s"'<>=!,()*|&][^\s"<>=!,()*|&]*\*?))""",
    re.VERBOSE | re.DOTALL,
)
_NULL = re.compile(r"(?:(.*\S)\s+)?is\s+(not\s+)?null", re.IGNORECASE | re.DOTALL)
_WHOLE = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WORDS: dict[str, Value | None] = {"true": True, "false": False, "null": None}
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_DEEPEST = 50
_FORMS = (
    "expected column=value, column=one,other, column!=value, column=begin*, column=null, or a column and a bound such"
    " as 'year>=2020', joined by and, or; put text with signs or these words in double quotes"
)


def parse_where(conditions: Sequence[str]) -> Where | None:
    """The filter that people mean by conditions that must all hold; None without any.

    Args:
        conditions: each ``column=value``, ``column=one,other`` (any of them), ``!=`` (none of them; a row without a
            value does not match), ``<``, ``<=``, ``>``, ``>=`` and a number, ``column=begin*`` (text that begins so),
            ``column=null`` or ``column is null`` (no value), ``column is not null``; or several joined by ``and`` and
            ``or``, where ``and`` binds more tightly, and parentheses. Numbers, true and false are taken for what they
            are; in quotes (``"..."`` as in JSON, ``'...'`` as in SQL) everything is text.

    Raises:
        ValueError: another form, or a bound that is no number.

    Example:
        >>> parse_where(["year>=2020", "lang=en,de"])
        {'year': Range(gt=None, gte=2020, lt=None, lte=None), 'lang': ['en', 'de']}
        >>> parse_where(["lang!=en or title=Photo*"])
        AnyOf(filters=({'lang': Not(wanted='en')}, {'title': Prefix(text='Photo')}))
    """
    filters = [_Reader(condition).whole() for condition in conditions]
    return _all_of(filters) if filters else None


class _Reader:
    """Reads one condition, or several that are joined, from left to right."""

    def __init__(self, condition: str) -> None:
        self._condition = condition
        self._tokens: list[re.Match[str]] = []
        self._at = end = 0
        while end < len(condition.rstrip()):
            token = _TOKEN.match(condition, end)
            if token is None:
                rest = condition[end:].strip()
                quote = rest[0] in "\"'"
                raise self._error(f"the quote of {rest} is never closed" if quote else f"{rest!r} cannot be read")
            self._tokens.append(token)
            end = token.end()
        if sum(token["mark"] == "(" for token in self._tokens) > _DEEPEST:
            raise self._error(f"more than {_DEEPEST} parentheses")

    def whole(self) -> Where:
        """All of it."""
        found = self._any()
        if self._at < len(self._tokens):
            raise self._error(f"{self._rest()!r} cannot follow there")
        return found

    def _any(self) -> Where:
        parts = [self._all()]
        while self._take("or"):
            parts.append(self._all())
        return _any_of(parts)

    def _all(self) -> Where:
        parts = [self._one()]
        while self._take("and"):
            parts.append(self._one())
        return _all_of(parts)

    def _one(self) -> Where:
        if not self._take("("):
            return self._test()
        found = self._any()
        if not self._take(")"):
            raise self._error("a parenthesis is never closed")
        return found

    def _test(self) -> Where:
        """A column, a sign and values; or a column that has none."""
        begin = self._rest()
        name, words = self._quoted(), self._words()
        named = not isinstance(name, Prefix) and "*" not in words
        if named and not self._is("sign") and (null := _NULL.fullmatch(words)) and (name is None) == bool(null[1]):
            return {str(null[1] if name is None else name): Not(None) if null[2] else None}
        if not named or (name is None) != bool(words) or not self._is("sign"):
            raise self._error(f"{begin!r} is no condition" if begin else "a condition is missing")
        sign = self._next()
        values = [self._value(sign)]
        while self._take(","):
            values.append(self._value(sign))
        return self._meaning(str(name or words), sign, values)

    def _meaning(self, name: str, sign: str, values: list[Value | Prefix | None]) -> Where:
        if bound := _BOUNDS.get(sign):
            number = values[0]
            if len(values) > 1 or isinstance(number, bool) or not isinstance(number, int | float):
                raise self._error(f"expected a number after {sign}")
            return {name: Range(**{bound: number})}
        plain = [value for value in values if not isinstance(value, Prefix)]
        wanted: list[Any] = [value for value in values if isinstance(value, Prefix)]
        wanted += [plain if len(plain) > 1 else plain[0]] if plain else []
        if sign == "!=":
            return _all_of([{name: Not(one)} for one in wanted])
        return _any_of([{name: one} for one in wanted])

    def _value(self, sign: str) -> Value | Prefix | None:
        quoted = self._quoted()
        if quoted is not None:
            return quoted
        words = self._words()
        begin, star, rest = words.partition("*")
        if not begin or rest:
            raise self._error(f"{words!r} has a star before its end" if rest else f"a value is missing after {sign}")
        if star:
            return Prefix(begin)
        if begin.lower() in _WORDS:
            return _WORDS[begin.lower()]
        return int(begin) if _WHOLE.fullmatch(begin) else float(begin) if _FLOAT.fullmatch(begin) else begin

    def _quoted(self) -> str | Prefix | None:
        """The text in quotes that comes next, or what begins so; None where something else comes."""
        if not self._is("text"):
            return None
        token = self._next()
        inside = token.rstrip("*")
        if inside[0] == "'":
            text = inside[1:-1].replace("''", "'")
        else:
            try:
                text = json.loads(inside, strict=False)
            except ValueError:
                raise self._error(f"{inside} is no text as JSON has it: double each backslash") from None
        return Prefix(text) if token != inside else text

    def _words(self) -> str:
        """The words that come next, with the blanks between them; empty where none does."""
        first = self._at
        while self._is("word") and self._tokens[self._at]["word"].lower() not in ("and", "or"):
            self._at += 1
        found = self._tokens[first : self._at]
        return self._condition[found[0].start("word") : found[-1].end()] if found else ""

    def _is(self, kind: str) -> bool:
        return self._at < len(self._tokens) and self._tokens[self._at].lastgroup == kind

    def _next(self) -> str:
        token = self._tokens[self._at]
        self._at += 1
        return token[token.lastgroup or 0]

    def _take(self, wanted: str) -> bool:
        """Pass over a mark or a joining word, if it comes next."""
        there = (self._is("mark") or self._is("word")) and self._tokens[self._at][0].strip().lower() == wanted
        self._at += there
        return there

    def _rest(self) -> str:
        return self._condition[self._tokens[self._at].start() :].strip() if self._at < len(self._tokens) else ""

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"--where {self._condition!r}: {problem}; {_FORMS}")


def _any_of(parts: Sequence[Where]) -> Where:
    return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))


def _all_of(parts: Sequence[Where]) -> Where:
    """Filters as one: a mapping as far as no column comes twice."""
    first: dict[str, Any] = {}
    others: list[Where] = []
    for part in parts:
        if isinstance(part, AnyOf | AllOf) or part.keys() & first.keys():
            others.append(part)
        else:
            first |= part
    joined: list[Where] = [*([first] if first else []), *others]
    return joined[0] if len(joined) == 1 else AllOf(tuple(joined))
