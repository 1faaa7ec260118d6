"""Conditions of CQL2 expressions in their JSON encoding: see :mod:`sscm.index.cql2` for what they mean."""

from __future__ import annotations

import json
import operator as python
from typing import Any

from sscm.errors import QueryError
from sscm.index.comparisons import (
    ARITHMETIC,
    TIME_RELATIONS,
    Arithmetic,
    Like,
    Moment,
    Number,
    NumberComparison,
    NumberIn,
    Numeric,
    Period,
    Text,
    TextComparison,
    TextIn,
    TextPair,
    TimeIn,
    TimeRelation,
)
from sscm.index.conditions import All, Condition, Constant, Labelled, Located, Null, Some, Truth
from sscm.index.footprints import RELATIONS, box_place, geometry_place
from sscm.index.instants import FIRST, LAST, parse_instant
from sscm.index.texts import fold, like

_SHOWN = 60
"""Characters of an expression shown in a message."""

_OPPOSITES = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_PYTHON = {"=": python.eq, "<>": python.ne, "<": python.lt, "<=": python.le, ">": python.gt, ">=": python.ge}
_FOLDS = ("casei", "accenti")
_SPATIAL = (*(f"s_{relation}" for relation in RELATIONS), "s_disjoint")
_TEMPORAL = tuple(relation for relation in TIME_RELATIONS if relation.startswith("t_"))
_ARRAY = ("a_containedby", "a_contains", "a_equals", "a_overlaps")
_CONVERSE = {"contains": "within", "within": "contains"}
_CONVERSE_LISTS = {"contains": "containedby", "containedby": "contains"}
_CONDITIONS = ("and", "or", "not", *_OPPOSITES, "between", "in", "like", "isnull", *_TEMPORAL, *_SPATIAL, *_ARRAY)
_COLUMNS = {"id": "text", "pair_id": "text", "split": "text", "labels": "labels", "geometry": "geometry"}
_INCOMPARABLE = {
    "null": "nothing is equal to null; write IS NULL",
    "labels": "labels are a list; use a_contains, a_overlaps, a_containedBy or a_equals",
    "list": "a list is compared by a_contains, a_overlaps, a_containedBy or a_equals",
    "geometry": "geometries are compared by s_intersects, s_within, s_contains or s_disjoint",
    "interval": "intervals are compared by t_intersects, t_before, t_after or t_during",
    "condition": "a condition is no value; join conditions by AND, OR and NOT",
}
_KINDS = {"text": "text", "number": "a number", "boolean": "TRUE or FALSE", "time": "a time", "property": "a property"}


def make_condition(tree: Any, negated: bool = False) -> Condition:
    """The condition of an expression, or its opposite: NOT moves inwards until it meets a comparison.

    Args:
        tree: CQL2 JSON with lower-case operators and float numbers.
        negated: whether the opposite is wanted.

    Raises:
        QueryError: it is none, or not one that is supported.
    """
    if isinstance(tree, bool):
        return Constant(tree != negated)
    kind = _kind(tree)
    if kind == "property":
        return Truth(tree["property"], not negated)
    if kind != "condition":
        raise QueryError(f"filter: {_shown(tree)} is no condition; expected one, such as a comparison")
    operator = tree["op"]
    if operator in ("and", "or"):
        parts = tuple(make_condition(part, negated) for part in _args(tree, 1, None))
        return All(parts) if (operator == "and") != negated else Some(parts)
    if operator in ("not", "isnull"):
        (inner,) = _args(tree, 1, 1)
        return make_condition(inner, not negated) if operator == "not" else _null(inner, negated)
    if operator == "between":
        value, low, high = _args(tree, 3, 3)
        if negated:
            return Some((_comparison("<", value, low), _comparison(">", value, high)))
        return All((_comparison(">=", value, low), _comparison("<=", value, high)))
    left, right = _args(tree, 2, 2)
    if operator in _OPPOSITES:
        return _comparison(_OPPOSITES[operator] if negated else operator, left, right)
    if operator == "in":
        return _in(left, right, negated)
    if operator == "like":
        return _like(left, right, negated)
    if operator in _TEMPORAL:
        return TimeRelation(operator, _period(left), _period(right), negated)
    return (_located if operator in _SPATIAL else _labelled)(operator, left, right, negated)


def _comparison(operator: str, left: Any, right: Any) -> Condition:
    kind = _common(operator, left, right)
    if kind == "time":
        return TimeRelation(operator, _period(left), _period(right))
    if kind == "number":
        return NumberComparison(operator, _number(left), _number(right))
    if kind == "boolean":
        return _truth(operator, left, right)
    one, other = _text(left), _text(right)
    if isinstance(one, Text):
        return TextPair(operator, one, other) if isinstance(other, Text) else TextComparison(operator, one, other)
    if isinstance(other, Text):
        return TextComparison(_MIRRORED[operator], other, one)
    return Constant(_PYTHON[operator](one, other))


