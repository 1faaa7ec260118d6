"""Searching several segments gives what searching one gives."""

import numpy as np
import pytest

from sscm.errors import QueryError
from sscm.index.filters import Filter
from sscm.index.search import IndexReader
from sscm.index.segment import open_segment, write_segment

LACKING = frozenset({4, 11, 30})


def opened(workspace, rows_factory, *parts, change=lambda vectors: None):
    segments = []
    for numbers in parts:
        rows, vectors = rows_factory(list(numbers), lacking=LACKING)
        change(vectors)
        name, files = write_segment(workspace, rows, vectors)
        segments.append(open_segment(workspace, name, files, ["s1", "s2"]))
    return segments


@pytest.fixture
def queries():
    return np.random.default_rng(9).standard_normal((6, 16))


def answers(hits):
    return [[(hit.pair_id, hit.score) for hit in found] for found in hits]


def test_spread_over_segments_or_not(workspace, rows_factory, queries):
    one = IndexReader(opened(workspace, rows_factory, range(60)))
    three = IndexReader(opened(workspace, rows_factory, range(0, 60, 3), range(1, 60, 3), range(2, 60, 3)))
    assert len(one) == len(three) == 60
    for k in (1, 7, 25, 100):
        assert answers(three.search(queries, target="s2", k=k)) == answers(one.search(queries, target="s2", k=k))


def test_scores_are_cosines_and_pairs_without_the_target_are_not_found(workspace, rows_factory, queries):
    reader = IndexReader(opened(workspace, rows_factory, range(40), range(40, 60)))
    rows, vectors = rows_factory(list(range(60)), lacking=LACKING)
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    cosines = unit @ vectors["s2"].T.astype(np.float64)
    ids = rows["pair_id"].to_pylist()
    for query, hits in enumerate(reader.search(queries * 100, target="s2", k=60)):
        assert {hit.pair_id for hit in hits} == {i for n, i in enumerate(ids) if n not in LACKING}
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            assert hit.score == pytest.approx(cosines[query, ids.index(hit.pair_id)], abs=1e-6)
            segment, row = reader.find(hit.pair_id)
            assert (segment.name, row) == (hit.segment, hit.row)
            assert segment.rows["pair_id"][row].as_py() == hit.pair_id


def test_equal_scores_come_by_pair_id(workspace, rows_factory):
    def same(vectors):
        vectors["s1"][:] = vectors["s1"][0] * 0 + 0.25

    reader = IndexReader(opened(workspace, rows_factory, [1, 5, 9], [3, 2, 8], change=same))
    hits = reader.search(np.ones((1, 16)), target="s1", k=5)[0]
    assert [hit.pair_id for hit in hits] == [f"pair_{n:04d}" for n in (1, 2, 3, 5, 8)]
    assert {hit.score for hit in hits} == {1.0}


def test_filter_and_count(workspace, rows_factory, queries):
    reader = IndexReader(opened(workspace, rows_factory, range(30), range(30, 60)))
    chosen = Filter(split="test", bbox=[20, 43, 20.9, 45])
    wanted = {f"pair_{n:04d}" for n in range(46) if n % 3 == 2} - {"pair_0011"}
    for hits in reader.search(queries, target="s2", k=100, filter=chosen):
        assert {hit.pair_id for hit in hits} == wanted
    assert reader.count(chosen, "s2") == len(wanted)
    assert reader.count(chosen, "s1") == len(wanted) + 1
    assert reader.count(None, "s2") == 60 - len(LACKING)


def test_time_is_that_of_the_target(workspace, rows_factory):
    reader = IndexReader(opened(workspace, rows_factory, range(60)))
    june = Filter(datetime="2018-06-01T00:00:00Z/2018-06-30T00:00:00Z")
    assert reader.count(june, "s1") == 30
    assert reader.count(june, "s2") == 0


def test_exclude(workspace, rows_factory, queries):
    reader = IndexReader(opened(workspace, rows_factory, range(0, 60, 2), range(1, 60, 2)))
    plain = answers(reader.search(queries, target="s1", k=60))
    without = [{plain[0][0][0], plain[0][3][0], "nowhere"}, set(), {i for i, _ in plain[2][:20]}, set(), set(), set()]
    found = answers(reader.search(queries, target="s1", k=10, exclude=without))
    for query in range(6):
        assert found[query] == [hit for hit in plain[query] if hit[0] not in without[query]][:10]


def test_least_score_and_offset_leave_out_what_is_worse_and_what_is_better(workspace, rows_factory, queries):
    reader = IndexReader(opened(workspace, rows_factory, range(0, 60, 2), range(1, 60, 2)))
    plain = answers(reader.search(queries, target="s2", k=100))
    least = plain[0][20][1]
    found = answers(reader.search(queries, target="s2", k=30, least=least))
    assert found == [[hit for hit in hits if hit[1] >= least][:30] for hits in plain]
    assert len(found[0]) == 21
    pages = [answers(reader.search(queries, target="s2", k=25, offset=offset)) for offset in (0, 25, 50, 75)]
    assert [[hit for page in pages for hit in page[query]] for query in range(6)] == plain
    later = answers(reader.search(queries, target="s2", k=10, offset=15, least=least))
    assert later[0] == plain[0][15:21]
    with pytest.raises(QueryError, match="offset = -1"):
        reader.search(queries, target="s2", k=3, offset=-1)


def test_no_segments_and_bad_queries(workspace, rows_factory, queries):
    assert IndexReader([]).search(queries, target="s1", k=3) == [[]] * 6
    assert IndexReader([]).find("pair_0001") is None
    reader = IndexReader(opened(workspace, rows_factory, range(10)))
    with pytest.raises(QueryError, match=r"'s3'.*\['s1', 's2'\]"):
        reader.search(queries, target="s3", k=3)
    with pytest.raises(QueryError, match="k = 0"):
        reader.search(queries, target="s1", k=0)
    with pytest.raises(QueryError, match="norm zero"):
        reader.search(queries * 0, target="s1", k=3)
    with pytest.raises(QueryError, match="2 sets for 6 queries"):
        reader.search(queries, target="s1", k=3, exclude=[set(), set()])
