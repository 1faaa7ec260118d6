"""What speaks against an index that grew."""

import pytest

from sscm.evaluation.protocols import Direction
from sscm.refresh.recall import Growth, Recall
from sscm.refresh.rule import objections


def recall(value, queries=2000):
    return Recall(queries=queries, archive=10_000, depth=10, value=value)


def grown(before, after, new, queries=2000, of=2000):
    return Growth(
        direction=Direction("s1", "s2"),
        before=recall(before, of),
        after=recall(after, of),
        new=recall(new, queries),
        lost=round(max(0, before - after) * of),
        gained=round(max(0, after - before) * of),
    )


@pytest.mark.parametrize("growth", [grown(0.6, 0.6, 0.6), grown(0.6, 0.7, 0.9), grown(0.6, 0.59, 0.31)])
def test_as_good_as_before(growth):
    assert objections([growth], 0.02, 0.5) == ()


def test_new_images_that_the_model_does_not_know():
    [told] = objections([grown(0.6, 0.6, 0.2)], 0.02, 0.5)
    assert told.startswith("s1→s2, new images: recall@10 0.200 of 2,000 queries, 0.600 of 2,000 before")


def test_images_that_crowd_the_others():
    [told] = objections([grown(0.6, 0.57, 0.6)], 0.02, 0.5)
    assert "images that were indexed" in told and "duplicates" in told


def test_few_queries_tell_little():
    assert objections([grown(0.6, 0.6, 0.2, queries=10)], 0.02, 0.5) == ()
    assert objections([grown(0.1, 0.05, 0.1, of=40)], 0.02, 0.5) == ()
    assert objections([grown(1.0, 1.0, 0.0, queries=6)], 0.02, 0.5)


def test_what_is_asked_for_is_granted():
    assert objections([grown(0.6, 0.5, 0.2)], 0.2, 0.2) == ()
    assert len(objections([grown(0.6, 0.5, 0.5)] * 2, 0.0, 1.0)) == 4