def _common(operator: str, left: Any, right: Any) -> str:
    """As what two values are compared: text, number, boolean or time."""
    kinds = [_kind(left), _kind(right)]
    for kind in kinds:
        if kind in _INCOMPARABLE:
            raise QueryError(f"filter: {_shown(left)} {operator} {_shown(right)}: {_INCOMPARABLE[kind]}")
    typed = set(kinds) - {"property"}
    if not typed:
        return "text" if operator in ("=", "<>") else "number"
    if typed == {"text", "time"} and isinstance(left if kinds[0] == "text" else right, str):
        return "time"
    if len(typed) > 1:
        told = [f"{_shown(tree)} is {_KINDS[kind]}" for tree, kind in zip((left, right), kinds, strict=True)]
        raise QueryError(f"filter: {told[0]} and {told[1]}; expected two of a kind to compare")
    return typed.pop()


def _truth(operator: str, left: Any, right: Any) -> Condition:
    if operator not in ("=", "<>"):
        raise QueryError(
            f"filter: {_shown(left)} {operator} {_shown(right)}: TRUE and FALSE have no order; use = or <>"
        )
    if isinstance(left, bool):
        left, right = right, left
    if isinstance(left, bool):
        return Constant(_PYTHON[operator](left, right))
    return Truth(left["property"], right == (operator == "="))


def _in(value: Any, given: Any, negated: bool) -> Condition:
    if not isinstance(given, list):
        raise QueryError(f"filter: {_shown(value)} IN {_shown(given)}: expected a list of values")
    if not given:
        return Constant(negated)
    kinds = {_common("=", value, one) for one in given}
    plain = all(isinstance(one, str | float) or _kind(one) == "time" or _folded(one) for one in given)
    if plain and len(kinds) == 1:
        if kinds == {"number"}:
            return NumberIn(_number(value), tuple(float(one) for one in given), negated)
        if kinds == {"text"} and isinstance(text := _text(value), Text):
            return TextIn(text, tuple(str(_text(one)) for one in given), negated)
        periods = [_period(one) for one in given] if kinds == {"time"} else []
        ends = tuple((one.start, one.end) for one in periods if isinstance(one.start, int) and isinstance(one.end, int))
        if periods and len(ends) == len(periods) and isinstance(moment := _period(value).start, Moment):
            return TimeIn(moment, ends, negated)
    parts = tuple(_comparison("<>" if negated else "=", value, one) for one in given)
    return All(parts) if negated else Some(parts)


def _like(value: Any, pattern: Any, negated: bool) -> Condition:
    given = _text(pattern)
    if not isinstance(given, str):
        raise QueryError(
            f"filter: LIKE {_shown(pattern)}: expected a pattern in quotes, % for any characters, _ for one"
        )
    text = _text(value)
    return Like(text, given, negated) if isinstance(text, Text) else Constant(like(text, given) != negated)


def _null(value: Any, negated: bool) -> Condition:
    while isinstance(value, dict) and value.get("op") in _FOLDS:
        (value,) = _args(value, 1, 1)
    if not isinstance(value, dict) or "property" not in value:
        raise QueryError(f"filter: {_shown(value)} IS NULL: expected a property")
    return Null(value["property"], negated)


def _located(operator: str, left: Any, right: Any, negated: bool) -> Condition:
    relation = operator.removeprefix("s_")
    if relation == "disjoint":
        relation, negated = "intersects", not negated
    if _is_column(right, "geometry"):
        left, right, relation = right, left, _CONVERSE.get(relation, relation)
    if not _is_column(left, "geometry") or _kind(right) != "geometry" or "property" in right:
        told = f"{operator}({_shown(left)}, {_shown(right)})"
        raise QueryError(f"filter: {told}: expected the property geometry and a geometry, such as POINT(20 44)")
    place = box_place(right["bbox"], "filter: BBOX") if "bbox" in right else geometry_place(right, "filter: a geometry")
    return Located(relation, place, negated)


def _labelled(operator: str, left: Any, right: Any, negated: bool) -> Condition:
    relation = operator.removeprefix("a_")
    if _is_column(right, "labels"):
        left, right, relation = right, left, _CONVERSE_LISTS.get(relation, relation)
    if not _is_column(left, "labels") or not isinstance(right, list) or not all(isinstance(one, str) for one in right):
        told = f"{operator}({_shown(left)}, {_shown(right)})"
        raise QueryError(f"filter: {told}: expected the property labels and a list of texts, such as ('Pastures')")
    return Labelled(relation, tuple(right), negated)


