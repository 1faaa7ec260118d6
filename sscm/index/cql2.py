"""Filters in CQL2, text or JSON: read, checked, and made into conditions.

Properties of a source are text. Which one is compared as a number, as a time or as truth is told by what it is compared
with; a value that cannot be one is null. Two of them are equal where their texts are, and otherwise compared as
numbers. A date is all of its day in UTC: times equal to it lie in it, times after it lie behind its end.

What CQL2 leaves open, or forbids without need: an acquisition time is an interval without length, so that ``t_during``
wants it away from both ends; ``casei`` folds case fully (straße = STRASSE), ``accenti`` drops diacritics.

Source: OGC CQL2 21-065r2: Basic CQL2, advanced comparison operators, case- and accent-insensitive comparison, spatial,
temporal and array functions, property-property comparison, arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sscm.errors import QueryError
from sscm.index.conditions import Condition
from sscm.index.cql2_conditions import make_condition
from sscm.index.cql2_text import parse_text

LANGUAGES = ("cql2-text", "cql2-json")
"""Encodings of CQL2, as the STAC API's ``filter-lang`` names them."""
MAX_DEPTH = 60
"""Most levels of an expression."""
MAX_OPERATORS = 1000
"""Most operators of an expression: over a million rows each takes a millisecond or more."""


@dataclass(frozen=True)
class Expression:
    """A filter in CQL2.

    Args:
        condition: true of the rows that pass.
        names: properties that it refers to, sorted.
        key: the same for the same expression, whichever way it was written down.
    """

    condition: Condition
    names: tuple[str, ...]
    key: str


def read_expression(value: str | Mapping[str, Any], language: str | None = None) -> Expression:
    """Read a filter.

    Args:
        value: CQL2 text, or CQL2 JSON as object or as text.
        language: one of :data:`LANGUAGES`; None for what the type says: text, or JSON for an object.

    Raises:
        QueryError: it is not CQL2, or uses what is not supported; the message says what, and in a text where.
    """
    if language is not None and language not in LANGUAGES:
        raise QueryError(f"filter-lang = {language!r}; expected one of {', '.join(LANGUAGES)}")
    if isinstance(value, str):
        tree = _parse_json(value) if language == "cql2-json" else _plain(parse_text(value))
    elif not isinstance(value, Mapping):
        raise QueryError(f"filter is {value!r}; expected CQL2, a text or a JSON object")
    elif language == "cql2-text":
        raise QueryError("filter is an object and filter-lang cql2-text; expected a text, or filter-lang cql2-json")
    else:
        tree = _plain(value)
    names = _survey(tree)
    return Expression(make_condition(tree), tuple(sorted(names)), json.dumps(tree, sort_keys=True))


def _parse_json(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise QueryError(f"filter is no JSON: {error}; expected an object, or filter-lang cql2-text") from error
    return _plain(value)


def _plain(value: Any) -> Any:
    """A JSON value with float numbers and lower-case operators, nothing shared with what was given."""
    try:
        text = json.dumps(value, default=dict, allow_nan=False)
        return json.loads(text, parse_int=float, object_hook=_lowered)
    except (TypeError, ValueError, RecursionError) as error:
        raise QueryError(f"filter is not CQL2 JSON: {error}") from error


def _lowered(value: dict[str, Any]) -> dict[str, Any]:
    return {"op": value["op"].lower(), "args": value.get("args")} if isinstance(value.get("op"), str) else value


def _survey(tree: Any) -> set[str]:
    """Names of the properties in an expression, which is found small enough to be worked on."""
    names, operators = set(), 0
    left = [(tree, 1)]
    while left:
        node, depth = left.pop()
        if depth > MAX_DEPTH:
            raise QueryError(f"filter is nested more than {MAX_DEPTH} levels deep; write it flatter")
        if isinstance(node, list):
            left += [(part, depth + 1) for part in node]
        if isinstance(node, dict):
            operators += "op" in node
            if isinstance(node.get("property"), str):
                names.add(node["property"])
            left += [(node[key], depth) for key in ("args", "interval") if key in node]
    if operators > MAX_OPERATORS:
        raise QueryError(f"filter has {operators} operators; expected at most {MAX_OPERATORS}; IN may have more values")
    return names
