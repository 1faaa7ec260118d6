"""Whether a node has the memory, the disk and the limits that work needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sscm.cluster.findings import Finding, Status

GB = 1e9
MEMORY_FLOOR = 2 * GB
"""Bytes of memory that are free before Ray's monitor begins to kill workers: a training's processes take half a GB each
before their first image, and there are four at least."""
DISK_FLOOR = 5 * GB
"""Bytes of disk that are free before Ray refuses to spill: what does not fit the object store, and logs of days."""
OPEN_FILES_FLOOR = 8192
"""Open files that Ray asks for when it starts: connections of all workers meet in a node's raylet, and in the head."""
OPEN_FILES_NEEDED = 1024
"""Open files that Linux gives by default; a gateway's 512 requests, one connection in and one out each, want more."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A node, as it tells of itself (:func:`sscm.cluster.survey.survey`).

    Args:
        versions: by package.
        environment: environment variables, None where one is not set.
        niceness: of Ray's workers.
        open_files: that a process may have.
        memory_bytes: of the machine, or of its container.
        used_memory_bytes: of these.
        memory_threshold: share in use above which Ray kills workers.
        temporary: Ray's temporary folder.
        disk_bytes: of the disk that it lies on.
        free_disk_bytes: of these.
        disk_threshold: share in use above which Ray does not spill.
        shm_bytes: size of /dev/shm.
        store_folder: where the object store lies; None where that could not be found out.
        interface: network interface of the node's address; None where that could not be found out.
    """

    versions: Mapping[str, str]
    environment: Mapping[str, str | None]
    niceness: int
    open_files: int
    memory_bytes: int
    used_memory_bytes: int
    memory_threshold: float
    temporary: str
    disk_bytes: int
    free_disk_bytes: int
    disk_threshold: float
    shm_bytes: int
    store_folder: str | None
    interface: str | None


def judge_machine(node: str, machine: Machine, object_store: int) -> Iterator[Finding]:
    """What is to be said of a node's memory, disk, object store, open files and niceness.

    Args:
        node: its name.
        machine: what it tells.
        object_store: size of its object store, bytes.
    """
    yield _memory(node, machine)
    yield _disk(node, machine)
    yield _object_store(node, machine, object_store)
    yield _open_files(node, machine)
    yield _niceness(node, machine)


def _memory(node: str, machine: Machine) -> Finding:
    limit = machine.memory_threshold * machine.memory_bytes
    left = limit - machine.used_memory_bytes
    seen = f"{(machine.memory_bytes - machine.used_memory_bytes) / GB:.1f} of {machine.memory_bytes / GB:.1f} GB free"
    if left <= 0:
        seen += f"; above {machine.memory_threshold:.0%} in use Ray kills workers"
        remedy = "end what uses it, or give the node more memory"
        return Finding(status="failed", check="memory", node=node, seen=seen, remedy=remedy)
    if left < MEMORY_FLOOR:
        seen += f"; {left / GB:.1f} GB more, and Ray kills workers"
        remedy = f"free some: a training's processes want {MEMORY_FLOOR / GB:g} GB before the first image"
        return Finding(status="warning", check="memory", node=node, seen=seen, remedy=remedy)
    return Finding(status="ok", check="memory", node=node, seen=seen)


def _disk(node: str, machine: Machine) -> Finding:
    left = machine.free_disk_bytes - (1 - machine.disk_threshold) * machine.disk_bytes
    seen = f"{machine.free_disk_bytes / GB:.1f} of {machine.disk_bytes / GB:.1f} GB free at {machine.temporary}"
    remedy = "delete old session_* folders there, or start Ray with --temp-dir on a larger disk"
    if left <= 0:
        seen += f"; above {machine.disk_threshold:.0%} in use Ray spills no objects, and tasks fail"
        return Finding(status="failed", check="disk", node=node, seen=seen, remedy=remedy)
    if left < DISK_FLOOR:
        seen += f"; {left / GB:.1f} GB more of spilled objects and logs, and tasks fail"
        return Finding(status="warning", check="disk", node=node, seen=seen, remedy=remedy)
    return Finding(status="ok", check="disk", node=node, seen=seen)


def _object_store(node: str, machine: Machine, size: int) -> Finding:
    seen = f"{size / GB:.1f} GB"
    remedy = f"start the container with --shm-size={1.1 * size / GB:.1f}gb, or Ray with a smaller --object-store-memory"
    status: Status = "ok"
    if machine.store_folder is not None and not machine.store_folder.startswith("/dev/shm"):
        status, seen = "warning", f"{seen} in {machine.store_folder}, which is a disk: slower than /dev/shm"
    elif machine.shm_bytes < size:
        status, seen = (
            "failed",
            f"{seen} in a /dev/shm of {machine.shm_bytes / GB:.1f} GB: when full it kills the raylet",
        )
    else:
        seen += f" in a /dev/shm of {machine.shm_bytes / GB:.1f} GB"
    return Finding(status=status, check="object store", node=node, seen=seen, remedy="" if status == "ok" else remedy)


def _open_files(node: str, machine: Machine) -> Finding:
    if machine.open_files >= OPEN_FILES_FLOOR:
        return Finding(status="ok", check="open files", node=node, seen=f"{machine.open_files:,} a process")
    few = machine.open_files < OPEN_FILES_NEEDED
    return Finding(
        status="failed" if few else "warning",
        check="open files",
        node=node,
        seen=f"{machine.open_files:,} a process; Ray holds connections to each worker, and fails where none is left",
        remedy="ulimit -n 65536 before Ray starts; docker run --ulimit nofile=65536:65536",
    )


def _niceness(node: str, machine: Machine) -> Finding:
    if machine.niceness <= 0:
        return Finding(status="ok", check="niceness", node=node, seen=f"workers run at {machine.niceness}")
    return Finding(
        status="warning",
        check="niceness",
        node=node,
        seen=f"workers run at {machine.niceness}: anything else on the machine starves them",
        remedy="set RAY_worker_niceness=0 before Ray starts there",
    )
