"""CQL2 text: read by the ``cql2`` library, which is kept from what would not do it good, and whose complaints are told.

The library recurses, so that a text nested deeply enough would end the process, and it tries parentheses in two ways,
so that a mistake inside many of them would take it for ever. Texts that are so are refused before.

Source: OGC CQL2 21-065r2, section 8.2 and annex B.
"""

from __future__ import annotations

import re
from typing import Any

import cql2

from sscm.errors import QueryError

MAX_TEXT = 100_000
"""Most characters of a filter: a polygon of some thousand points, and short enough to be read in milliseconds."""
MAX_WORDS = 1000
"""Most names, operators and parentheses: in a chain each takes the library up to 1 kB of stack."""
MAX_LEVELS = 100
"""Most parentheses around a token and signs and NOTs before it: each takes the library up to 4 kB of stack."""
MAX_TRIES = 100_000
"""Most tokens that the library may have to read, each again for every way to read the parentheses around it."""

_SHOWN = 24
"""Characters of a filter shown around a mistake."""

_NUMBER = r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_TOKEN = re.compile(
    rf"""
    (?P<literal> '(?:[^']|'')*' | "(?:[^"]|"")*" | (?<=[(,])\s*{_NUMBER}(?:\s+{_NUMBER}){{0,3}} | \d+(?:\.\d*)? )
  | (?P<word> [^\W\d][\w.:]* )
  | (?P<other> \S )
    """,
    re.VERBOSE,
)
_KEYWORDS = {"and", "or", "not", "in", "between", "like", "is", "div"}
_COMPLAINT = re.compile(r"-->\s*(\d+):(\d+)\n.*=\s*(.*)", re.DOTALL)
_VALUE = "a value: a property, a number, a 'text', TRUE, FALSE, a function or something in parentheses"
_OPERATOR = "an operator (AND, OR, =, <>, <, <=, >, >=, LIKE, IN, BETWEEN, IS NULL, +, -, *, /)"
_VALUE_RULES = {"Expr", "Identifier", "GEOMETRY", "SingleQuotedString", "DECIMAL", "ExpressionInParentheses"}
_OPERATOR_RULES = {"And", "Or", "Eq", "NotFlag", "Add", "IsNullPostfix"}


def parse_text(text: str) -> Any:
    """The expression of a CQL2 text, as CQL2 JSON has it; all numbers are float.

    Raises:
        QueryError: it is none; the message has the column, from 1, and what was expected there.
    """
    _require_readable(text)
    plain = _TOKEN.sub(_without_exponents, text)  # which the library does not know in geometries
    try:
        return cql2.parse_text(plain).to_json()
    except Exception as error:  # the library raises Exception itself where a geometry is amiss
        raise QueryError(_told(plain, str(error))) from error


def _require_readable(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise QueryError(f"filter has {len(text)} characters; expected at most {MAX_TEXT}")
    if text.lstrip().startswith("{"):
        raise QueryError("filter is a text that starts like CQL2 JSON; give an object, or filter-lang cql2-json")
    words = tries = signs = 0
    ways = 1
    before = ""
    opened: list[tuple[int, int]] = []
    for token in _TOKEN.finditer(text):
        what = token.group()
        words += token.lastgroup != "literal" and what != ","
        if what in "'\"":
            raise QueryError(f"filter: {_place(text, token.start())}: this {what} is never closed")
        if what == "(":
            opened.append((token.start(), ways))
            # The library tries what is in parentheses as an expression and as a list, but not a function's arguments.
            ways *= 1 if re.match(r"[^\W\d]", before) and before.lower() not in _KEYWORDS else 2
        elif what == ")":
            if not opened:
                raise QueryError(f"filter: {_place(text, token.start())}: this ) closes nothing")
            ways = opened.pop()[1]
        tries += ways
        signs = signs + 1 if what.lower() in ("not", "-") else 0
        if words > MAX_WORDS or tries > MAX_TRIES or len(opened) + signs > MAX_LEVELS:
            raise QueryError(f"filter: {_place(text, token.start())}: too long, or too deep in parentheses, to be read")
        before = what
    if opened:
        raise QueryError(f"filter: {_place(text, opened[-1][0])}: this ( is never closed")


def _without_exponents(token: re.Match[str]) -> str:
    """A token as it is, but coordinates in plain decimals."""
    words = token.group().split()
    if token.lastgroup != "literal" or len(words) < 2 or token.group()[0] in "'\"" or "e" not in token.group().lower():
        return token.group()
    return " ".join(f"{float(word):.17f}" if abs(float(word)) <= 360 else word for word in words)


def _told(text: str, complaint: str) -> str:
    """What the library found wrong, as a person would say it."""
    found = _COMPLAINT.search(complaint)
    if found is None:
        return f"filter: {complaint}"
    lines = text.split("\n")
    line, column = int(found[1]), int(found[2])
    position = sum(len(before) + 1 for before in lines[: line - 1]) + column - 1
    rules = set(re.findall(r"\w+", found[3]))
    expected = []
    if rules & _VALUE_RULES:
        expected.append(_VALUE)
    if rules & _OPERATOR_RULES:
        expected.append(_OPERATOR)
    if "EOI" in rules:
        expected.append("the end")
    return f"filter: {_place(text, position)}: expected {', or '.join(expected) or found[3].strip()}"


def _place(text: str, position: int) -> str:
    """A place in a text for people: line where there are several, column from 1, and what stands there."""
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    where = f"column {column}" if "\n" not in text else f"line {line}, column {column}"
    rest = text[position:].strip()
    if not rest:
        return f"{where}, at the end of the text"
    return f"{where}, at {rest if len(rest) <= _SHOWN else rest[: _SHOWN - 1] + '…'!r}"
