"""Times as text, against the standard library's."""

from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscm.index.instants import DAY, NAT, parse_instant, parse_times, parse_timestamp

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=ZONES)


def microseconds(moment):
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))


@given(moments=st.lists(MOMENTS, max_size=5), upper=st.booleans())
def test_timestamps(moments, upper):
    texts = [moment.isoformat() if upper else moment.isoformat().replace("T", "t") for moment in moments]
    wanted = [microseconds(moment) for moment in moments]
    assert [parse_timestamp(text) for text in texts] == wanted
    assert parse_times(pa.array(texts, pa.string())).tolist() == wanted


NO_TIMES = [
    "",
    "soon",
    "2018-02-30T00:00:00Z",
    "2018-06-01T00:00:00",
    "2018-06-01T24:01:00Z",
    "0001-01-01T00:00:00+14:00",
]


@pytest.mark.parametrize("text", NO_TIMES)
def test_what_is_no_time(text):
    with pytest.raises(ValueError):
        parse_timestamp(text)
    with pytest.raises(ValueError):
        parse_instant(text)
    good = "2018-06-01T00:00:00.1234567Z"  # more digits than microseconds have, which are cut
    assert parse_times(pa.array([text, None, good])).tolist() == [NAT, NAT, parse_timestamp(good)]


def test_a_date_is_its_day():
    midnight = parse_timestamp("2018-06-01T00:00:00Z")
    assert parse_instant("2018-06-01") == (midnight, midnight + DAY - 1)
    assert parse_instant("2018-06-01T00:00:00Z") == (midnight, midnight)
    assert parse_times(pa.array(["2018-06-01", " 2018-06-01t02:00:00+02:00 "])).tolist() == [midnight, midnight]
