"""Requests are checked before anything is asked, and refusals say what was seen."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from serve.api import PROBLEM, Filters, SearchRequest, explain, parse_filters, problem, shown
from sscm.errors import QueryError
from sscm.index.filters import Filter


def refusal(**fields):
    with pytest.raises(ValidationError) as caught:
        SearchRequest(**{"modality": "s1", "target": "s2", "id": "p", **fields})
    return explain(caught.value.errors())


def test_exactly_one_example():
    assert "neither of vector and id given; expected exactly one" in refusal(id=None)
    assert "both of vector and id given; expected exactly one" in refusal(vector=[1.0])
    assert SearchRequest(modality="s1", target="s2", vector=[1.0]).limit == 10


def test_refusals_name_field_complaint_and_value():
    assert refusal(limit=0) == "limit: Input should be greater than or equal to 1, seen 0"
    assert refusal(bbox="everywhere").startswith("bbox: Input should be a valid list, seen 'everywhere'")
    assert refusal(colour="red") == "colour: Extra inputs are not permitted, seen 'red'"


def test_filters_become_the_index_s_filter_or_none():
    assert Filters().filter() is None
    given = Filters(bbox=[1, 2, 3, 4], labels=["Pastures"], split="test", datetime="2018-06-01T00:00:00Z/..")
    assert given.filter() == Filter(
        bbox=[1, 2, 3, 4], labels=["Pastures"], split="test", datetime="2018-06-01T00:00:00Z/.."
    )
    with pytest.raises(QueryError, match="south is north of north"):
        Filters(bbox=[0, 5, 1, 4]).filter()


def test_filters_of_a_form_are_json():
    assert parse_filters(None) == parse_filters("") == parse_filters("{}") == Filters()
    assert parse_filters('{"ids": ["a"]}').ids == ["a"]
    for text, match in (("{", "is not JSON"), ('"x"', "valid dictionary"), ('{"id": 3}', "id: Extra inputs")):
        with pytest.raises(QueryError, match=match):
            parse_filters(text)


def test_a_problem_is_rfc_9457():
    answer = problem(404, "item 'x' is not here", {"Retry-After": "1"})
    assert answer.status_code == 404
    assert answer.media_type == PROBLEM
    assert answer.headers["Retry-After"] == "1"
    assert json.loads(answer.body) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "item 'x' is not here",
    }


def test_values_are_shown_short():
    assert shown("x") == "'x'"
    assert len(shown(list(range(1000)))) == 80
