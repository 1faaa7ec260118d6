"""Embeddings in full precision."""

import numpy as np

from sscm.archive.manifest import read_manifest
from sscm.config import ModelConfig
from sscm.experiment.exact import exact
from sscm.experiment.prepared import complete_tables, images_of
from sscm.model.bundle import make_bundle, make_encoders


def test_on_a_cpu_they_are_those_of_the_bundle(archive):
    manifest = read_manifest(archive)
    config = ModelConfig(backbone="test_resnet", image_size=16, dimension=8)
    bundle = make_bundle(
        "b", config=config, modalities=manifest.modalities, statistics=manifest.statistics,
        encoders=make_encoders(manifest.modalities, manifest.statistics, config), split="none", simulated=True,
        record={},
    )  # fmt: skip
    table = next(complete_tables(archive, manifest.of_split("test"), manifest.modalities))
    for m in manifest.modalities:
        groups = images_of(table, m)
        np.testing.assert_array_equal(exact(bundle).encode(m.name, groups), bundle.encode(m.name, groups))
    assert exact(bundle).fingerprint == bundle.fingerprint
