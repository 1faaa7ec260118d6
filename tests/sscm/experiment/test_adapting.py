"""Adaptation to the split that is searched."""

import numpy as np
import pytest

from sscm.archive.manifest import read_manifest
from sscm.archive.stream import Piece, pieces_of
from sscm.config import ModelConfig
from sscm.experiment.adapting import SplitBatches, adapted, batches_of
from sscm.experiment.prepared import complete_tables, images_of
from sscm.model.bundle import make_bundle, make_encoders


def test_batches_are_never_small():
    pieces = [Piece("f", number, rows, rows) for number, rows in enumerate([64, 30, 40, 64, 3])]
    sizes = [[piece.rows for piece in batch] for batch in batches_of(pieces, 64)]
    assert sizes == [[64], [30, 40], [64, 3]]
    assert [len(batch) for batch in batches_of(pieces[4:], 64)] == [1]


def test_batches_can_be_gone_through_twice(archive):
    manifest = read_manifest(archive)
    batches = SplitBatches(archive, manifest.modalities, batches_of(pieces_of(manifest.of_split("test")), 16))
    first, second = ([batch["s1"]["s1"] for batch in batches] for _ in range(2))
    assert sum(map(len, first)) == 48
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(second))


@pytest.mark.parametrize("kind", ["centre", "statistics"])
def test_adapted_embeddings_are_centred_on_the_archive(archive, kind):
    manifest = read_manifest(archive)
    config = ModelConfig(backbone="test_resnet", image_size=32, dimension=16)
    bundle = make_bundle(
        "b", config=config, modalities=manifest.modalities, statistics=manifest.statistics,
        encoders=make_encoders(manifest.modalities, manifest.statistics, config), split="none", simulated=True,
        record={},
    )  # fmt: skip
    changed = adapted(bundle, archive, manifest, "train", kind)
    tables = list(complete_tables(archive, manifest.of_split("train"), manifest.modalities))
    for m in manifest.modalities:
        before, after = (
            np.concatenate([each.encode(m.name, images_of(table, m)) for table in tables]).mean(axis=0)
            for each in (bundle, changed)
        )
        assert np.linalg.norm(after) < 0.01 < np.linalg.norm(before)
