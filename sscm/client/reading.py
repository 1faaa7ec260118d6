"""JSON of the service as typed values: what is not of its type is told with its place and the value seen."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


class UnexpectedAnswer(ValueError):
    """An answer that an sscm service does not give; the client tells it as a :class:`sscm.errors.ServiceError`."""


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def checked(kind: type[T], value: Any) -> T:
    """A value of a dataclass, from JSON with at least its fields.

    Raises:
        UnexpectedAnswer: a field is missing, or of another type.
    """
    wanted: Any = kind  # to mypy a class that is a type variable has no hash
    try:
        checked: T = _adapter(wanted).validate_python(value)
        return checked
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "answer"
        seen = repr(first["input"])
        raise UnexpectedAnswer(f"{place}: {first['msg']}, seen {seen[:60]}{'…' * (len(seen) > 60)}") from error


def at_place(place: str, reader: Any, *values: Any) -> Any:
    """What a reader makes of values, with the place of them in its error."""
    try:
        return reader(*values)
    except UnexpectedAnswer as error:
        raise UnexpectedAnswer(f"{place}.{error}") from error
