"""Answers as typed values, and what is no answer of an sscm service."""

from __future__ import annotations

import datetime as dt

import pytest

from sscm.client.about import read_model
from sscm.client.answers import Hit, Item, Problem, read_answers, read_batch
from sscm.client.reading import UnexpectedAnswer
from sscm.sensors import sentinel1


def test_answers_are_typed(answer):
    answers = read_answers(answer, Hit)
    assert (answers.matched, answers.generation, answers.model, answers.fingerprint) == (1234, 7, "small", "ab")
    assert (answers.complete, answers.simulated, answers.next) == (False, True, None)
    assert answers.collection is answer
    assert len(answers) == 2 and list(answers) == list(answers.items)
    first, second = answers
    assert (first.id, first.score, first.target, first.labels) == ("p[1]", 0.98765, "s2", ("Pastures",))
    assert first.datetime == dt.datetime(2018, 6, 1, 10, tzinfo=dt.UTC)
    assert first.bbox == (-1.0, -3.0, -0.5, -2.0) and first.geometry["type"] == "Polygon"
    assert first.properties["country"] == "Serbia" and first.stac is answer["features"][0]
    assert (second.target, second.labels, second.datetime, second.bbox, second.geometry) == ("s1", (), None, None, None)
    with pytest.raises(AttributeError):
        first.score = 1.0


def test_an_item_needs_no_score(answer):
    feature = answer["features"][0]
    del feature["properties"]["score"], feature["properties"]["target"]
    assert Item.read(feature).id == "p[1]"
    with pytest.raises(UnexpectedAnswer, match=r"properties\.score: Field required"):
        Hit.read(feature)


def put(answer, path, value):
    *parents, last = path
    for part in parents:
        answer = answer[part]
    answer[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["type"], "Feature", r"type: Input should be 'FeatureCollection', seen 'Feature'"),
        (["features"], {}, r"features: Input should be a valid list"),
        (["features", 1], 5, r"features\.1\.answer: "),
        (["features", 1, "id"], 5, r"features\.1\.id: Input should be a valid string, seen 5"),
        (["features", 1, "properties"], None, r"features\.1\.properties"),
        (["features", 0, "properties", "score"], "high", r"features\.0\.properties\.score: .*seen 'high'"),
        (["features", 0, "properties", "datetime"], "today", r"features\.0\.properties\.datetime"),
        (["features", 0, "bbox"], ["w"], r"features\.0\.bbox\.0"),
        (["numberMatched"], None, "numberMatched"),
        (["sscm"], {}, r"sscm\.generation: Field required"),
        (["links"], [{"rel": "next"}], r"links\.href: Field required"),
        (["links"], [{"rel": "next", "href": "/x", "method": "DELETE"}], r"links\.method"),
    ],
)
def test_what_is_no_answer_is_told_with_its_place_and_value(answer, path, value, message):
    put(answer, path, value)
    with pytest.raises(UnexpectedAnswer, match=message):
        read_answers(answer, Hit)


@pytest.mark.parametrize("value", [None, [], "text", 5, {}])
def test_other_json_is_no_answer(value):
    with pytest.raises(UnexpectedAnswer):
        read_answers(value, Hit)
    with pytest.raises(UnexpectedAnswer):
        read_batch(value, [{}])
    with pytest.raises(UnexpectedAnswer):
        read_model(value)


def test_the_next_page_is_asked_for_with_the_link_s_body_merged_in(answer):
    link = {"rel": "next", "href": "/v1/search", "method": "POST", "body": {"token": "t", "limit": 3}, "merge": True}
    answer["links"] = [{"rel": "self", "href": "/x"}, link]
    page = read_answers(answer, Hit, {"id": "a", "limit": 10}).next
    assert (page.method, page.path, page.body) == ("POST", "/v1/search", {"id": "a", "limit": 3, "token": "t"})
    link["merge"] = False
    assert read_answers(answer, Hit, {"id": "a"}).next.body == {"token": "t", "limit": 3}
    answer["links"] = [{"rel": "next", "href": "/v1/items?token=t&limit=3"}]
    page = read_answers(answer, Hit).next
    assert (page.method, page.path, page.body) == ("GET", "/v1/items?token=t&limit=3", None)


@pytest.mark.parametrize("href", ["http://elsewhere/v1/items", "//elsewhere/v1/items", "items", ""])
def test_a_link_to_elsewhere_is_not_followed(answer, href):
    answer["links"] = [{"rel": "next", "href": href}]
    with pytest.raises(UnexpectedAnswer, match="expected a path of this service"):
        read_answers(answer, Hit)


def test_results_of_a_batch_keep_their_places(answer):
    problem = {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "no item 'x'"}
    link = {"rel": "next", "href": "/v1/search", "method": "POST", "body": {"token": "t"}, "merge": True}
    answer["links"] = [link]
    found = read_batch({"results": [problem, answer]}, [{"id": "x"}, {"id": "a"}])
    assert found[0] == Problem(status=404, title="Not Found", detail="no item 'x'")
    assert found[1].items[0].id == "p[1]" and found[1].next.body == {"id": "a", "token": "t"}
    with pytest.raises(UnexpectedAnswer, match="1 results of 2 searches"):
        read_batch({"results": [problem]}, [{}, {}])
    with pytest.raises(UnexpectedAnswer, match=r"results\.1\.title: Field required"):
        read_batch({"results": [problem, {"status": 1}]}, [{}, {}])


def test_a_model_tells_its_bands():
    modality = sentinel1(24)
    value = {"name": "m", "fingerprint": "f", "dimension": 4, "simulated": False, "backbone": "resnet10t"}
    model = read_model({**value, "modalities": [modality.to_json()]})
    assert model.modalities == (modality,) and model.about["backbone"] == "resnet10t"
    with pytest.raises(UnexpectedAnswer, match="modalities: KeyError"):
        read_model({**value, "modalities": [{"name": "s1"}]})
    with pytest.raises(UnexpectedAnswer, match="dimension"):
        read_model({**value, "dimension": "wide", "modalities": []})
