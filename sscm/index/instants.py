"""Times as text: RFC 3339 instants, dates and intervals as microseconds since 1970 in UTC.

Source: RFC 3339; OGC API - Features 17-069r4, section 7.15.4; OGC CQL2 21-065r2, section 7.8 (every instant has a start
and an end, an interval includes both of its ends).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sscm.errors import QueryError

Times = npt.NDArray[np.int64]

NAT = -(2**63)
"""No time, as a datetime64 has it; smaller than any time."""
FIRST = NAT + 1
"""Start of an interval that is open there."""
LAST = 2**63 - 1
"""End of an interval that is open there."""
DAY = 86_400_000_000
"""Microseconds of a day."""

_DATE = r"\d{4}-\d\d-\d\d"
_TIMESTAMP = rf"{_DATE}T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OPEN = ("", "..")


def parse_timestamp(text: str) -> int:
    """Microseconds of an RFC 3339 ``date-time``.

    Raises:
        ValueError: it is none.
    """
    upper = text.strip().upper()
    if not re.fullmatch(_TIMESTAMP, upper, re.ASCII):
        raise ValueError(text)
    try:
        return (datetime.fromisoformat(upper).astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
    except OverflowError as error:
        raise ValueError(text) from error


def parse_instant(text: str) -> tuple[int, int]:
    """First and last microsecond of an RFC 3339 ``date-time`` or of the UTC day of a ``full-date``.

    Raises:
        ValueError: it is neither.
    """
    if re.fullmatch(_DATE, text.strip(), re.ASCII):
        start = parse_timestamp(f"{text.strip()}T00:00:00Z")
        return start, start + DAY - 1
    moment = parse_timestamp(text)
    return moment, moment


def parse_interval(text: str) -> tuple[int, int]:
    """First and last microsecond of the ``datetime`` of a search, an instant or ``start/end``.

    Raises:
        QueryError: it is neither; what would be right is said.
    """
    expected = "expected an RFC 3339 instant (2018-06-01T00:00:00Z), or start/end with .. for one open end"
    if not isinstance(text, str):
        raise QueryError(f"datetime = {text!r}; {expected}")
    ends = [end.strip() for end in text.split("/")]
    if len(ends) > 2 or all(end in _OPEN for end in ends):
        raise QueryError(f"datetime = {text!r}; {expected}")
    moments = []
    for end, unbounded in zip(ends, (FIRST, LAST), strict=False):
        if len(ends) == 2 and end in _OPEN:
            moments.append(unbounded)
            continue
        try:
            moments.append(parse_timestamp(end))
        except ValueError as error:
            raise QueryError(f"datetime = {text!r}: {end!r} cannot be read; {expected}") from error
    if moments[0] > moments[-1]:
        raise QueryError(f"datetime = {text!r} ends before it starts; expected start/end")
    return moments[0], moments[-1]


def parse_times(texts: pa.Array) -> Times:
    """Times of a column of text: int64 [n], a date as its midnight, NAT where the text is neither date nor time."""
    upper = pc.utf8_upper(pc.utf8_trim_whitespace(texts))
    dated = pc.match_substring_regex(upper, f"^{_DATE}$")
    upper = pc.if_else(dated, pc.binary_join_element_wise(upper, "T00:00:00Z", ""), upper)
    likely = pc.fill_null(pc.match_substring_regex(upper, f"^{_TIMESTAMP}$"), False)
    times = np.full(len(texts), NAT, np.int64)
    places = np.flatnonzero(likely.to_numpy(zero_copy_only=False))
    chosen = upper.filter(likely)
    try:
        times[places] = chosen.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:  # one of them is no date of the calendar, or has more digits than microseconds
        times[places] = [_time_or_nat(text) for text in chosen.to_pylist()]
    return times


def _time_or_nat(text: str) -> int:
    try:
        return parse_timestamp(text)
    except ValueError:
        return NAT
