"""How searches are written as JSON, and filters in a query string."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sscm.client.query import Query, search_body, without_commas
from sscm.errors import QueryError


def test_what_is_not_given_is_not_sent():
    assert search_body(Query(target="s2", id="a", modality="s1", limit=None, bbox=None)) == {
        "target": "s2",
        "id": "a",
        "modality": "s1",
    }


@pytest.mark.parametrize("kind", [list, tuple, np.float32, np.float64, torch.tensor, iter])
def test_a_vector_of_any_kind_becomes_json(kind):
    vector = kind([1.0, 0.5]) if kind is not np.float32 else np.array([1, 0.5], np.float32)
    vector = np.array([1, 0.5]) if kind is np.float64 else vector
    body = search_body(Query(target=("s2", "s1"), vector=vector))
    assert json.loads(json.dumps(body)) == {"target": ["s2", "s1"], "vector": [1.0, 0.5]}


def test_examples_are_ids_or_vectors():
    query = Query(
        target="s2",
        modality="s1",
        positives=["a", {"id": "b", "modality": "s2"}, {"vector": np.array([1, 2])}],
        negatives=["c"],
    )
    assert search_body(query) == {
        "target": "s2",
        "modality": "s1",
        "positives": [{"id": "a"}, {"id": "b", "modality": "s2"}, {"vector": [1.0, 2.0]}],
        "negatives": [{"id": "c"}],
    }


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"id": "a"}, "target is missing; expected the modality of the images searched"),
        ({"target": "s2", "lables": ["x"]}, "lables: unknown; known are bbox, datetime, filter, id, ids, intersects"),
        ({"target": "s2", "vector": [float("nan"), 1.0]}, "vector: holds NaN or infinity"),
        ({"target": "s2", "positives": [{"vector": [float("inf")]}]}, "vector: holds NaN or infinity"),
        ({"target": "s2", "positives": [{"name": "a"}]}, "name: unknown; known are id, modality, vector"),
    ],
)
def test_what_cannot_be_asked_is_told_before_it_is_sent(query, message):
    with pytest.raises(QueryError, match=message):
        search_body(query)


def test_names_with_commas_become_a_condition():
    assert without_commas({"labels": ["Pastures"], "ids": ["a"], "split": "test"}) == {
        "labels": ["Pastures"],
        "ids": ["a"],
        "split": "test",
    }
    label = "Land, principally occupied by farmers' fields"
    text = "a_overlaps(labels, ('Pastures', 'Land, principally occupied by farmers'' fields'))"
    assert without_commas({"labels": ["Pastures", label]}) == {"filter": text}
    assert without_commas({"labels": ["Pastures", label], "filter": "a = 1 OR b = 2"}) == {
        "filter": f"(a = 1 OR b = 2) AND {text}"
    }
    assert without_commas({"ids": ["a,b"], "labels": [label]})["filter"].startswith("(id IN ('a,b')) AND a_overlaps(")
    given = {"op": "=", "args": [{"property": "a"}, 1]}
    assert without_commas({"ids": ["a,b"], "filter": given}) == {
        "filter": {"op": "and", "args": [given, {"op": "in", "args": [{"property": "id"}, ["a,b"]]}]}
    }
