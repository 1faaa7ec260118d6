"""CQL2 against the own matcher of the library that parses it, row by row, and against lambdas where we mean more."""

import functools
import json
import pickle
from datetime import UTC, datetime, timedelta

import cql2
import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from sscm.errors import QueryError
from sscm.index.cql2 import read_expression
from sscm.index.filters import Filter
from sscm.index.segment import rows_schema

START = datetime(2018, 6, 1, tzinfo=UTC)
COUNTRIES = ["Serbia", "serbia", "Österreich", "Kosovo", "Straße", "a%b", "a_b", "", None]
CLOUDS = ["0", "12.50", " 3 ", "+4", "-1e1", "99", "n/a", "nan", "1e999", None]
FLAGS = ["true", "False", "TRUE", "yes", None]
CHECKED = ["2018-06-03T10:00:00Z", "2018-06-03T12:00:00+02:00", "2018-06-04", "2018-02-30", "soon", None]


@functools.cache
def made_items():
    """Rows as dictionaries: every kind of value that a source may give, and of values that are missing."""
    rng = np.random.default_rng(1)
    made = []
    for number in range(120):
        box = shapely.box(number % 12, number // 12, number % 12 + 0.8, number // 12 + 0.8)
        chosen = {
            "country": COUNTRIES[number % 9],
            "cloud": CLOUDS[rng.integers(len(CLOUDS))],
            "level": str(rng.integers(1, 4)),
            "flag": FLAGS[rng.integers(len(FLAGS))],
            "checked": CHECKED[rng.integers(len(CHECKED))],
            "split": "winter",
        }
        properties = [(key, value) for key, value in chosen.items() if value is not None]
        made.append(
            {
                "pair_id": f"p{number:03d}",
                "split": ("train", "validation", "test")[number % 3],
                "labels": None if number % 11 == 0 else [name for name in ("x", "y", "z") if rng.random() < 0.5],
                "geometry": None if number % 13 == 0 else shapely.to_wkb(box),
                "bbox": None
                if number % 13 == 0
                else dict(zip(("xmin", "ymin", "xmax", "ymax"), box.bounds, strict=True)),
                "s1_datetime": START + timedelta(hours=number),
                "s2_datetime": None if number % 7 == 0 else START + timedelta(hours=number + 30),
                "properties": None if number == 50 else properties,
                "has_s1": True,
                "has_s2": True,
                "archive_file": "shards/a.parquet",
                "archive_row": number,
            }
        )
    return made


@pytest.fixture(scope="module")
def items():
    return made_items()


@functools.cache
def made_rows():
    return pa.Table.from_pylist(made_items(), rows_schema(["s1", "s2"]))


@pytest.fixture(scope="module")
def rows():
    return made_rows()


def number_of(text):
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def properties_of(item):
    return dict(item["properties"] or ())


def stac_of(item):
    """The row as the library wants it: a STAC Item of typed values."""
    texts = properties_of(item)
    time = item["s2_datetime"]
    return {
        "id": item["pair_id"],
        "geometry": None
        if item["geometry"] is None
        else json.loads(shapely.to_geojson(shapely.from_wkb(item["geometry"]))),
        "properties": {
            "country": texts.get("country"),
            "cloud": number_of(texts.get("cloud")),
            "level": number_of(texts.get("level")),
            "flag": {"true": True, "false": False}.get(str(texts.get("flag")).lower()),
            "split": item["split"],
            "labels": item["labels"],
            "datetime": None if time is None else time.isoformat().replace("+00:00", "Z"),
        },
    }


def passes_by_library(text, item):
    try:
        return cql2.parse_text(text).matches(item)
    except Exception as error:
        assert "reduce" in str(error), (text, error)  # null: neither true nor false
        return False


NUMBERS = st.sampled_from(["0", "3", "4", "12.5", "-10", "50"])
COMPARED = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
QUOTED = st.sampled_from(["'Serbia'", "'Kosovo'", "''", "'a%b'", "'Österreich'", "'Nowhere'"])
NUMERIC = st.sampled_from(
    ["cloud", "level", "cloud + level", "cloud * 2 - 1", "cloud / level", "cloud % 3", "level ^ 2"]
)
PATTERNS = st.sampled_from(["'S%'", "'%o%'", "'a\\_b'", "'a_b'", "'a\\%b'", "'%'", "'_erbia'", "''", "'Ö%'"])
TIMES = st.integers(0, 150).map(lambda hours: (START + timedelta(hours=hours)).isoformat().replace("+00:00", "Z"))
LISTS = st.lists(st.sampled_from(["'x'", "'y'", "'z'", "'w'"]), min_size=1, max_size=3).map(
    lambda v: f"({', '.join(v)})"
)
NOT = st.sampled_from(["", "NOT "])
COORDINATES = st.integers(0, 120).map(lambda v: v / 10 + 0.05)
CORNERS = st.tuples(*[st.integers(0, 10)] * 4).map(
    lambda v: (min(v[0], v[2]) - 0.1, min(v[1], v[3]) - 0.1, max(v[0], v[2]) + 0.5, max(v[1], v[3]) + 0.5)
)


def leaf(pattern, **parts):
    return st.fixed_dictionaries(parts).map(lambda chosen: pattern.format(**chosen))


LEAVES = st.one_of(
    leaf("{a} {op} {b}", a=NUMERIC, op=COMPARED, b=NUMBERS),
    leaf("{b} {op} {a}", a=NUMERIC, op=COMPARED, b=NUMBERS),
    leaf("{a} {op} level", a=st.sampled_from(["cloud + 0", "cloud"]), op=st.sampled_from(["<", ">="])),
    leaf("cloud {n}BETWEEN {b} AND {c}", n=NOT, b=NUMBERS, c=NUMBERS),
    leaf("cloud {n}IN ({b}, {c})", n=NOT, b=NUMBERS, c=NUMBERS),
    leaf("country {op} {b}", op=COMPARED, b=QUOTED),
    leaf("country {n}IN ({b}, {c})", n=NOT, b=QUOTED, c=QUOTED),
    leaf("country {n}LIKE {b}", n=NOT, b=PATTERNS),
    leaf("CASEI(country) = CASEI({b})", b=QUOTED),
    leaf("split {op} {b}", op=COMPARED, b=st.sampled_from(["'train'", "'test'"])),
    leaf("id {op} {b}", op=COMPARED, b=st.sampled_from(["'p000'", "'p077'", "'p0771'", "'q'"])),
    leaf("id IN ({b}, 'p005')", b=st.sampled_from(["'p000'", "'nobody'"])),
    leaf("{a} IS {n}NULL", a=st.sampled_from(["country", "cloud", "labels", "geometry", "datetime", "split"]), n=NOT),
    leaf("flag {op} {b}", op=st.sampled_from(["=", "<>"]), b=st.sampled_from(["TRUE", "FALSE"])),
    leaf("datetime {op} TIMESTAMP('{t}')", op=COMPARED, t=TIMES),
    leaf("{op}(datetime, TIMESTAMP('{t}'))", op=st.sampled_from(["T_AFTER", "T_BEFORE", "T_EQUALS"]), t=TIMES),
    leaf(
        "{op}(datetime, INTERVAL({t}, '2018-07-09T00:00:00Z'))",
        op=st.sampled_from(["T_DURING", "T_INTERSECTS", "T_DISJOINT", "T_BEFORE", "T_AFTER"]),
        t=st.one_of(TIMES.map("'{}'".format), st.just("'..'")),
    ),
    leaf("{op}(labels, {v})", op=st.sampled_from(["A_CONTAINS", "A_OVERLAPS", "A_CONTAINEDBY", "A_EQUALS"]), v=LISTS),
    leaf(
        "{op}(geometry, BBOX{box})",
        op=st.sampled_from(["S_INTERSECTS", "S_WITHIN", "S_DISJOINT"]),
        box=CORNERS,
    ),
    leaf("S_CONTAINS(geometry, POINT({x} {y}))", x=COORDINATES, y=COORDINATES),
    st.sampled_from(["TRUE", "FALSE", "3 > 2", "'a' = 'b'"]),
)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda a: f"NOT ({a})"),
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda v: f"({v[0]}) {v[1]} ({v[2]})"),
    ),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(text=EXPRESSIONS)
