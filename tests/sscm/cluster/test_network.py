"""Nodes that do not reach each other, and sums that do not come to an end."""

from sscm.cluster.crew import Answer
from sscm.cluster.network import check_nccl, judge_all_reduce, judge_connections
from sscm.cluster.nodes import Node

LISTENING = {node: Answer(value=[f"10.0.0.{number}", 5000]) for number, node in enumerate("abc")}


def judged(**bad):
    reached = {
        node: Answer(value={other: bad.get(node, {}).get(other) for other in "abc" if other != node}) for node in "abc"
    }
    return {finding.node: finding for finding in judge_connections(LISTENING, reached)}


def test_nodes_that_reach_each_other_are_well():
    assert {(f.status, f.seen) for f in judged().values()} == {("ok", "reaches 2 others, and they it")}


def test_a_node_behind_a_firewall_is_told_of_by_both_sides():
    found = judged(a={"c": "timed out"}, b={"c": "timed out"})
    assert {finding.status for finding in found.values()} == {"failed"}
    assert found["a"].seen == "does not reach c: timed out"
    assert found["c"].seen == "is not reached at 10.0.0.2:5000 by a, b"
    assert "open all TCP ports" in found["c"].remedy


def test_a_node_that_is_silent_is_told_of_and_others_are_judged():
    listening = LISTENING | {"b": Answer(error="no answer within 5 s")}
    reached = {"a": Answer(value={"c": None}), "c": Answer(value={"a": None})}
    found = {finding.node: finding for finding in judge_connections(listening, reached)}
    assert [found[node].status for node in "abc"] == ["ok", "failed", "ok"]
    assert found["b"].seen == "no answer within 5 s" and found["a"].seen == "reaches 1 others, and they it"


def test_sums_are_told_with_their_speed_and_slow_ones_warned_of():
    def speed(value):
        answers = {node: Answer(value={"bytes": 64e6, "seconds": 1, "bytes_per_s": value}) for node in "ab"}
        return [(finding.status, finding.seen) for finding in judge_all_reduce("gloo", answers, {})]

    assert speed(1.2e9) == [("ok", "1,200 MB/s each way over 2 ranks (64 MB)")] * 2
    assert {status for status, _ in speed(20e6)} == {"warning"}


def test_a_rank_that_fails_is_told_its_interface():
    silent = Answer(error="no answer within 5 s", silent=True)
    a, b = judge_all_reduce("nccl", {"a": Answer(error="RuntimeError: no such device"), "b": silent}, {"a": "eth1"})
    assert (a.status, a.check, a.seen) == ("failed", "all-reduce, nccl", "RuntimeError: no such device")
    assert "NCCL_SOCKET_IFNAME=eth1" in a.remedy
    assert (b.status, b.seen) == ("failed", "waits for a")
    [alone] = judge_all_reduce("gloo", {"b": silent}, {})
    assert alone.seen == "no answer within 5 s" and "GLOO_SOCKET_IFNAME=INTERFACE" in alone.remedy


def test_one_gpu_has_nobody_to_send_to():
    [found] = judge_all_reduce("nccl", {"a": Answer(value={"bytes": 1e6, "seconds": 1, "bytes_per_s": 0.0})}, {})
    assert (found.status, found.seen) == ("ok", "works on the one rank that there is")


def test_gpus_of_which_some_are_claimed_are_left_alone():
    node = Node(id="x", name="a", cpus=8, gpus=4, free_gpus=2.5, object_store=1)
    [found] = check_nccl([node], 5.0)
    assert found.status == "ok" and found.seen.startswith("not tried: busy, 1.5 of 4 GPUs are claimed")
