"""Encoders adapted to the archive that is searched: by its images, without labels; queries take the same statistics."""

from __future__ import annotations

import importlib
from typing import Any

from sscm.archive.manifest import Manifest
from sscm.errors import ConfigError
from sscm.experiment.prepared import complete_tables, images_of
from sscm.model.bundle import Bundle
from sscm.workspace import Workspace


def adapted(bundle: Bundle, workspace: Workspace, manifest: Manifest, split: str) -> Bundle:
    """The same weights, adapted to all images of the split that is searched.

    Args:
        bundle: trained or untrained encoders; left as it is.
        workspace: where the archive is.
        manifest: what it holds.
        split: the split that is searched.

    Raises:
        ConfigError: this version cannot adapt.
    """
    try:
        adaptation: Any = importlib.import_module("sscm.model.adaptation")
    except ModuleNotFoundError as error:
        raise ConfigError("adapt = true: this version of sscm cannot adapt encoders; set adapt = false") from error
    tables = complete_tables(workspace, manifest.of_split(split), manifest.modalities)
    batches = ({m.name: images_of(table, m) for m in manifest.modalities} for table in tables)
    result: Bundle = adaptation.adapt(bundle, adaptation.estimate_adaptation(bundle, batches))
    return result
