"""Pins: leases by which readers keep their generation, and writers what they have not committed yet, from collection.

``index/pins/<generation>-<token>.json`` says who reads a generation, on which host, in which process, and until when;
``index/pins/write-<token>.json`` says the same of a writer, and ``collect-<token>.json`` of a collector. A lease is
renewed while its holder lives and runs out when it does not: a machine that was lost holds nothing for long.

Pins hold off :mod:`sscm.index.garbage`. That holds off writers in turn while it deletes what no generation names: files
are named by their content, so that a writer may be about to name one again. Either pins first and looks then, so that
of two that come at once one sees the other: a collector that sees a writer leaves these files, a writer that sees a
collector waits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sscm.errors import ConflictError, GenerationError, IntegrityError, WorkspaceError
from sscm.index.generation import Generation, current_number, read_generation
from sscm.workspace import INDEX, Workspace

PINS = "pins"
LEASE_S = 600.0
"""Seconds that a lease lasts; renewed three times in that time. Long enough for a pause and a wrong clock."""
RELEASE_S = 10.0
"""Longest time that giving back waits for a renewal under way."""
WAIT_S = 0.2
"""Seconds between two looks of a writer whether a collector is still at work."""
COLLECTING_S = 900.0
"""Longest time that a writer waits for a collector: longer than the pin of one that was killed."""
ATTEMPTS = 3
"""Times that the current generation is asked for while others are committed and collected."""

_WRITE, _COLLECT = "write", "collect"


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What a pin's file says.

    Args:
        file: its name in ``index/pins/``.
        generation: the generation that is read; None for a writer's or a collector's.
        who: what holds it, e.g. ``sscm serve``.
        host: name of the machine.
        process: number of the process there.
        since: ISO 8601 time of the first writing.
        expires: ISO 8601 time from which it counts no more.
    """

    file: str
    generation: int | None
    who: str
    host: str
    process: int
    since: str
    expires: str

    @property
    def alive(self) -> bool:
        """Whether it counts."""
        return datetime.fromisoformat(self.expires) > datetime.now(UTC)

    @property
    def writes(self) -> bool:
        """Whether it is a writer's."""
        return self.file.startswith(f"{_WRITE}-")

    @property
    def collects(self) -> bool:
        """Whether it is a collector's."""
        return self.file.startswith(f"{_COLLECT}-")

    @property
    def holder(self) -> str:
        """Who holds it, for people."""
        return f"{self.who} ({self.host}, process {self.process})"


