"""The check of a cluster: every alive node is asked what work on it would trip over."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc  # type: ignore[import-untyped]  # ray[serve] brings it
import ray
import ray._private.grpc_utils
from rich.table import Table

from sscm import runtime
from sscm.cluster.budget import check_budget
from sscm.cluster.clocks import judge_clocks, read_clocks
from sscm.cluster.crew import Answer, Crew, crew
from sscm.cluster.environment import COSTS, judge_environment
from sscm.cluster.findings import CLUSTER, COMMAND, Finding, counted
from sscm.cluster.gpus import Devices, judge_gpus
from sscm.cluster.machine import Machine, judge_machine
from sscm.cluster.network import check_all_reduce, check_connections, check_nccl
from sscm.cluster.nodes import Node, alive_nodes
from sscm.cluster.storage import check_workspace
from sscm.cluster.survey import versions
from sscm.cluster.table import findings_table
from sscm.cluster.versions import judge_versions
from sscm.config import ClusterCheckConfig
from sscm.progress import Advance, progress

FORMAT = 1
STEPS = 6
"""Steps of a check: what nodes tell of themselves, clocks, devices, connections, sums, the workspace."""
ADDRESS_S = 5.0
"""Seconds for a connection to the head: Ray itself tries for a minute, and says little."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was found.

    Args:
        findings: in the order of the checks.
        nodes: names of the nodes.
        started: when, UTC.
        seconds: that it took.
    """

    findings: tuple[Finding, ...]
    nodes: tuple[str, ...]
    started: datetime
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether something would fail."""
        return any(finding.status == "failed" for finding in self.findings)

    def table(self) -> Table:
        """A table for people."""
        return findings_table(self.findings, self.nodes, self.seconds)

    def to_json(self) -> dict[str, Any]:
        """Everything, for machines: one finding for each node and check."""
        return {
            "format": FORMAT,
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 2),
            "nodes": list(self.nodes),
            "counts": counted(self.findings),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }


def check_cluster(config: ClusterCheckConfig) -> Check:
    """Look through a cluster before a run: the one that ``RAY_ADDRESS`` names, or a Ray of this machine's own.

    Work that runs there goes on: the check claims no CPU, and a GPU only where all GPUs of its node are free.

    Args:
        config: workspace, what a training is to claim, and the deadline.
    """
    started, began = datetime.now(UTC), time.monotonic()
    findings: list[Finding] = []
    nodes: list[Node] = []
    with contextlib.ExitStack() as stack:
        refusal = _join(stack)
        if refusal is not None:
            findings.append(refusal)
        else:
            nodes = alive_nodes()
            advance = stack.enter_context(progress("cluster check", STEPS, "steps"))
            findings.extend(_findings(config, nodes, advance))
    return Check(
        findings=tuple(findings),
        nodes=tuple(node.name for node in nodes),
        started=started,
        seconds=time.monotonic() - began,
    )


def _join(stack: contextlib.ExitStack) -> Finding | None:
    """Connect to the cluster until the stack ends; what is in the way of that."""
    address = os.environ.get("RAY_ADDRESS", "")
    remedy = "RAY_ADDRESS is the head's address and port, by default 6379; see there whether `ray status` answers"
    try:
        _require_answer(address)
        stack.enter_context(runtime.ray_session())
    except (OSError, RuntimeError) as error:
        if "Version mismatch" in str(error):
            remedy = "run the command with the cluster's own Python and Ray: by ray job submit, or in its image"
        seen = f"no Ray at {address or 'this machine'}: {' '.join(str(error).split())}"
        return Finding(status="failed", check="connection", node=COMMAND, seen=seen, remedy=remedy)
    return None


def _require_answer(address: str) -> None:
    """Raise an OSError where nothing at an address speaks as a Ray's head does."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "://" in address:
        return
    socket.create_connection((host.strip("[]"), int(port)), timeout=ADDRESS_S).close()
    channel = ray._private.grpc_utils.init_grpc_channel(address)
    try:
        grpc.channel_ready_future(channel).result(timeout=ADDRESS_S)
    except grpc.FutureTimeoutError as error:
        raise TimeoutError(f"what listens there does not speak gRPC, in {ADDRESS_S:g} s") from error
    finally:
        channel.close()


def _findings(config: ClusterCheckConfig, nodes: Sequence[Node], advance: Advance) -> Iterator[Finding]:
    with crew(nodes, config.deadline_s) as asked:
        surveyed = asked.ask(lambda node: node.survey.remote(list(COSTS)))
        advance(1)
        yield from _answering(surveyed)
        machines = {name: Machine(**answer.value) for name, answer in surveyed.items() if answer.error is None}
        there = asked.of(machines)
        yield from judge_versions({COMMAND: versions(), **{name: found.versions for name, found in machines.items()}})
        yield from judge_environment({name: found.environment for name, found in machines.items()})
        for node in nodes:
            if node.name in machines:
                yield from judge_machine(node.name, machines[node.name], node.object_store)
        yield from judge_clocks(read_clocks(there))
        advance(1)
        yield from check_budget(
            runtime.TrainingClaim(
                workers=config.min_workers or config.workers, cpus_per_worker=config.cpus_per_worker, gpu=config.gpu
            )
        )
        yield from _working_together(there, nodes, machines, advance)
        if config.workspace is not None:
            yield from check_workspace(there, config.workspace)
        advance(1)


def _answering(surveyed: dict[str, Answer]) -> Iterator[Finding]:
    for name, answer in surveyed.items():
        if answer.error is None:
            yield Finding(status="ok", check="answer", node=name, seen="answers")
        else:
            remedy = "see whether it runs and is not overloaded, and raylet.err in /tmp/ray/session_latest/logs there"
            yield Finding(status="failed", check="answer", node=name, seen=answer.error, remedy=remedy)


def _working_together(
    there: Crew, nodes: Sequence[Node], machines: dict[str, Machine], advance: Advance
) -> Iterator[Finding]:
    """GPUs, connections and sums: what needs torch, which takes seconds to import."""
    told = there.ask(lambda node: node.devices.remote())
    advance(1)
    devices = {name: Devices(**answer.value) for name, answer in told.items() if answer.error is None}
    works = []
    for node in nodes:
        if node.name in devices:
            found = list(judge_gpus(node, devices[node.name]))
            yield from found
            if node.gpus and not any(finding.status == "failed" for finding in found):
                works.append(node)
        elif node.name in told:
            remedy = "python -c 'import torch' tells more there; install torch as on the other nodes"
            seen = f"torch: {told[node.name].error}"
            yield Finding(status="failed", check="GPUs", node=node.name, seen=seen, remedy=remedy)
    together = there.of(devices)
    connections = list(check_connections(together))
    advance(1)
    yield from connections
    if any(finding.status != "ok" for finding in connections):
        seen = "not tried, since nodes do not reach each other"
        remedy = "mend the connections, then check again"
        yield Finding(status="warning", check="all-reduce, gloo", node=CLUSTER, seen=seen, remedy=remedy)
    else:
        interfaces = {name: machine.interface for name, machine in machines.items()}
        yield from check_all_reduce(together, "gloo", interfaces)
        if works:
            yield from check_nccl(works, there.seconds)
    advance(1)
