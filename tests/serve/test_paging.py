"""Pages: where they start and end, and which tokens are taken."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.messages import Listed, ShardQuery
from serve.paging import MAX_WINDOW, Page, digest, read_items_page, read_page
from sscm.errors import QueryError
from sscm.index.filters import Filter


def asked(**changes):
    values = {"vector": np.float32([1, 0]), "target": "s1", "k": 3, "filter": Filter(ids=["a", "b"]), "least": 0.5}
    return ShardQuery(**{**values, "exclude": frozenset({"x", "y"}), **changes})


@given(limits=st.lists(st.integers(1, 1500), min_size=1, max_size=30))
def test_each_page_starts_where_the_one_before_ended(limits):
    page, reached = read_page(limits[0], None, 3), 0
    queries = [asked()]
    for limit in limits[1:]:
        assert page.offset == reached and page.end - page.offset == min(page.limit, 1000)
        reached = page.end
        links = page.links(digest(queries), 3)
        if reached == MAX_WINDOW:
            assert links == []
            return
        token, most = links[0]["body"]["token"], links[0]["body"]["limit"]
        assert 1 <= most <= MAX_WINDOW - reached
        page = read_page(min(limit, most), token, 3)
        page.require(queries)


@given(token=st.text(max_size=40))
def test_no_other_text_is_a_token(token):
    with pytest.raises(QueryError, match="is none of this service"):
        read_page(10, token, 3)


def test_a_page_of_what_is_not_continued_has_no_link():
    assert Page(limit=10).links("q", 3) == []
    with pytest.raises(QueryError, match="pages reach to 10000"):
        Page(limit=10, offset=9_991)


def test_the_digest_is_that_of_the_query_whatever_part_is_asked_for():
    plain = digest([asked()])
    assert plain == digest([asked(k=99, filter=Filter(ids=["b", "a", "a"]), exclude=frozenset({"y", "x"}))])
    changes = [{"target": "s2"}, {"filter": None}, {"least": None}, {"exclude": frozenset()}]
    others = [digest([asked(**change)]) for change in (*changes, {"vector": np.float32([0, 1])})]
    several = [digest([asked(), asked(target="s2")]), digest([asked(target="s2"), asked()])]
    assert len({plain, *others, *several}) == 8


def test_a_page_does_not_continue_another_query():
    page = read_page(3, links_of(read_page(3, None, 3))["body"]["token"], 3)
    page.require([asked()])
    with pytest.raises(QueryError, match="token was made for another query"):
        page.require([asked(), asked(target="s2")])


def links_of(page):
    [link] = page.links(digest([asked()]), 3)
    return link


@given(sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4), limit=st.integers(1, 15))
def test_pages_of_items_are_all_rows_of_all_shards_in_order(sizes, limit):
    def browse(shard, first, room):
        """As a shard does where every other row passes the filter."""
        rows = [row for row in range(2 * sizes[shard]) if row % 2 == 0]
        later = [row for row in rows if row >= first]
        taken = later[:room]
        following = later[room] if room < len(later) else None
        return Listed(len(rows), [b"%d/%d" % (shard, row) for row in taken], taken, following)

    numbers = range(len(sizes))
    page, seen, pages = read_items_page(limit, None, 3), [], 0
    while True:
        items, following = page.taken([browse(n, page.first_of(n), page.room_of(n)) for n in numbers], numbers)
        seen += items
        pages += 1
        if following is None:
            break
        assert len(items) == limit
        [link] = page.links(following, "{}", 3, {"split": "test", "labels": "a b,c"})
        query = dict(parse_qsl(urlsplit(link["href"]).query))
        assert (link["method"], query.pop("limit")) == ("GET", str(limit))
        page = read_items_page(limit, query.pop("token"), 3)
        assert query == {"split": "test", "labels": "a b,c"}
        page.require("{}")
        with pytest.raises(QueryError, match="another query"):
            page.require(None)
    assert seen == [b"%d/%d" % (shard, 2 * row) for shard, size in enumerate(sizes) for row in range(size)]
    assert pages <= sum(sizes) // limit + 1


def test_a_page_of_items_goes_on_where_a_shard_before_it_is_lost():
    page = read_items_page(3, None, 3)
    items, following = page.taken([Listed(4, [b"a", b"b", b"c"], [0, 1, 2], 3)], [1])
    assert (items, following) == ([b"a", b"b", b"c"], (1, 3))


@given(token=st.text(max_size=40))
def test_no_other_text_is_a_token_of_items(token):
    with pytest.raises(QueryError, match="is none of this service"):
        read_items_page(10, token, 3)


def test_tokens_of_items_and_of_searches_are_not_taken_for_each_other():
    search = links_of(read_page(3, None, 3))["body"]["token"]
    [link] = read_items_page(3, None, 3).links((1, 5), None, 3, {})
    items = dict(parse_qsl(urlsplit(link["href"]).query))["token"]
    with pytest.raises(QueryError, match="is none of this service"):
        read_items_page(3, search, 3)
    with pytest.raises(QueryError, match="is none of this service"):
        read_page(3, items, 3)
    with pytest.raises(QueryError, match="token is of generation 3 of the index, and 4 is served now"):
        read_items_page(3, items, 4)
    assert read_items_page(10**6, items, 3).limit == 1000
