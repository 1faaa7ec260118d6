"""What a node tells of itself. Sent to it by value, so that one with another sscm, or none, answers as well."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "pyarrow", "numpy", "s3fs", "sscm")
"""Packages that processes of different nodes exchange data with, or that behave by their version."""
CODE = "sscm's code"
"""Stands beside the packages for a fingerprint of the sources: checkouts differ where versions do not."""


def survey(variables: Iterable[str]) -> dict[str, Any]:
    """Everything that is told without torch.

    Args:
        variables: names of the environment variables that are wanted.

    Returns:
        What a :class:`sscm.cluster.machine.Machine` is made of.
    """
    import ray
    import ray._common.utils
    import ray._private.utils
    import ray._private.worker

    temporary = ray._private.worker.global_worker.node.get_temp_dir_path()
    disk = shutil.disk_usage(temporary)
    shm = shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else 0
    return {
        "versions": versions(),
        "environment": {name: os.environ.get(name) for name in variables},
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "memory_bytes": int(ray._common.utils.get_system_memory()),
        "used_memory_bytes": int(ray._private.utils.get_used_memory()),
        "memory_threshold": float(os.environ.get("RAY_memory_usage_threshold", "0.95")),
        "temporary": temporary,
        "disk_bytes": disk.total,
        "free_disk_bytes": disk.free,
        "disk_threshold": float(os.environ.get("RAY_local_fs_capacity_threshold", "0.95")),
        "shm_bytes": shm,
        "store_folder": _store_folder(),
        "interface": _interface(ray.util.get_node_ip_address()),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of :data:`PACKAGES`, and under :data:`CODE` the fingerprint of sscm's sources."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found[CODE] = _fingerprint()
    return found


def _fingerprint() -> str:
    """The first digits of a SHA-256 over names and bytes of all modules of sscm and serve."""
    digest = hashlib.sha256()
    for package in ("sscm", "serve"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            return "not found"
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _store_folder() -> str | None:
    """Folder that the node's object store lies in, as the raylet was told; it is a worker's parent."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")
    except OSError:
        return None
    flag = "--plasma_directory="
    return next((word.removeprefix(flag) for word in words if word.startswith(flag)), None)


def _interface(address: str) -> str | None:
    """Network interface that has an address."""
    import psutil  # type: ignore[import-untyped]  # ray brings it

    for name, addresses in psutil.net_if_addrs().items():
        if any(held.address == address for held in addresses):
            return str(name)
    return None
