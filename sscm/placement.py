"""Which nodes of a cluster do what: by the label ``sscm/role``, where the cluster is set up with such labels.

A node is labelled as it starts: ``ray start --labels=sscm/role=data``. Roles count where ``SSCM_NODE_ROLES=1`` is set
for all nodes, as ``ray_cluster.yaml`` and ``cluster/kuberay`` do; elsewhere everything runs wherever it has room.
"""

from __future__ import annotations

import math
import os
from typing import Literal

import ray

from sscm import runtime
from sscm.errors import ConfigError

NODE_ROLES = "SSCM_NODE_ROLES"
"""Environment variable: 1 where nodes have roles."""
LABEL = "sscm/role"
Role = Literal["data", "gpu", "serve"]
"""data: CPUs that read and write archives, and train and embed where no GPU is asked for; gpu: training and embedding;
serve: what answers queries."""


def selector(role: Role) -> dict[str, str] | None:
    """Labels that a node must have to run something; None where nodes have no roles."""
    return {LABEL: role} if os.environ.get(NODE_ROLES) == "1" else None


def computing(gpu: bool) -> dict[str, str] | None:
    """The same for what trains and embeds."""
    return selector("gpu" if gpu else "data")


def require_node(role: Role) -> None:
    """Check that there is a node of a role, or may be: what waits for one would wait for ever.

    Raises:
        ConfigError: nodes have roles, none has this one, and the cluster does not grow.
    """
    if selector(role) is None or runtime.grows():
        return
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if not any(node["Labels"].get(LABEL) == role for node in nodes):
        raise ConfigError(
            f"{NODE_ROLES}=1, and no node of {len(nodes)} is labelled {LABEL}={role}: start one with "
            f"`ray start --labels={LABEL}={role}`, or start the cluster without {NODE_ROLES}"
        )


def most_on_a_node(replicas: int) -> int | None:
    """How many replicas of one thing a node may have, so that it outlives a node; None where that needs no saying.

    A cluster that grows is given as many nodes as there are replicas.

    Args:
        replicas: how many there are.
    """
    if replicas < 2 or not ray.is_initialized():
        return None
    if runtime.grows():
        return 1
    wanted = selector("serve") or {}
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    nodes = [node for node in nodes if wanted.items() <= node["Labels"].items()]
    return math.ceil(replicas / max(1, len(nodes)))