def test_it_lets_pass_what_the_library_s_own_matcher_does(text):
    found = Filter(filter=text).bitmap(made_rows(), "s2")
    assert found.dtype == np.bool_
    for item in made_items():
        if "cloud IS" in text and properties_of(item).get("cloud") in ("n/a", "nan", "1e999"):
            continue  # a value, which the library was given as null
        assert found[int(item["pair_id"][1:])] == passes_by_library(text, stac_of(item)), (text, item)


@settings(max_examples=100, deadline=None)
@given(text=EXPRESSIONS)
def test_text_and_json_say_the_same(text):
    tree = cql2.parse_text(text).to_json()
    wrapped = tree if isinstance(tree, dict) else {"op": "and", "args": [tree]}
    for other in (wrapped, pickle.loads(pickle.dumps(wrapped))):
        again = read_expression(other)
        assert again.names == read_expression(text).names
    if isinstance(tree, dict):
        assert again.key == read_expression(text).key == read_expression(json.dumps(tree), "cql2-json").key


def check(rows, items, expression, passes, modality="s2", some=True):
    found = Filter(filter=expression).bitmap(rows, modality)
    wanted = [passes(item, properties_of(item)) for item in items]
    np.testing.assert_array_equal(found, wanted)
    assert not some or 0 < sum(wanted) < len(wanted)


