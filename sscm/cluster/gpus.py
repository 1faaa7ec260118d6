"""Whether Ray, the driver and torch agree about a node's GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sscm.cluster.findings import Finding
from sscm.cluster.nodes import Node

GB = 1e9
BFLOAT16_SINCE = 8
"""Major compute capability from which on GPUs calculate in bfloat16: Ampere, 2020."""
FREE_SHARE = 0.9
"""Share of a GPU's memory that is free where nothing runs on it."""


@dataclass(frozen=True, kw_only=True)
class Devices:
    """GPUs of a node, as it tells of them (:func:`sscm.cluster.devices.devices`).

    Args:
        torch: its version.
        torch_gpus: GPUs that torch sees.
        cuda: version of CUDA that torch was built for; None where it was built for CPUs.
        usable: whether torch can use one.
        driver: version of NVIDIA's driver; None where there is none.
        gpus: of each its ``name``, ``memory_bytes``, ``free_memory_bytes`` and ``capability``, the major version.
    """

    torch: str
    torch_gpus: int
    cuda: str | None
    usable: bool
    driver: str | None
    gpus: Sequence[Mapping[str, Any]]


def judge_gpus(node: Node, devices: Devices) -> Iterator[Finding]:
    """What is to be said of a node's GPUs."""
    counted, software = int(node.gpus), f"driver {devices.driver or 'none'}, CUDA {devices.cuda or 'none'}"
    if not counted and not devices.torch_gpus:
        yield Finding(status="ok", check="GPUs", node=node.name, seen="none")
        return
    seen = f"Ray counts {counted}, torch {devices.torch_gpus}; {software}"
    if counted > devices.torch_gpus or (counted and not devices.usable):
        yield Finding(status="failed", check="GPUs", node=node.name, seen=seen, remedy=_remedy(devices))
        return
    names = ", ".join(f"{count} × {name}" for name, count in Counter(gpu["name"] for gpu in devices.gpus).items())
    free = ", ".join(f"{gpu['free_memory_bytes'] / GB:.1f} of {gpu['memory_bytes'] / GB:.1f}" for gpu in devices.gpus)
    old = [gpu["name"] for gpu in devices.gpus if gpu["capability"] < BFLOAT16_SINCE]
    busy = f"; busy: {node.gpus - node.free_gpus:g} of {counted} claimed" if node.free_gpus < node.gpus else ""
    told = f"{names or devices.torch_gpus}; {free} GB free; {'no ' if old else ''}bfloat16; {software}{busy}"
    if counted < devices.torch_gpus:
        remedy = "start Ray there without --num-gpus, or with the right number"
        yield Finding(status="warning", check="GPUs", node=node.name, seen=f"{seen}; {told}", remedy=remedy)
    elif old:
        remedy = f"{old[0]} calculates slowly in bfloat16, which --gpu does by default: sscm train --bfloat16 False"
        yield Finding(status="warning", check="GPUs", node=node.name, seen=told, remedy=remedy)
    elif not busy and any(gpu["free_memory_bytes"] < FREE_SHARE * gpu["memory_bytes"] for gpu in devices.gpus):
        remedy = "nvidia-smi names the process outside of Ray that holds the memory; end it"
        yield Finding(status="warning", check="GPUs", node=node.name, seen=told, remedy=remedy)
    else:
        yield Finding(status="ok", check="GPUs", node=node.name, seen=told)


def _remedy(devices: Devices) -> str:
    if devices.cuda is None:
        return f"torch {devices.torch} is built for CPUs: use the image's target cuda on this node"
    if devices.driver is None:
        return "install NVIDIA's driver and container runtime (docker run --gpus all), or start Ray with --num-gpus 0"
    if devices.torch_gpus:
        return f"driver {devices.driver} is too old for CUDA {devices.cuda}, or broken: update it, and see nvidia-smi"
    return "look at CUDA_VISIBLE_DEVICES there, and at nvidia-smi; start Ray again with the right --num-gpus"
