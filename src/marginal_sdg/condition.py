"""Conditions on records in a tiny language: ``age >= 60 and income in [high, "very high"]``.

A condition is comparisons (``<``, ``<=``, ``>``, ``>=``, ``==``, ``!=``) and ``in`` lists, joined by ``and``. Names
with blanks stand in backticks, values with blanks in quotes. Nothing is evaluated: a condition becomes the codes that
each attribute may take, for :meth:`GraphicalModel.given`.
"""

from __future__ import annotations

import datetime as dt
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Attribute, Domain
from marginal_sdg.encoding import bin_edges
from marginal_sdg.errors import ConfigError

Mask = npt.NDArray[np.bool_]

_TOKEN = re.compile(
    r"""\s*(?:(?P<name>`[^`]*`)|(?P<text>"[^"]*"|'[^']*')|(?P<sign><=|>=|==|!=|<|>|=|\[|\]|\(|\)|,)"""
    r"""|(?P<word>[^\s<>=!,\[\]()`"']+))"""
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CLOSING = {"[": "]", "(": ")"}

_Token = tuple[str, str]  # kind and text


def allowed_codes(domain: Domain, condition: str) -> dict[str, list[int]]:
    """The codes of every attribute that a condition names, for records that satisfy all of it.

    A bin is allowed when all its values are (float64 bounds are taken as never hit exactly); missing values satisfy
    no comparison.

    Raises
    ------
    ConfigError: the condition cannot be read, or no bin or category satisfies it.
    DomainError: it names an unknown attribute.
    """
    reader = _Reader(condition)
    masks: dict[str, Mask] = {}
    while True:
        attribute = domain[reader.name()]
        mask = _mask(attribute, reader)
        masks[attribute.name] = masks.get(attribute.name, np.ones(attribute.size, dtype=bool)) & mask
        if not masks[attribute.name].any():
            raise ConfigError(f"where: no {_unit(attribute)} of {attribute.name!r} satisfies it{_hint(attribute)}")
        if reader.done():
            return {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}
        reader.expect("and")


class _Reader:
    """The words of a condition, one after the other."""

    def __init__(self, condition: str) -> None:
        self._condition = condition
        self._tokens = list(_tokens(condition))

    def done(self) -> bool:
        return not self._tokens

    def error(self, what: str) -> ConfigError:
        example = """such as: age >= 60 and region in [north, "far south"]"""
        return ConfigError(f"where: {what} in {self._condition!r}; write comparisons joined by and, {example}")

    def next(self, wanted: str) -> _Token:
        if not self._tokens:
            raise self.error(f"{wanted} is missing at the end")
        return self._tokens.pop(0)

    def name(self) -> str:
        kind, text = self.next("a column's name")
        if kind not in ("name", "word"):
            raise self.error(f"{text!r} stands where a column's name should")
        return text

    def sign(self) -> str:
        _, text = self.next("a comparison")
        if text not in _COMPARE and text not in ("=", "in"):
            raise self.error(f"{text!r} is no comparison")
        return "==" if text == "=" else text

    def value(self) -> _Token:
        kind, text = self.next("a value")
        if kind not in ("word", "text"):
            raise self.error(f"{text!r} stands where a value should")
        return kind, text

    def values(self) -> list[_Token]:
        _, opening = self.next("a list")
        if opening not in _CLOSING:
            raise self.error(f"'in' needs a list in brackets, got {opening!r}")
        found = [self.value()]
        while (text := self.next("a closing bracket")[1]) == ",":
            found.append(self.value())
        if text != _CLOSING[opening]:
            raise self.error(f"{text!r} stands where {_CLOSING[opening]!r} should")
        return found

    def expect(self, word: str) -> None:
        _, text = self.next(word)
        if text != word:
            raise self.error(f"{text!r} stands where {word!r} should")


def _tokens(condition: str) -> Iterator[_Token]:
    position, text = 0, condition.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ConfigError(f"where: cannot read {text[position:].strip()!r}; close quotes, and compare with ==")
        kind = str(found.lastgroup)
        word = found[kind]
        yield kind, word[1:-1] if kind in ("name", "text") else word
        position = found.end()


def _mask(attribute: Attribute, reader: _Reader) -> Mask:
    """(size,) which codes satisfy the comparison that comes next."""
    sign = reader.sign()
    given = reader.values() if sign == "in" else [reader.value()]
    compare = "==" if sign == "in" else sign
    mask = np.zeros(attribute.size, dtype=bool)
    for token in given:
        satisfied = _labels if attribute.categories is not None else _bins
        mask[: attribute.values] |= satisfied(attribute, compare, _typed(attribute, token, reader))
    return mask


def _labels(attribute: Attribute, sign: str, value: Any) -> Mask:
    labels = attribute.categories or ()
    if sign in ("==", "!=") and value not in labels:
        raise ConfigError(f"where: {value!r} is no category of {attribute.name!r}{_hint(attribute)}")
    if sign not in ("==", "!=") and attribute.kind in ("string", "boolean"):
        raise ConfigError(f"where: the categories of {attribute.name!r} have no order; use ==, != or in")
    return np.array([_COMPARE[sign](label, value) for label in labels], dtype=bool)


def _bins(attribute: Attribute, sign: str, value: float) -> Mask:
    """Bins all of whose values satisfy a comparison."""
    edges = bin_edges(attribute)
    first = edges[:-1]
    last = edges[1:] - 1 if attribute.whole else edges[1:]
    touches = not attribute.whole  # a float64 bound of a bin is taken as never hit
    masks: dict[str, Mask] = {
        "<": (last < value) | (touches & (last == value)),
        ">": (first > value) | (touches & (first == value)),
        "<=": last <= value,
        ">=": first >= value,
        "==": (first == value) & (last == value),
        "!=": (last < value) | (first > value),
    }
    return masks[sign]


def _typed(attribute: Attribute, token: _Token, reader: _Reader) -> Any:
    """A value in the attribute's own type; dates and times as numbers, as in ``Attribute.bounds``."""
    _, text = token
    try:
        if attribute.kind == "string":
            return text
        if attribute.kind == "boolean":
            return {"true": True, "false": False}[text.lower()]
        if attribute.kind in ("date", "datetime"):
            moment = dt.datetime.fromisoformat(text) - dt.datetime(1970, 1, 1)
            return moment / dt.timedelta(days=1) if attribute.kind == "date" else moment.total_seconds()
        return float(text)
    except (KeyError, ValueError, TypeError):
        raise reader.error(f"{text!r} is no {attribute.kind} value, which {attribute.name!r} needs,") from None


def _unit(attribute: Attribute) -> str:
    return "category" if attribute.categories is not None else "whole bin"


def _hint(attribute: Attribute) -> str:
    """What there is to choose from; public, as the domain is."""
    if attribute.categories is not None:
        shown = ", ".join(str(label) for label in attribute.categories[:8])
        return f"; its categories: {shown}" + (", ..." if len(attribute.categories) > 8 else "")
    return f"; it has {attribute.values} bins from {attribute.lower} to {attribute.upper}"