def seconds(text):
    return datetime.fromisoformat(text).timestamp()


def checked(properties):
    value = properties.get("checked")
    return None if value in (None, "soon", "2018-02-30") else seconds(value if "T" in value else f"{value}T00:00:00Z")


NOON = seconds("2018-06-03T10:00:00Z")


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("casei(country) = casei('STRASSE')", lambda i, p: p.get("country") == "Straße"),
        ("accenti(country) = accenti('Osterreich')", lambda i, p: p.get("country") == "Österreich"),
        ("casei(accenti(country)) LIKE 'ö%'", lambda i, p: False),
        ("casei(accenti(country)) LIKE accenti('ö%')", lambda i, p: p.get("country") == "Österreich"),
        ("accenti(country) IS NULL", lambda i, p: p.get("country") is None),
        ("country = 3 OR country = 'Serbia'", lambda i, p: p.get("country") == "Serbia"),
        ("cloud = '+4'", lambda i, p: p.get("cloud") == "+4"),
        ("cloud = 4", lambda i, p: p.get("cloud") == "+4"),
        ("cloud IN ('n/a', 99)", lambda i, p: p.get("cloud") in ("n/a", "99")),
        ("NOT cloud IN ('n/a', 99)", lambda i, p: number_of(p.get("cloud")) not in (None, 99)),
        ("cloud IS NULL", lambda i, p: p.get("cloud") is None),
        ("cloud / 0 > 0", lambda i, p: False),
        ("country = flag", lambda i, p: False),
        ("country = country", lambda i, p: p.get("country") is not None),
        ("checked = flag", lambda i, p: False),
        ("cloud > level", lambda i, p: (number_of(p.get("cloud")) or -99) > int(p.get("level", 9))),
        ("flag", lambda i, p: p.get("flag") in ("true", "TRUE")),
        ("NOT flag", lambda i, p: p.get("flag") == "False"),
        ("checked = TIMESTAMP('2018-06-03T10:00:00Z')", lambda i, p: checked(p) == NOON),
        ("checked > DATE('2018-06-03')", lambda i, p: (checked(p) or 0) > NOON),
        ("checked <= DATE('2018-06-03')", lambda i, p: checked(p) == NOON),
        ("checked <> DATE('2018-06-03')", lambda i, p: checked(p) not in (None, NOON)),
        ("checked IN (DATE('2018-06-03'), DATE('2018-06-09'))", lambda i, p: checked(p) == NOON),
        ("checked NOT IN (DATE('2018-06-03'))", lambda i, p: checked(p) not in (None, NOON)),
        ("checked = '2018-06-04'", lambda i, p: p.get("checked") == "2018-06-04"),
        ("s1_datetime >= '2018-06-03'", lambda i, p: i["s1_datetime"] >= START + timedelta(days=2)),
        ("s1_datetime BETWEEN DATE('2018-06-02') AND DATE('2018-06-03')",
         lambda i, p: START + timedelta(days=1) <= i["s1_datetime"] < START + timedelta(days=3)),
        ("t_intersects(s1_datetime, INTERVAL('2018-06-02', '2018-06-02'))",
         lambda i, p: i["s1_datetime"].date() == datetime(2018, 6, 2).date()),
        ("t_contains(INTERVAL(s1_datetime, s2_datetime), TIMESTAMP('2018-06-03T00:00:00Z'))",
         lambda i, p: bool(i["s2_datetime"]) and i["s1_datetime"] < START + timedelta(days=2) < i["s2_datetime"]),
        ("NOT t_contains(INTERVAL(s1_datetime, s2_datetime), TIMESTAMP('2018-06-03T00:00:00Z'))",
         lambda i, p: bool(i["s2_datetime"])
         and not i["s1_datetime"] < START + timedelta(days=2) < i["s2_datetime"]),
        ("s2_datetime > s1_datetime", lambda i, p: i["s2_datetime"] is not None),
        ("NOT a_contains(labels, ('x'))", lambda i, p: i["labels"] is not None and "x" not in i["labels"]),
        ("a_contains(('x', 'y'), labels)", lambda i, p: i["labels"] is not None and "z" not in i["labels"]),
        ("NOT s_intersects(geometry, BBOX(3, 3, 6, 6))",
         lambda i, p: i["geometry"] is not None
         and not shapely.from_wkb(i["geometry"]).intersects(shapely.box(3, 3, 6, 6))),
        ("s_within(POINT(3.1 3.1), geometry)",
         lambda i, p: i["geometry"] is not None and shapely.from_wkb(i["geometry"]).contains(shapely.Point(3.1, 3.1))),
        ("s_intersects(geometry, POINT(31E-1 3.05e0))",
         lambda i, p: i["geometry"] is not None
         and shapely.from_wkb(i["geometry"]).intersects(shapely.Point(3.1, 3.05))),
        ('"source:split" = \'winter\'', lambda i, p: "split" in p),
        ("split = 'train' OR source:split IS NULL", lambda i, p: i["split"] == "train" or not p),
        ("pair_id LIKE '%7'", lambda i, p: i["pair_id"].endswith("7")),
        ("country NOT LIKE '%'", lambda i, p: False),
    ],
)  # fmt: skip
def test_what_is_meant(rows, items, text, passes):
    nothing = not any(passes(item, properties_of(item)) for item in items)
    everything = all(passes(item, properties_of(item)) for item in items)
    check(rows, items, text, passes, some=not (nothing or everything))


