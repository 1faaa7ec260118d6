"""The process of the check on a node: an actor that claims no CPU, so that it runs beside any work, and on any node."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sscm.cluster.collective import all_reduce, reach
from sscm.cluster.devices import devices
from sscm.cluster.probe import delete, read_of_another, tidy, try_out
from sscm.cluster.survey import survey


class Inspector:
    """What a node is asked. Its methods run in threads beside each other, so that one that hangs stops no other."""

    def __init__(self) -> None:
        self._listener: socket.socket | None = None
        self._store: Any = None

    def survey(self, variables: Sequence[str]) -> dict[str, Any]:
        """See :func:`sscm.cluster.survey.survey`."""
        return survey(variables)

    def now(self) -> float:
        """Its clock, seconds since 1970."""
        return time.time()

    def devices(self) -> dict[str, Any]:
        """See :func:`sscm.cluster.devices.devices`."""
        return devices()

    def listen(self) -> tuple[str, int]:
        """Listen on a port that is free, until this process ends; address and port."""
        import ray

        address = ray.util.get_node_ip_address()
        self._listener = socket.create_server((address, 0), backlog=1024)  # the kernel answers; nobody need accept
        return address, self._listener.getsockname()[1]

    def reach(self, others: Mapping[str, tuple[str, int]], seconds: float) -> dict[str, str | None]:
        """See :func:`sscm.cluster.collective.reach`."""
        return reach(others, seconds)

    def open_store(self, seconds: float) -> tuple[str, int]:
        """Hold the store by which ranks meet; address and port. For rank 0."""
        import ray
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        address = ray.util.get_node_ip_address()
        self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=seconds))
        return address, self._store.port

    def all_reduce(self, backend: str, at: tuple[str, int], rank: int, world: int, seconds: float) -> dict[str, float]:
        """Meet the others at a store; then see :func:`sscm.cluster.collective.all_reduce`."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        store = self._store
        if rank:
            store = TCPStore(*at, is_master=False, timeout=timedelta(seconds=seconds))
        return all_reduce(backend, store, rank, world, seconds)

    def try_out(self, *told: Any) -> dict[str, Any]:
        """See :func:`sscm.cluster.probe.try_out`."""
        return try_out(*told)

    def read_of_another(self, *told: Any) -> dict[str, Any]:
        """See :func:`sscm.cluster.probe.read_of_another`."""
        return read_of_another(*told)

    def delete(self, *told: Any) -> dict[str, Any]:
        """See :func:`sscm.cluster.probe.delete`."""
        return delete(*told)

    def tidy(self, *told: Any) -> dict[str, Any]:
        """See :func:`sscm.cluster.probe.tidy`."""
        return tidy(*told)
