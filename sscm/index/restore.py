"""Going back: a generation of before becomes the next one, whole, and readers follow as they follow any other."""

from __future__ import annotations

import dataclasses

from sscm.config import RestoreConfig
from sscm.index.encoders import load_encoders
from sscm.index.generation import Generation, commit, latest_generation, now, open_segments, read_generation
from sscm.index.pins import writing
from sscm.workspace import open_workspace


def restore_index(config: RestoreConfig) -> Generation:
    """Commit what an earlier generation consists of as the next one: nothing is copied, and nothing lost.

    Args:
        config: workspace, and which generation.

    Returns:
        The new generation; the current one where it is the one that is asked for.

    Raises:
        GenerationError: there is no such generation, or the model of that name is another one now.
        BundleError: the model that made it is gone.
        IntegrityError: one of its files is missing or altered, as `sscm index gc` leaves it; it is named.
        ConflictError: another writer committed first; run again.
        WorkspaceError: the workspace cannot be written.
    """
    workspace = open_workspace(config.workspace)
    with writing(workspace, "sscm index restore"):
        latest = latest_generation(workspace)
        wanted = read_generation(workspace, config.generation)
        if wanted.number == latest.number:
            return latest
        open_segments(workspace, wanted)
        load_encoders(workspace, wanted)
        after = dataclasses.replace(wanted, number=latest.number + 1, created=now())
        commit(workspace, after)
        return after