def test_times_are_those_of_the_target_and_otherwise_the_earliest(rows, items):
    text = "datetime < TIMESTAMP('2018-06-02T00:00:00Z')"
    day = START + timedelta(days=1)
    check(rows, items, text, lambda i, p: i["s1_datetime"] < day, "s1")
    check(rows, items, text, lambda i, p: i["s2_datetime"] is not None and i["s2_datetime"] < day, "s2", some=False)
    check(rows, items, text, lambda i, p: i["s1_datetime"] < day, None)


def test_a_list_that_is_empty_has_nothing_and_one_of_thousands_is_looked_up(rows, items):
    empty = {"op": "in", "args": [{"property": "country"}, []]}
    assert not Filter(filter=empty).bitmap(rows).any()
    assert Filter(filter={"op": "not", "args": [empty]}).bitmap(rows).all()
    many = [f"p{n:03d}" for n in range(0, 1000, 5)]
    check(rows, items, {"op": "in", "args": [{"property": "id"}, many]}, lambda i, p: i["pair_id"] in many)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a ==  1", r"column 4, at '=  1': expected a value: a property"),
        ("country = 'x' b", r"column 15, at 'b': expected an operator .*, or the end"),
        ("(country = 'x'", r"column 1, at .*this \( is never closed"),
        ("country = 'x", r"column 11, at .*this ' is never closed"),
        ("country = 'x')", r"column 14, at '\)': this \) closes nothing"),
        ("country = 'x'\n AND ", r"line 2, column 6, at the end of the text: expected a value"),
        ('{"op": "="}', "starts like CQL2 JSON"),
        ("buffer(geometry, 1) = 2", r"'buffer' is not supported; supported are and, or, .*s_intersects"),
        ("S_DWITHIN(geometry, POINT(1 1), 3)", "'s_dwithin' is not supported"),
        ("country", None),
        ("country = NULL", "write IS NULL"),
        ("id = 3", "id is text and 3 is a number; expected two of a kind"),
        ("datetime = 3", "datetime is a time and 3 is a number"),
        ("datetime > 'noon'", "\"noon\" is no time; expected TIMESTAMP"),
        ("datetime > TIMESTAMP('2018-13-01T00:00:00Z')", "is no time"),
        ("datetime > DATE('2018-06-01T00:00:00Z')", "is no time"),
        ("t_during(datetime, INTERVAL('2018-06-02', '2018-06-01'))", "ends before it starts"),
        ("country < TRUE", "have no order"),
        ("labels = 'x'", "labels are a list; use a_contains"),
        ("'x' IN labels", "labels are a list; use a_contains"),
        ("labels LIKE 'x'", "labels is no text"),
        ("geometry = 1", "geometries are compared by s_intersects"),
        ("country LIKE level", "expected a pattern in quotes"),
        ("id + 1 = 2", "id is no number"),
        ("(cloud = 1) = TRUE", "a condition is no value"),
        ("3", "3 is no condition"),
        ("1 IS NULL", "1 IS NULL: expected a property"),
        ("a_contains(country, ('x'))", "expected the property labels and a list of texts"),
        ("a_contains(labels, (1, 2))", "expected the property labels and a list of texts"),
        ("s_intersects(country, POINT(1 1))", "expected the property geometry and a geometry"),
        ("s_intersects(geometry, BBOX(1, 2, 3))", "BBOX = .*four numbers, or six"),
        ("s_intersects(geometry, BBOX(1, 2, 3, 1))", "south is north of north"),
        ("s_intersects(geometry, POLYGON((0 0, 1 1, 1 0, 0 1, 0 0)))", "not a valid geometry"),
        ("s_intersects(geometry, POINT(400 1))", "longitude 400"),
        (" AND ".join(["cloud = 1"] * 1200), "too long|1201 operators"),
        ("NOT " * 61 + "flag", "nested more than 60 levels"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_told(text, message):
    if message is None:
        read_expression(text)
        return
    with pytest.raises(QueryError, match=f"(?s)filter.*{message}"):
        Filter(filter=text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "is not CQL2 JSON"),
        ({"op": "="}, r"= has null; expected a list of 2"),
        ({"op": "=", "args": [{"property": "a"}]}, "expected a list of 2"),
        ({"op": "and", "args": []}, "expected a list of at least 1"),
        ({"op": "=", "args": [{"property": 3}, 1]}, "is not CQL2 JSON"),
        ({"op": "=", "args": [{"property": "a"}, {"date": 3}]}, "is no time"),
        ({"op": "t_during", "args": [{"property": "datetime"}, {"interval": ["2018-06-01"]}]}, "a start and an end"),
        ({"op": "in", "args": [{"property": "a"}, "x"]}, "expected a list of values"),
        ({"op": "=", "args": [{"property": "a"}, float("nan")]}, "not CQL2 JSON"),
        ({"op": "=", "args": [{"property": "a"}, object()]}, "not CQL2 JSON"),
        (3, "expected CQL2, a text or a JSON object"),
    ],
)
def test_json_that_is_not_cql2_is_told(value, message):
    with pytest.raises(QueryError, match=message):
        Filter(filter=value)
    deep = {"op": "not", "args": [True]}
    for _ in range(100_000):
        deep = {"op": "not", "args": [deep]}
    with pytest.raises(QueryError, match="not CQL2 JSON"):
        read_expression(deep)
    while isinstance(deep, dict):  # bit by bit, since freeing it at once would recurse
        deep = deep["args"].pop()


def test_languages():
    for value, language in (
        ("a = 1", "cql2-text"),
        ({"op": "not", "args": [True]}, "cql2-json"),
        ("true", "cql2-json"),
    ):
        assert read_expression(value, language)
    for value, language, message in (
        ("a = 1", "cql", "expected one of cql2-text, cql2-json"),
        ({"op": "not", "args": [True]}, "cql2-text", "filter is an object and filter-lang cql2-text"),
        ("a = 1", "cql2-json", "filter is no JSON"),
    ):
        with pytest.raises(QueryError, match=message):
            read_expression(value, language)
    with pytest.raises(QueryError, match="and no filter"):
        Filter(filter_lang="cql2-text")
