"""Pages: where they start and end, and which tokens are taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.messages import ShardQuery
from serve.paging import MAX_WINDOW, Page, digest, read_page
from sscm.errors import QueryError
from sscm.index.filters import Filter


@given(limits=st.lists(st.integers(1, 1500), min_size=1, max_size=30))
def test_each_page_starts_where_the_one_before_ended(limits):
    page, reached = read_page(limits[0], None, 3), 0
    for limit in limits[1:]:
        assert page.offset == reached and page.end - page.offset == min(page.limit, 1000)
        reached = page.end
        links = page.links("q", 3)
        if reached == MAX_WINDOW:
            assert links == []
            return
        token, most = links[0]["body"]["token"], links[0]["body"]["limit"]
        assert 1 <= most <= MAX_WINDOW - reached
        page = read_page(min(limit, most), token, 3)
        page.require("q")


@given(token=st.text(max_size=40))
def test_no_other_text_is_a_token(token):
    with pytest.raises(QueryError, match="is none of this service"):
        read_page(10, token, 3)


def test_a_page_of_what_is_not_continued_has_no_link():
    assert Page(limit=10).links("q", 3) == []
    with pytest.raises(QueryError, match="pages reach to 10000"):
        Page(limit=10, offset=9_991)


def test_the_digest_is_that_of_the_query_whatever_part_is_asked_for():
    def query(**changes):
        values = {"vector": np.float32([1, 0]), "target": "s1", "k": 3, "filter": Filter(ids=["a", "b"]), "least": 0.5}
        return ShardQuery(**{**values, "exclude": frozenset({"x", "y"}), **changes})

    assert digest(query()) == digest(query(k=99, filter=Filter(ids=["b", "a", "a"]), exclude=frozenset({"y", "x"})))
    changes = [{"target": "s2"}, {"filter": None}, {"least": None}, {"exclude": frozenset()}]
    others = [digest(query(**change)) for change in (*changes, {"vector": np.float32([0, 1])})]
    assert len({digest(query()), *others}) == 6
