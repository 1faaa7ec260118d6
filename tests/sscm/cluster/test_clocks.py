"""Clocks that are apart."""

from sscm.cluster.clocks import Clock, judge_clocks


def judged(uncertainty=0.001, **offsets):
    clocks = {node: Clock(offset=offset, uncertainty=uncertainty) for node, offset in offsets.items()}
    return {finding.node: finding for finding in judge_clocks(clocks)}


def test_clocks_that_agree_are_well_wherever_this_command_is():
    for here in (0, 5000):
        assert {finding.status for finding in judged(a=here, b=here + 0.5, c=here - 0.5).values()} == {"ok"}


def test_the_clock_that_is_apart_is_named_with_its_direction():
    found = judged(a=0, b=0.01, c=-2.5)
    assert [node for node, finding in found.items() if finding.status == "warning"] == ["c"]
    assert found["c"].seen == "2.500 s behind, ± 0.001 s"
    assert "chrony" in found["c"].remedy


def test_what_s3_would_refuse_is_a_failure():
    found = judged(a=0, b=0.01, c=901.5)
    assert found["c"].status == "failed" and "S3 refuses" in found["c"].seen
    assert judged(a=0, b=0, c=899)["c"].status == "warning"


def test_a_slow_answer_is_no_wrong_clock():
    assert judged(uncertainty=2.0, a=0, b=0, c=2.5)["c"].status == "ok"


def test_of_two_one_is_named():
    assert [finding.status for finding in judged(a=0, b=60).values()] == ["ok", "warning"]
    assert judged() == {}
    assert judged(a=1e-5, b=0)["b"].seen == "0.000 s apart, ± 0.001 s"
