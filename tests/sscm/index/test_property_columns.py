"""Decoded columns: right for slices, chunks and odd rows, made once, kept while the table lives."""

import gc

import numpy as np
import pyarrow as pa
import pytest

from sscm.index import property_columns
from sscm.index.filters import Filter
from sscm.index.property_columns import columns_of, property_key, property_name
from sscm.index.segment import rows_schema


def table_of(properties, labels=None, **more):
    items = [
        {
            "pair_id": f"p{n}",
            "split": "test",
            "labels": None if labels is None else labels[n],
            "properties": pairs,
            "archive_file": "",
            "archive_row": n,
        }
        for n, pairs in enumerate(properties)
    ]
    return pa.Table.from_pylist(items, rows_schema(["s1"])) if items else rows_schema(["s1"]).empty_table()


PROPERTIES = [
    [("a", "1"), ("b", "x")],
    None,
    [("b", "y")],
    [],
    [("a", "2"), ("a", "3")],
    [("a", None)],
    [("c", "z"), ("a", " -4.5e1 ")],
]
A = [1, None, None, None, 3, None, -45]


def numbers(table):
    return [None if np.isnan(value) else value for value in columns_of(table).numbers("a")]


def test_properties_of_slices_and_chunks():
    table = table_of(PROPERTIES)
    assert numbers(table) == A
    assert sorted(columns_of(table).properties) == ["a", "b", "c"]
    for start in range(7):
        for stop in range(start, 8):
            assert numbers(table.slice(start, stop - start)) == A[start:stop]
    chunked = pa.concat_tables([table.slice(3, 4), table.slice(0, 0), table.slice(0, 3)])
    assert chunked["properties"].num_chunks > 1
    assert numbers(chunked) == A[3:] + A[:3]
    assert columns_of(chunked).texts("c").rows().to_pylist() == [None, None, None, "z", None, None, None]
    assert numbers(table_of([])) == []
    assert columns_of(table).texts("nowhere").rows().to_pylist() == [None] * 7


def test_booleans_and_numbers_of_many_spellings():
    values = ["true", " TRUE", "False", "1", "yes", "", ".5", "5.", "+1e3", "0x10", "1_0", "inf", "-nan", "1e999", "١"]
    table = table_of([[("a", value)] for value in values])
    assert columns_of(table).booleans("a").tolist() == [1, 1, 0] + [-1] * 12
    assert numbers(table) == [None, None, None, 1, None, None, 0.5, 5, 1000, None, None, None, None, None, None]


def test_labels_given_twice_and_null():
    table = table_of([[]] * 5, [["x", "y", "x"], None, [], ["y", None], ["x"]])
    for part, keep in ((table, slice(0, 5)), (table.slice(1, 3), slice(1, 4))):
        lists = columns_of(part).labels()
        assert lists.counts.tolist() == [2, -1, 0, 1, 1][keep]
        assert lists.having("x").tolist() == [n - keep.start for n in (0, 4) if keep.start <= n < keep.stop]
        assert lists.having("nothing").tolist() == []
        assert (
            Filter(filter="a_equals(labels, ('y'))").bitmap(part).tolist() == [False, False, False, True, False][keep]
        )


def test_names_that_mean_something_here_are_a_source_s_by_prefix():
    assert property_key("source:split", ()) == "split" and property_name("split", ()) == "source:split"
    assert property_key("source:s1_datetime", ("s1",)) == "s1_datetime"
    assert property_key("source:cloud", ("s1",)) == "source:cloud" and property_name("cloud", ("s1",)) == "cloud"
    assert property_key("source:s1", ("s1",)) == "source:s1"


def test_what_is_decoded_is_made_once_and_goes_with_the_table(monkeypatch):
    table = table_of(PROPERTIES)
    columns = columns_of(table)
    assert columns_of(table) is columns and columns.numbers("a") is columns.numbers("a")
    cache = property_columns._CACHE
    kept = [key for key in cache._kept if key[0] == columns.number]
    assert kept and cache._bytes > 0
    del table
    gc.collect()
    assert not any(key[0] == columns.number for key in cache._kept)
    assert not any(known is columns for _, known in property_columns._TABLES.values())


def test_no_more_is_kept_than_may_be(monkeypatch):
    cache = property_columns._Cache(1000)
    monkeypatch.setattr(property_columns, "_CACHE", cache)
    made = []

    def make(n):
        made.append(n)
        return np.zeros(100, np.int32)

    for n in (0, 1, 0, 2, 0, 1, 0):
        cache.get(0, n, lambda n=n: make(n))
        assert cache._bytes <= 1000
    assert made == [0, 1, 2, 1]  # 0 was used most lately when 1 had to go
    assert cache.get(0, "large", lambda: np.zeros(10_000)).nbytes == 80_000
    assert cache._bytes == 0 and not cache._kept


def test_the_earliest_time_is_that_of_any_modality():
    schema = rows_schema(["s1", "s2"])
    times = [(5, 3), (None, 4), (None, None), (6, None)]
    items = [
        {
            "pair_id": f"p{n}",
            "split": "test",
            "s1_datetime": one,
            "s2_datetime": two,
            "archive_file": "",
            "archive_row": n,
        }
        for n, (one, two) in enumerate(times)
    ]
    columns = columns_of(pa.Table.from_pylist(items, schema))
    assert columns.times("datetime").tolist() == [3, 4, property_columns.NAT, 6]
    assert columns.times("datetime", "s1").tolist() == [5, property_columns.NAT, property_columns.NAT, 6]


@pytest.mark.parametrize("size", [100, 200, 40_000])
def test_codes_are_as_small_as_can_be(size):
    table = table_of([[("a", f"{n:05d}")] for n in range(size)])
    texts = columns_of(table).texts("a")
    assert texts.codes.dtype == {100: np.int8, 200: np.int16, 40_000: np.int32}[size]
    assert texts.rows().to_pylist() == [f"{n:05d}" for n in range(size)]