def _text(tree: Any) -> str | Text:
    """A value that is compared as text."""
    if isinstance(tree, str):
        return tree
    if isinstance(tree, dict) and tree.get("op") in _FOLDS:
        (arg,) = _args(tree, 1, 1)
        inner, how = _text(arg), tree["op"]
        return fold(inner, how) if isinstance(inner, str) else Text(inner.name, (*inner.folds, how))
    if _kind(tree) not in ("text", "property"):
        raise QueryError(f"filter: {_shown(tree)} is no text; expected a property or a text in quotes")
    return Text(tree["property"])


def _folded(tree: Any) -> bool:
    """Whether it is a text in quotes within ``casei`` or ``accenti``."""
    while isinstance(tree, dict) and tree.get("op") in _FOLDS:
        (tree,) = _args(tree, 1, 1)
    return isinstance(tree, str)


def _number(tree: Any) -> Numeric:
    """A value that is compared as a number."""
    if isinstance(tree, float):
        return tree
    if isinstance(tree, dict) and tree.get("op") in ARITHMETIC:
        left, right = _args(tree, 2, 2)
        return Arithmetic(tree["op"], _number(left), _number(right))
    if _kind(tree) != "property":
        raise QueryError(f"filter: {_shown(tree)} is no number; expected a property, a number or + - * / of such")
    return Number(tree["property"])


def _period(tree: Any) -> Period:
    """A value that is compared as a time."""
    if isinstance(tree, dict) and "interval" in tree:
        ends = tree["interval"]
        if not isinstance(ends, list) or len(ends) != 2:
            raise QueryError(f"filter: {_shown(tree)}: an interval has a start and an end")
        start = FIRST if ends[0] == ".." else _instant(ends[0]).start
        end = LAST if ends[1] == ".." else _instant(ends[1]).end
        if isinstance(start, int) and isinstance(end, int) and start > end:
            raise QueryError(f"filter: {_shown(tree)} ends before it starts")
        return Period(start, end)
    return _instant(tree)


def _instant(tree: Any) -> Period:
    if isinstance(tree, dict) and "property" in tree and _kind(tree) in ("time", "property"):
        return Period(Moment(tree["property"]), Moment(tree["property"]))
    kind = next((kind for kind in ("timestamp", "date") if isinstance(tree, dict) and kind in tree), None)
    text = tree if kind is None else tree[kind]
    try:
        if not isinstance(text, str):
            raise ValueError(text)
        start, end = parse_instant(text)
        if kind is not None and (start == end) != (kind == "timestamp"):
            raise ValueError(text)
    except ValueError as error:
        expected = "expected TIMESTAMP('2018-06-01T00:00:00Z'), DATE('2018-06-01') or a property that has such"
        raise QueryError(f"filter: {_shown(tree)} is no time; {expected}") from error
    return Period(start, end)


def _kind(tree: Any) -> str:
    """What a part of an expression is."""
    for type_, kind in ((bool, "boolean"), (float, "number"), (str, "text"), (list, "list"), (type(None), "null")):
        if isinstance(tree, type_):
            return kind
    name = tree.get("property")
    if isinstance(name, str):
        return "time" if name == "datetime" or name.endswith("_datetime") else _COLUMNS.get(name, "property")
    if "op" in tree:
        operator = tree["op"]
        for operators, kind in ((_CONDITIONS, "condition"), (_FOLDS, "text"), (ARITHMETIC, "number")):
            if operator in operators:
                return kind
        known = ", ".join((*_CONDITIONS, *_FOLDS, *ARITHMETIC))
        raise QueryError(f"filter: {operator!r} is not supported; supported are {known}")
    for key, kind in (("timestamp", "time"), ("date", "time"), ("interval", "interval"), ("bbox", "geometry")):
        if key in tree:
            return kind
    if "coordinates" in tree or "geometries" in tree:
        return "geometry"
    raise QueryError(f"filter: {_shown(tree)} is not CQL2 JSON; expected an object with op and args, or a value")


def _is_column(tree: Any, name: str) -> bool:
    return isinstance(tree, dict) and tree.get("property") == name


def _args(tree: dict[str, Any], least: int, most: int | None) -> list[Any]:
    args = tree["args"]
    if not isinstance(args, list) or len(args) < least or (most is not None and len(args) > most):
        expected = f"{least}" if least == most else f"at least {least}"
        raise QueryError(f"filter: {tree['op']} has {_shown(args)}; expected a list of {expected}")
    return args


def _shown(tree: Any) -> str:
    """Part of an expression as a message shows it: short."""
    if isinstance(tree, dict) and isinstance(tree.get("property"), str):
        return str(tree["property"])
    text = f"{tree:g}" if isinstance(tree, float) else json.dumps(tree, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
