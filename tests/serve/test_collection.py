"""Answers are GeoJSON that says where it comes from, however its items were put together."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.collection import collection
from serve.editions import Edition
from sscm.workspace import Workspace

EDITION = Edition(
    workspace=Workspace(uri="file:///nowhere"),
    generation=7,
    created="2026-01-01T00:00:00+00:00",
    modalities=(),
    dimension=4,
    model={"name": "grün", "fingerprint": "ab", "backbone": "not told here"},
    simulated=True,
    shard_rows=(10, 10),
)
ITEMS = st.dictionaries(
    st.text(), st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False, width=32) | st.text()
)


@given(items=st.lists(ITEMS, max_size=5), matched=st.integers(0, 2**40))
def test_items_come_out_as_they_went_in(items, matched):
    found = json.loads(collection(EDITION, [orjson.dumps(item) for item in items], matched, target="s2"))
    assert found == {
        "type": "FeatureCollection",
        "features": items,
        "numberMatched": matched,
        "numberReturned": len(items),
        "links": [],
        "sscm": {
            "generation": 7,
            "model": {"name": "grün", "fingerprint": "ab"},
            "target": "s2",
            "simulated": True,
            "complete": True,
        },
    }


@pytest.mark.parametrize("lost", [[], [1], [0, 1]])
def test_shards_that_did_not_answer_are_told(lost):
    found = json.loads(collection(EDITION, [b"{}"], 3, target=["s1", "s2"], lost=lost))["sscm"]
    assert found["complete"] == (not lost)
    assert found.get("shards_lost", []) == lost
    assert found["target"] == ["s1", "s2"]


def test_links_are_told():
    links = [{"rel": "next", "href": "/v1/items?token=x%22"}]
    found = json.loads(collection(EDITION, [], 0, links=links))
    assert (found["links"], found["features"], found["sscm"]["target"]) == (links, [], None)
