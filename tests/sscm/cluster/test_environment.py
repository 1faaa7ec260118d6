"""Environment variables that nodes lack."""

import pytest

from sscm import runtime
from sscm.cluster.environment import COSTS, judge_environment

GOOD = {name: runtime.NODE_ENVIRONMENT[name] for name in COSTS}


def judged(**changes):
    return list(judge_environment({node: GOOD | changes.get(node, {}) for node in ("a", "b", "c")}))


def test_what_is_set_everywhere_is_well():
    assert [finding.status for finding in judged()] == ["ok"] * 3


@pytest.mark.parametrize("value", [None, "", "0"])
@pytest.mark.parametrize("name", COSTS)
def test_what_is_missing_is_told_with_its_cost(name, value):
    [found] = [finding for finding in judged(b={name: value}) if finding.status != "ok"]
    assert (found.status, found.node) == ("warning", "b")
    assert COSTS[name] in found.seen
    assert f"{name}={runtime.NODE_ENVIRONMENT[name]}" in found.remedy


def test_a_value_that_others_do_not_have_is_told():
    [found] = [finding for finding in judged(c={"RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "30"}) if finding.status != "ok"]
    assert found.seen.startswith("RAY_TRAIN_COLLECTIVE_TIMEOUT_S is 30, elsewhere 300") and found.node == "c"
    [*found] = judge_environment({node: GOOD | {"RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "30"} for node in ("a", "b")})
    assert {finding.status for finding in found} == {"ok"}  # another value, but everywhere
