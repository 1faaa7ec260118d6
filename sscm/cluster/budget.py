"""Whether the cluster can hold a training, by the rule that `sscm train` refuses one by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import ray

from sscm import runtime
from sscm.cluster.findings import CLUSTER, Finding

CHECK = "training"


def check_budget(claim: runtime.TrainingClaim) -> Iterator[Finding]:
    """Hold a training's claim against what the cluster has, may grow to, and has free."""
    free = {name: float(amount) for name, amount in ray.available_resources().items()}
    yield judge_budget(claim, runtime.node_resources(), runtime.most_resources(), free)


def judge_budget(
    claim: runtime.TrainingClaim,
    nodes: Sequence[Mapping[str, float]],
    most: Mapping[str, float],
    free: Mapping[str, float],
) -> Finding:
    """What is to be said of a training's claim.

    Args:
        claim: what the training wants.
        nodes: resources of each node.
        most: resources that the cluster has, or may grow to.
        free: resources that nothing claims.
    """
    refusal = claim.refusal(nodes, most)
    if refusal is not None:
        seen, _, remedy = refusal.partition(": ")
        return Finding(status="failed", check=CHECK, node=CLUSTER, seen=seen, remedy=remedy)
    gpus = f" and {claim.gpus} GPUs" if claim.gpu else ""
    have, may = (sum(node.get("CPU", 0) for node in nodes), most.get("CPU", 0))
    grows = "" if may <= have else ", and grows" if math.isinf(may) else f", and may grow to {may:g}"
    who = f"{claim.workers} worker{'s' if claim.workers > 1 else ''} of {claim.cpus_per_worker} CPUs"
    seen = (
        f"{who}, and one each for their stream, make {claim.cpus}{gpus}; the cluster has {have:g} logical CPUs{grows}"
    )
    wanting = [
        f"{want - free.get(name, 0):g} {name}s"
        for name, want in (("CPU", claim.cpus), ("GPU", claim.gpus))
        if free.get(name, 0) < want
    ]
    if wanting:
        wait = "nodes that are yet to come" if may > have else "running work to end"
        seen += f"; {' and '.join(wanting)} too few are free now"
        remedy = f"a training waits for {wait}: `ray status` shows who claims what"
        return Finding(status="warning", check=CHECK, node=CLUSTER, seen=seen, remedy=remedy)
    return Finding(status="ok", check=CHECK, node=CLUSTER, seen=seen)
