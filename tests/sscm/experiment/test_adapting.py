"""Adaptation to the split that is searched."""

import numpy as np
import pytest

from sscm.archive.manifest import read_manifest
from sscm.config import ModelConfig
from sscm.experiment.adapting import adapted
from sscm.experiment.prepared import complete_tables, images_of
from sscm.model.bundle import make_bundle, make_encoders


def bundle_of(manifest):
    config = ModelConfig(backbone="test_resnet", image_size=32, dimension=16)
    return make_bundle(
        "b", config=config, modalities=manifest.modalities, statistics=manifest.statistics,
        encoders=make_encoders(manifest.modalities, manifest.statistics, config), split="none", simulated=True,
        record={},
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["centre", "statistics"])
def test_adapted_embeddings_are_centred_on_the_archive(archive, kind):
    manifest = read_manifest(archive)
    bundle = bundle_of(manifest)
    changed = adapted(bundle, archive, manifest, "train", kind)
    tables = list(complete_tables(archive, manifest.of_split("train"), manifest.modalities))
    for m in manifest.modalities:
        before, after = (
            np.concatenate([each.encode(m.name, images_of(table, m)) for table in tables]).mean(axis=0)
            for each in (bundle, changed)
        )
        assert np.linalg.norm(after) < 0.01 < np.linalg.norm(before)


def test_a_split_with_too_few_images_leaves_the_encoders_as_they_are(archive):
    manifest = read_manifest(archive)
    bundle = bundle_of(manifest)
    assert adapted(bundle, archive, manifest, "test", "centre") is bundle  # 48 images
