"""What Ray, the driver and torch tell of GPUs."""

import dataclasses

import pytest

from sscm.cluster.gpus import Devices, judge_gpus
from sscm.cluster.nodes import Node

L4 = {"name": "NVIDIA L4", "memory_bytes": 24 * 10**9, "free_memory_bytes": 23.5e9, "capability": 8}
GOOD = Devices(torch="2.14.1", torch_gpus=2, cuda="13.0", usable=True, driver="580.65", gpus=[L4, L4])
NODE = Node(id="x", name="a", cpus=8, gpus=2, free_gpus=2, object_store=10**9)


def judged(node=None, **changes):
    [found] = judge_gpus(dataclasses.replace(NODE, **(node or {})), dataclasses.replace(GOOD, **changes))
    return found


def test_gpus_that_work_are_described():
    found = judged()
    assert found.status == "ok"
    assert found.seen == ("2 × NVIDIA L4; 23.5 of 24.0, 23.5 of 24.0 GB free; bfloat16; driver 580.65, CUDA 13.0")


def test_a_node_without_gpus_is_well():
    assert judged({"gpus": 0, "free_gpus": 0}, torch_gpus=0, gpus=[], driver=None).seen == "none"


def test_gpus_that_are_claimed_are_called_busy_and_their_memory_is_nobodys_business():
    used = [{**L4, "free_memory_bytes": 1e9}, L4]
    found = judged({"free_gpus": 1}, gpus=used)
    assert found.status == "ok" and "busy: 1 of 2 claimed" in found.seen
    assert "outside of Ray" in judged(gpus=used).remedy and judged(gpus=used).status == "warning"


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"torch_gpus": 0, "cuda": None, "torch": "2.14.1+cpu"}, "target cuda"),
        ({"torch_gpus": 0, "driver": None}, "install NVIDIA's driver"),
        ({"torch_gpus": 1}, "too old for CUDA"),
        ({"usable": False}, "too old for CUDA"),
        ({"torch_gpus": 0}, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_gpus_that_torch_does_not_see_are_a_failure(changes, remedy):
    found = judged(**changes)
    assert found.status == "failed" and remedy in found.remedy
    assert "Ray counts 2" in found.seen


def test_gpus_that_ray_does_not_count_and_old_ones_are_told():
    assert "without --num-gpus" in judged({"gpus": 1, "free_gpus": 1}).remedy
    old = [{**L4, "name": "Tesla V100", "capability": 7}] * 2
    assert "--bfloat16 False" in judged(gpus=old).remedy and "no bfloat16" in judged(gpus=old).seen
