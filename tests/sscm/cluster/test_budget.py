"""What a training claims, and what a cluster has."""

import pytest

from sscm.cluster.budget import judge_budget
from sscm.runtime import TrainingClaim

NODES = [{"CPU": 0.0}, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 2.0}]
HAVE = {"CPU": 16.0, "GPU": 4.0}


def judged(workers=4, cpus=3, gpu=False, most=HAVE, free=HAVE):
    return judge_budget(TrainingClaim(workers=workers, cpus_per_worker=cpus, gpu=gpu), NODES, most, free)


def test_a_training_that_fits_is_well():
    found = judged(gpu=True)
    assert found.status == "ok"
    assert found.seen == (
        "4 workers of 3 CPUs, and one each for their stream, make 16 and 4 GPUs; the cluster has 16 logical CPUs"
    )


@pytest.mark.parametrize(
    ("claim", "seen", "remedy"),
    [
        ({"cpus": 4}, "the cluster has 16 logical CPUs; 4 workers of 4", "lower --workers or --cpus-per-worker"),
        ({"workers": 5, "cpus": 1, "gpu": True}, "the cluster has 4 GPUs; 5 workers want one each", "add GPU nodes"),
        ({"workers": 1, "cpus": 10}, "room for 0 of 1 workers, each of which wants 10 logical CPUs", "larger nodes"),
        ({"workers": 3, "cpus": 4, "most": {"CPU": 16.0, "GPU": 4.0}}, None, None),
        ({"workers": 2, "cpus": 7, "gpu": True}, None, None),
    ],
)
def test_a_training_that_does_not_fit_is_told_why(claim, seen, remedy):
    found = judged(**claim)
    if seen is None:
        assert found.status == "ok"
    else:
        assert found.status == "failed" and seen in found.seen and remedy in found.remedy


def test_a_cluster_that_may_grow_is_waited_for():
    grown = {"CPU": 64.0, "GPU": 8.0}
    found = judged(workers=8, cpus=4, gpu=True, most=grown)
    assert found.status == "warning" and "may grow to 64" in found.seen and "yet to come" in found.remedy
    assert "24 CPUs and 4 GPUs too few are free" in found.seen


def test_what_is_claimed_by_others_is_a_warning():
    found = judged(free={"CPU": 4.0})
    assert found.status == "warning" and "12 CPUs too few are free now" in found.seen
    assert "running work" in found.remedy
