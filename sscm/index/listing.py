"""The generations of an index: what each holds, which one is current, and who reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from sscm.config import ListConfig
from sscm.errors import GenerationError, IntegrityError
from sscm.index.generation import Generation, current_number, generation_numbers, read_generation
from sscm.index.pins import leases
from sscm.workspace import INDEX, open_workspace


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One generation of an index.

    Args:
        number: of the generation.
        generation: what its manifest says; None where it cannot be read.
        fault: why it cannot be read.
        current: whether it is the one that readers open.
        pinned_by: who reads it.
    """

    number: int
    generation: Generation | None
    fault: str | None
    current: bool
    pinned_by: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Size of its segments; generations share most of them."""
        return 0 if self.generation is None else sum(segment.bytes for segment in self.generation.segments)


def list_generations(config: ListConfig) -> tuple[Listed, ...]:
    """All generations of a workspace's index, oldest first.

    Args:
        config: workspace.

    Raises:
        GenerationError: there is no index.
        IntegrityError: ``CURRENT`` was altered.
        WorkspaceError: storage cannot be reached.
    """
    workspace = open_workspace(config.workspace)
    current = current_number(workspace)
    pins = [lease for lease in leases(workspace) if lease.alive]
    listed = []
    for number in generation_numbers(workspace):
        generation, fault = None, None
        try:
            generation = read_generation(workspace, number)
        except (GenerationError, IntegrityError) as error:
            fault = str(error)
        holders = tuple(lease.holder for lease in pins if lease.generation == number)
        listed.append(
            Listed(number=number, generation=generation, fault=fault, current=number == current, pinned_by=holders)
        )
    if not listed:
        raise GenerationError(f"{workspace.uri_of(INDEX)}: there is no index in this workspace; `sscm index` makes one")
    return tuple(listed)


def listing_table(listed: Sequence[Listed]) -> Table:
    """Generations as a table for people."""
    table = Table()
    for name in ("generation", "created", "model", "rows", "deleted", "segments", "MB", "pinned by"):
        table.add_column(name, justify="right" if name in ("rows", "deleted", "segments", "MB") else "left")
    for one in listed:
        number = f"{one.number} (current)" if one.current else str(one.number)
        holders = "\n".join(one.pinned_by)
        known = one.generation
        if known is None:
            table.add_row(number, one.fault or "", "", "", "", "", "", holders)
            continue
        counts = (f"{known.rows:,}", f"{known.deleted:,}", f"{len(known.segments):,}", f"{one.bytes / 1e6:,.1f}")
        table.add_row(number, known.created[:19], known.bundle, *counts, holders)
    return table