class Pin:
    """Holds a lease from its making until :meth:`release`, or for the length of a ``with`` block.

    Args:
        workspace: where ``index/`` is.
        generation: number of the generation that is read; None for a writer or a collector.
        who: what holds it, e.g. ``sscm serve``.
        lease_s: seconds that the lease outlives its holder.
        collects: whether it is a collector's.

    Raises:
        WorkspaceError: the lease cannot be written.
    """

    def __init__(
        self,
        workspace: Workspace,
        generation: int | None,
        who: str,
        lease_s: float = LEASE_S,
        *,
        collects: bool = False,
    ) -> None:
        kind = _COLLECT if collects else _WRITE if generation is None else str(generation)
        started = datetime.now(UTC)
        self._workspace = workspace
        self.lease = Lease(
            file=f"{kind}-{secrets.token_hex(8)}.json",
            generation=generation,
            who=who,
            host=socket.gethostname(),
            process=os.getpid(),
            since=started.isoformat(timespec="seconds"),
            expires=(started + timedelta(seconds=lease_s)).isoformat(timespec="milliseconds"),
        )
        _write(workspace, self.lease)
        self._ended = threading.Event()
        # A thread of no object: a reader that is dropped without a word is not kept alive by its own pin.
        arguments = (workspace, self.lease, lease_s, self._ended)
        self._thread = threading.Thread(target=_renew, args=arguments, name="index-pin", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back; nothing happens the second time."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join(RELEASE_S)
            self._workspace.delete(INDEX, PINS, self.lease.file)

    def __enter__(self) -> Pin:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(WorkspaceError):  # it runs out by itself, and what the block did stands
            self.release()


@contextlib.contextmanager
def pinned(workspace: Workspace, number: int | None = None, who: str = "reader") -> Iterator[Generation]:
    """Keep a generation from collection for the length of a block.

    It is pinned first and read then: what was read is there until the block ends. A workspace that cannot be written is
    read without a pin, and a line says so.

    Args:
        workspace: where ``index/`` is.
        number: which generation; the current one if None.
        who: what reads it, for people.

    Raises:
        GenerationError: there is no index, or no such generation.
        IntegrityError: its manifest was altered.
    """
    for attempt in range(ATTEMPTS):
        wanted = current_number(workspace) if number is None else number
        if wanted is None:
            read_generation(workspace)  # says that there is no index
            continue
        with reading(workspace, wanted, who) or contextlib.nullcontext():
            try:
                generation = read_generation(workspace, wanted)
            except (GenerationError, WorkspaceError):
                if number is not None or attempt == ATTEMPTS - 1 or current_number(workspace) == wanted:
                    raise
                continue  # followed by another and collected, between our reading its number and pinning it
            yield generation
            return


def reading(workspace: Workspace, number: int, who: str) -> Pin | None:
    """A reader's pin; None, and a line that says so, where the workspace cannot be written."""
    try:
        return Pin(workspace, number, who)
    except WorkspaceError as error:
        print(
            f"{who}: index generation {number} is not pinned, `sscm index gc` may delete it ({error})", file=sys.stderr
        )
        return None


def writing(workspace: Workspace, who: str) -> Pin:
    """A writer's pin: while it holds, nothing is collected that a commit may still name.

    It is had when no collector is at work any more.

    Raises:
        WorkspaceError: the workspace cannot be written.
        ConflictError: a collector was at work for longer than :data:`COLLECTING_S`.
    """
    with contextlib.ExitStack() as if_it_fails:
        pin = if_it_fails.enter_context(Pin(workspace, None, who))
        told, end = False, time.monotonic() + COLLECTING_S
        while at_work := [lease for lease in leases(workspace) if lease.collects and lease.alive]:
            if not told:
                print(f"{who}: waits until {at_work[0].holder} has ended", file=sys.stderr)
                told = True
            if time.monotonic() > end:
                raise ConflictError(
                    f"{who}: {at_work[0].holder} has collected garbage for more than {COLLECTING_S / 60:g} minutes; "
                    "run the command again when it has ended, or stop it and wait until its pin has run out "
                    f"(`sscm index list` shows it; {LEASE_S / 60:g} minutes at most)"
                )
            time.sleep(WAIT_S)
        if_it_fails.pop_all()
    return pin


def leases(workspace: Workspace) -> tuple[Lease, ...]:
    """All pins of an index, those that have run out too."""
    found = (_read(workspace, name) for name in workspace.names(INDEX, PINS) if name.endswith(".json"))
    return tuple(lease for lease in found if lease is not None)


def _read(workspace: Workspace, name: str) -> Lease | None:
    """A pin; None where it was given back meanwhile, or is none."""
    try:
        value: Any = workspace.read_json(INDEX, PINS, name)
        lease = Lease(file=name, **value)
        zone = datetime.fromisoformat(lease.expires).tzinfo
    except (IntegrityError, TypeError, ValueError):
        return None
    except WorkspaceError:
        if name in workspace.names(INDEX, PINS):  # listed anew: an object store's client remembers what it listed
            raise
        return None
    return None if zone is None else lease


def _write(workspace: Workspace, lease: Lease) -> None:
    value = dataclasses.asdict(lease)
    del value["file"]
    workspace.write_json(value, INDEX, PINS, lease.file)


def _renew(workspace: Workspace, lease: Lease, lease_s: float, ended: threading.Event) -> None:
    while not ended.wait(lease_s / 3):
        expires = datetime.now(UTC) + timedelta(seconds=lease_s)
        with contextlib.suppress(WorkspaceError):  # two more attempts before it runs out
            _write(workspace, dataclasses.replace(lease, expires=expires.isoformat(timespec="milliseconds")))
