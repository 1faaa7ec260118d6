"""Pages of answers: together they are all, in order, and of one query and generation."""

from __future__ import annotations

import base64
import json

from tests.plugins.stand_ins import (
    Ranked,
    Shard,
    answer,
    following,
    gateway_of,
    ids,
    refused,
    search,
)


def test_a_limit_above_the_largest_is_cut(tmp_path):
    shard = Shard(search=[answer()])
    assert search(gateway_of(tmp_path, [shard]), limit=10**6).status_code == 200
    assert shard.queries[0].k == 1000


def test_pages_together_are_all_answers_in_order(tmp_path):
    shards = [Ranked(25, 0, 2), Ranked(25, 1, 2)]
    gateway = gateway_of(tmp_path, shards)
    seen, change, limits = [], {}, []
    while change is not None:
        response = search(gateway, **{"limit": 10, **change})
        seen += ids(response)
        assert response.json()["numberMatched"] == 25
        change = following(response)
        limits.append(shards[0].queries[-1].k)
    assert seen == [f"p{n:04d}" for n in range(25)]
    assert limits == [10, 20, 30]
    first = following(search(gateway, limit=5))
    assert ids(search(gateway, **{**first, "limit": 3})) == ["p0005", "p0006", "p0007"]


def test_pages_end_where_the_window_does(tmp_path):
    gateway = gateway_of(tmp_path, [Ranked(30_000)])
    change, pages = {"limit": 900}, []
    while change is not None:
        response = search(gateway, **{"limit": 900, **change})
        pages.append(ids(response))
        change, last = following(response), change
    assert [len(page) for page in pages] == [900] * 11 + [100]
    assert pages[-1][-1] == "p9999"
    detail = "answers 9901 to 10801 are asked for; pages reach to 10000: ask with limit 100 or less"
    refused(search(gateway, **{**last, "limit": 901}), 400, detail)


def test_a_token_holds_for_its_query_and_generation(tmp_path):
    shard = Ranked(25)
    gateway = gateway_of(tmp_path, [shard])
    asked = {"filter": "country = 'x'", "min_score": 0.1}
    body = following(search(gateway, **asked))
    assert ids(search(gateway, **asked, **body)) == ["p0003", "p0004", "p0005"]
    tree = {"op": "=", "args": [{"property": "country"}, "x"]}
    assert ids(search(gateway, **{**asked, "filter": tree}, **body)) == ["p0003", "p0004", "p0005"]
    count = len(shard.queries)
    for change in (
        {"vector": [1, 2, 3, 5]},
        {"target": "s1"},
        {"filter": "country = 'y'"},
        {"min_score": None},
        {"split": "test"},
        {"filter": None},
    ):
        refused(search(gateway, **{**asked, **body, **change}), 400, "token was made for another query")
    later = gateway_of(tmp_path, [shard], generation=8)
    refused(search(later, **asked, **body), 400, "token is of generation 7 of the index, and 8 is served now")
    made = [json.dumps({"generation": 7, "offset": offset, "query": "x"}).encode() for offset in (0, -1, 1.5, 10_000)]
    for token in (*(base64.urlsafe_b64encode(value).decode() for value in made), "é", "", "e30", body["token"][:-9]):
        refused(search(gateway, **asked, token=token), 400, "is none of this service")
    assert len(shard.queries) == count
