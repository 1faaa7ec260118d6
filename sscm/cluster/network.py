"""Whether nodes reach each other, and sum tensors together, as the workers of a training do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sscm.cluster.crew import Answer, Crew, Question, crew
from sscm.cluster.findings import Finding
from sscm.cluster.nodes import Node

REACH_S = 3.0
"""Seconds for a connection between nodes; one that is dropped by a firewall is never refused."""
GRACE_S = 1.0
"""Seconds that ranks have to tell of their own trouble once one has failed: after that they wait for it in vain."""
SHOWN = 3
"""Names of nodes in a row."""
SLOW_BYTES_PER_S = 50e6
"""Bytes a second below which gradients take longer than a step: two to four seconds for two ResNet-18, 90 MB."""


def check_connections(crew: Crew) -> Iterator[Finding]:
    """Have every node connect to every other."""
    if len(crew.names) < 2:
        return
    listening = crew.ask(lambda node: node.listen.remote())
    where = {name: tuple(answer.value) for name, answer in listening.items() if answer.error is None}
    seconds = min(REACH_S, crew.seconds / 2)
    reached = crew.of(where).ask_each(
        {name: _reaching({n: at for n, at in where.items() if n != name}, seconds) for name in where}
    )
    yield from judge_connections(listening, reached)


def judge_connections(listening: Mapping[str, Answer], reached: Mapping[str, Answer]) -> Iterator[Finding]:
    """Which nodes are not reached from where.

    Args:
        listening: by node where it listens.
        reached: by node what :func:`sscm.cluster.collective.reach` gave.
    """
    remedy = (
        "open all TCP ports between the nodes, in security groups, network policies and firewalls: collectives take any"
    )
    for node, answer in listening.items():
        fault = answer.error or (reached[node].error if node in reached else None)
        if fault is not None:
            yield Finding(status="failed", check="connections", node=node, seen=fault, remedy=remedy)
            continue
        host, port = answer.value
        bad = {other: error for other, error in reached[node].value.items() if error is not None}
        deaf = [n for n, told in reached.items() if n != node and told.error is None and told.value.get(node)]
        if bad:
            seen = f"does not reach {_named(list(bad))}: {next(iter(bad.values()))}"
            yield Finding(status="failed", check="connections", node=node, seen=seen, remedy=remedy)
        elif deaf:
            seen = f"is not reached at {host}:{port} by {_named(deaf)}"
            yield Finding(status="failed", check="connections", node=node, seen=seen, remedy=remedy)
        else:
            yield Finding(
                status="ok", check="connections", node=node, seen=f"reaches {len(reached) - 1} others, and they it"
            )


def check_all_reduce(crew: Crew, backend: str, interfaces: Mapping[str, str | None]) -> Iterator[Finding]:
    """Sum tensors over a process group of all that are asked.

    Args:
        crew: who is asked.
        backend: ``gloo``, or ``nccl`` where each claims a GPU.
        interfaces: by name the network interface of its node's address, where that is known.
    """
    if len(crew.names) < (1 if backend == "nccl" else 2):
        return
    yield from judge_all_reduce(backend, _all_reduced(crew, backend), interfaces)


def judge_all_reduce(
    backend: str, answers: Mapping[str, Answer], interfaces: Mapping[str, str | None]
) -> Iterator[Finding]:
    """What came of an all-reduce.

    Args:
        backend: ``gloo`` or ``nccl``.
        answers: by name what :func:`sscm.cluster.collective.all_reduce` gave.
        interfaces: as :func:`check_all_reduce` takes them.
    """
    check = f"all-reduce, {backend}"
    broken = [name for name, answer in answers.items() if answer.error is not None and not answer.silent]
    for name, answer in answers.items():
        if answer.silent and broken:
            remedy = "see there"
            yield Finding(status="failed", check=check, node=name, seen=f"waits for {_named(broken)}", remedy=remedy)
            continue
        if answer.error is not None:
            interface = interfaces.get(name) or "INTERFACE"
            variable = f"{backend.upper()}_SOCKET_IFNAME={interface}"
            remedy = f"set {variable} on the node before Ray starts, and open all TCP ports between the nodes"
            yield Finding(status="failed", check=check, node=name, seen=answer.error, remedy=remedy)
            continue
        if len(answers) == 1:
            yield Finding(status="ok", check=check, node=name, seen="works on the one rank that there is")
            continue
        speed = answer.value["bytes_per_s"]
        seen = f"{speed / 1e6:,.0f} MB/s each way over {len(answers)} ranks ({answer.value['bytes'] / 1e6:.0f} MB)"
        if speed < SLOW_BYTES_PER_S:
            remedy = "training on several nodes waits for its gradients: use nodes of one zone with a faster network"
            yield Finding(status="warning", check=check, node=name, seen=seen, remedy=remedy)
        else:
            yield Finding(status="ok", check=check, node=name, seen=seen)


def check_nccl(nodes: Sequence[Node], seconds: float) -> Iterator[Finding]:
    """Sum tensors over all GPUs of some nodes, one process a GPU, which claims it meanwhile.

    Args:
        nodes: nodes whose GPUs work; those of which something claims a part are left alone, and named.
        seconds: that a question may take.
    """
    free = [node for node in nodes if node.free_gpus >= node.gpus]
    for node in nodes:
        if node not in free:
            seen = f"not tried: busy, {node.gpus - node.free_gpus:g} of {node.gpus:g} GPUs are claimed by running work"
            yield Finding(status="ok", check="all-reduce, nccl", node=node.name, seen=seen)
    workers = [node for node in free for _ in range(int(node.gpus))]
    with crew(workers, seconds, gpus=1) as gpu_crew:
        # Imports torch: the ranks are to begin together.
        ready = gpu_crew.ask(lambda worker: worker.devices.remote())
        for name, answer in ready.items():
            if answer.silent:
                seen = "not tried: this GPU was claimed by other work meanwhile, or its process does not start"
                remedy = "check again when it is free: `ray status` shows who claims what"
                yield Finding(status="warning", check="all-reduce, nccl", node=name, seen=seen, remedy=remedy)
            elif answer.error is not None:
                yield from judge_all_reduce("nccl", {name: answer}, {})
        if all(answer.error is None for answer in ready.values()):
            yield from check_all_reduce(gpu_crew, "nccl", {})


def _all_reduced(crew: Crew, backend: str) -> dict[str, Answer]:
    first, inner = crew.names[0], 0.7 * crew.seconds  # so that a rank tells what it waited for
    opened = crew.of([first]).ask(lambda node: node.open_store.remote(inner))
    if opened[first].error is not None:
        return opened
    at, world = tuple(opened[first].value), len(crew.names)
    ranks = {name: _ranking(backend, at, rank, world, inner) for rank, name in enumerate(crew.names)}
    return crew.ask_each(ranks, grace=GRACE_S)


def _ranking(*words: object) -> Question:
    return lambda node: node.all_reduce.remote(*words)


def _reaching(*words: object) -> Question:
    return lambda node: node.reach.remote(*words)


def _named(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else ""
    return f"{', '.join(nodes[:SHOWN])}{more}"
