"""The nodes of the cluster, as Ray sees them."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

HEAD = "node:__internal_head__"
"""Resource that only the head has."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node.

    Args:
        id: Ray's id of it.
        name: its address, and what tells it from others at the same address.
        cpus: logical CPUs that Ray has there.
        gpus: GPUs that Ray counts there.
        free_gpus: those that nothing claims.
        object_store: size of its object store, bytes.
    """

    id: str
    name: str
    cpus: float
    gpus: float
    free_gpus: float
    object_store: int


def alive_nodes() -> list[Node]:
    """Nodes that Ray holds for alive, the head first."""
    free = ray._private.state.available_resources_per_node()
    return nodes_of([node for node in ray.nodes() if node["Alive"]], free)


def nodes_of(told: Sequence[Mapping[str, Any]], free: Mapping[str, Mapping[str, float]]) -> list[Node]:
    """Nodes with names that tell them apart, the head first, then by address.

    Args:
        told: as ``ray.nodes()`` tells of each.
        free: resources that nothing claims, by node id.
    """
    at = Counter(node["NodeManagerAddress"] for node in told)
    found = []
    for node in sorted(told, key=lambda node: (HEAD not in node["Resources"], *_order(node))):
        address, resources = node["NodeManagerAddress"], node["Resources"]
        name = address if at[address] == 1 else f"{address} {node['NodeID'][-6:]}"
        found.append(
            Node(
                id=node["NodeID"],
                name=f"{name} (head)" if HEAD in resources else name,
                cpus=float(resources.get("CPU", 0)),
                gpus=float(resources.get("GPU", 0)),
                free_gpus=float(free.get(node["NodeID"], {}).get("GPU", 0)),
                object_store=int(resources.get("object_store_memory", 0)),
            )
        )
    return found


def _order(node: Mapping[str, Any]) -> tuple[int, str, str]:
    try:
        return int(ipaddress.ip_address(node["NodeManagerAddress"])), "", node["NodeID"]
    except ValueError:  # a name
        return 0, node["NodeManagerAddress"], node["NodeID"]
