import json
import typing

import pytest

from sscm.config import EvaluateConfig
from sscm.errors import ConfigError, EvaluationError
from sscm.evaluation.protocols import (
    METRICS,
    MUELLER_KS,
    PROTOCOLS,
    Direction,
    Protocol,
    choose_protocol,
    directions,
    metric,
)


def test_the_four_directions_of_two_modalities():
    assert [str(d) for d in directions(["s1", "s2"])] == ["s1→s1", "s2→s2", "s1→s2", "s2→s1"]


def test_three_modalities_have_all_ordered_pairs():
    found = directions(["a", "b", "c"])
    assert len(found) == len(set(found)) == 9
    assert sum(d.crosses for d in found) == 6


def test_names_are_unique_and_found():
    assert len({m.name for m in METRICS}) == len({m.short for m in METRICS}) == len(METRICS)
    assert metric("mean_pair_f1").higher_is_better
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


@pytest.mark.parametrize(
    ("name", "splits", "ks", "headline"),
    [
        ("csmae", ("validation", "test"), (10,), ("f1_of_means", 10)),
        ("jepa", ("test", "test"), (5,), ("mean_pair_f1", 5)),
        ("mueller", ("train", "test"), (8, 16, 32, 64, 128, 256, 512, 1000), ("f1_at_rank", 8)),
    ],
)
def test_published_protocols(name, splits, ks, headline):
    known = choose_protocol(name)
    assert (known.query_split, known.archive_split) == splits
    assert (known.headline, known.headline_k) == headline
    assert known.ks == ks and known.places(known.headline) == ks
    assert known.excludes_own_pair(Direction("s1", "s2")) == (name == "jepa")
    assert known.text.startswith(f"protocol {name} (") and f"headline {known.headline}" in known.text
    assert choose_protocol(name, *splits) is known
    assert json.loads(json.dumps(known.to_json())) == known.to_json()


def test_the_flag_knows_the_protocols():
    (names, none) = typing.get_args(typing.get_type_hints(EvaluateConfig)["protocol"])
    assert set(typing.get_args(names)) == set(PROTOCOLS) and none is type(None)


def test_protocols_refuse_other_splits():
    with pytest.raises(
        ConfigError, match="archive_split = 'train' with protocol 'jepa', whose archive_split is 'test'"
    ):
        choose_protocol("jepa", "test", "train")
    with pytest.raises(ConfigError, match=r"'clip'; expected one of \['csmae', 'jepa', 'mueller'\]"):
        choose_protocol("clip")


def test_without_a_name_the_splits_are_free():
    assert choose_protocol(None) == Protocol(query_split="test", archive_split="test")
    assert choose_protocol(None, "train").query_split == "train"


def test_where_metrics_are_measured():
    free, mueller = choose_protocol(None), choose_protocol("mueller")
    assert free.places("partner_recall") == (1, 5, 10)
    assert free.places("mean_average_precision") == (None, 5, 10)
    assert free.places("f1_at_rank") == ()
    assert free.places("alignment") == (None,)
    assert mueller.places("mean_average_precision") == (None, *MUELLER_KS)
    assert mueller.places("f1_of_means") == ()
