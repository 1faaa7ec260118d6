"""Encoders adapted to the archive that is searched: by its images, without labels; queries are embedded likewise."""

from __future__ import annotations

from sscm.archive.manifest import Manifest
from sscm.index.adapt import SampleBatches, draw_sample
from sscm.model.adaptation import Kind, adapt, estimate_adaptation
from sscm.model.bundle import Bundle
from sscm.workspace import Workspace

BATCH = 64
"""Images wanted in a batch: statistics of deep layers depend on batches of like size."""


def adapted(bundle: Bundle, workspace: Workspace, manifest: Manifest, split: str, kind: Kind) -> Bundle:
    """The same weights, adapted to all images of the split that is searched, as an index adapts to a sample of them.

    Args:
        bundle: trained or untrained encoders; left as it is.
        workspace: where the archive is.
        manifest: what it holds.
        split: the split that is searched; with too few images the encoders stay as they are.
        kind: what is adapted.

    Raises:
        BundleError: the weights are not finite.
        WorkspaceError: a shard cannot be read.
    """
    sample = draw_sample(manifest.of_split(split), kind, most=manifest.rows)
    if sample is None:
        return bundle
    batches = SampleBatches(workspace=workspace, modalities=manifest.modalities, sample=sample, batch_size=BATCH)
    return adapt(bundle, estimate_adaptation(bundle, batches, kind))
