"""What a training worker is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sscm.archive.manifest import Manifest
from sscm.config import TrainConfig
from sscm.errors import TrainingError
from sscm.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class WorkerJob:
    """All that a worker is given.

    Args:
        workspace: where archive, runs and models are.
        manifest: the archive.
        config: settings; ``name`` is set.
        board: handle of a :class:`~sscm.training.progress.TrainingBoard`, or None.
    """

    workspace: Workspace
    manifest: Manifest
    config: TrainConfig
    board: Any = None

    @property
    def name(self) -> str:
        """Name of the run."""
        if self.config.name is None:
            raise TrainingError("a run without a name reached a worker; launch names it")
        return self.config.name
