"""A model bundle out of a run's checkpoint: of a training that goes on, was stopped, or is to be looked at half-way."""

from __future__ import annotations

import dataclasses

from sscm.config import ExportModelConfig
from sscm.errors import ConfigError
from sscm.model.about import CONFIG
from sscm.model.bundle import Bundle, load_bundle, save_bundle
from sscm.training.checkpoint import whole_checkpoints
from sscm.workspace import MODELS, RUNS, open_workspace


def export_model(config: ExportModelConfig) -> Bundle:
    """Put the weights of a checkpoint among the workspace's models.

    Args:
        config: run, checkpoint and the new model's name.

    Returns:
        The bundle, as saved.

    Raises:
        ConfigError: no such run or checkpoint, or the name is in use.
        IntegrityError: the checkpoint is not whole.
    """
    workspace = open_workspace(config.workspace)
    found = whole_checkpoints(workspace, config.run)
    if not found:
        raise ConfigError(
            f"{workspace.uri_of(RUNS, config.run)} has no checkpoint; this workspace has runs {workspace.names(RUNS)}"
        )
    chosen = config.checkpoint or found[-1]
    if chosen not in found:
        raise ConfigError(f"run {config.run!r} has no checkpoint {chosen!r}; it has {found}")
    name = config.name or f"{config.run}-{chosen}"
    if workspace.exists(MODELS, name, CONFIG):
        raise ConfigError(f"model {name!r} exists in {workspace.uri_of(MODELS)}; choose another --name")
    bundle = load_bundle(workspace.child(RUNS, config.run, chosen), config.run)
    bundle = dataclasses.replace(bundle, name=name)
    save_bundle(workspace, bundle)
    return bundle
