import pytest

from sscm.errors import EvaluationError
from sscm.evaluation.protocols import METRICS, Direction, Protocol, directions, metric


def test_the_four_directions_of_two_modalities():
    assert [str(d) for d in directions(["s1", "s2"])] == ["s1→s1", "s2→s2", "s1→s2", "s2→s1"]


def test_three_modalities_have_all_ordered_pairs():
    found = directions(["a", "b", "c"])
    assert len(found) == len(set(found)) == 9
    assert sum(d.crosses for d in found) == 6


def test_names_are_unique_and_found():
    assert len({m.name for m in METRICS}) == len({m.short for m in METRICS}) == len(METRICS)
    assert metric("mean_pair_f1").ks == (5, 10)
    assert metric("median_rank").places == (None,)
    with pytest.raises(EvaluationError, match="unknown metric 'f1'; there are"):
        metric("f1")


@pytest.mark.parametrize(
    ("splits", "exclude_self", "within", "across"),
    [
        (("test", "test"), True, True, True),
        (("test", "test"), False, True, False),
        (("validation", "test"), True, False, False),
    ],
)
def test_which_answers_are_left_out(splits, exclude_self, within, across):
    protocol = Protocol(query_split=splits[0], archive_split=splits[1], exclude_self=exclude_self)
    assert protocol.excludes_own_pair(Direction("s1", "s1")) is within
    assert protocol.excludes_own_pair(Direction("s1", "s2")) is across


def test_the_text_names_splits_choice_and_published_protocol():
    own = Protocol(query_split="test", archive_split="test").text
    assert "split test" in own and "own pair is left out" in own and "X-JEPA" in own
    kept = Protocol(query_split="test", archive_split="test", exclude_self=False).text
    assert "kept in across modalities" in kept and "X-JEPA" not in kept
    csmae = Protocol(query_split="validation", archive_split="test").text
    assert "CSMAE" in csmae and "own pair" not in csmae
