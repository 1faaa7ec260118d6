"""Training pairs in memory."""

import dataclasses

import numpy as np
import pytest
import torch

from sscm.archive.manifest import read_manifest, write_manifest
from sscm.archive.order import pieces_of
from sscm.archive.schema import Pair
from sscm.archive.shard_file import write_shard
from sscm.archive.windows import read_pieces
from sscm.config import ModelConfig
from sscm.errors import ConfigError
from sscm.experiment.prepared import images_of, prepare, require_memory, sample_rows
from sscm.model.bundle import make_encoders
from sscm.model.encoders import as_tensor
from sscm.training.step import finite_rows

MODEL = ModelConfig(backbone="test_resnet", image_size=16)


def test_images_are_those_an_encoder_prepares(archive):
    manifest = read_manifest(archive)
    prepared = prepare(archive, manifest, MODEL, None)
    table = read_pieces(archive, pieces_of(manifest.of_split("train"))[-1:], ["pair_id", *_groups(manifest)])
    encoders = make_encoders(manifest.modalities, manifest.statistics, MODEL)
    assert len(prepared) == 96
    assert prepared.pair_ids[-len(table) :].tolist() == table["pair_id"].to_pylist()
    for m in manifest.modalities:
        expected = encoders[m.name].prepare({n: as_tensor(p) for n, p in images_of(table, m).items()}).numpy()
        assert prepared.images[m.name].shape == (96, len(m.band_names), 16, 16)
        np.testing.assert_array_equal(prepared.images[m.name][-len(table) :], expected.astype(np.float16))


def test_batches_are_rows_of_the_same_pairs(archive):
    prepared = prepare(archive, read_manifest(archive), MODEL, None)
    images, ids = prepared.batch(np.array([5, 2]), torch.device("cpu"))
    assert ids == [prepared.pair_ids[5], prepared.pair_ids[2]]
    assert images["s1"].dtype == torch.float32
    np.testing.assert_array_equal(images["s2"].numpy(), prepared.images["s2"][[5, 2]].astype(np.float32))


def test_a_sample_is_the_same_each_time(archive):
    manifest = read_manifest(archive)
    whole, part = prepare(archive, manifest, MODEL, None), prepare(archive, manifest, MODEL, 10)
    assert part.pair_ids.tolist() == whole.pair_ids[sample_rows(manifest, 10)].tolist()
    with pytest.raises(ConfigError, match="pairs = 97; the training split has 96"):
        prepare(archive, manifest, MODEL, 97)


def test_pairs_that_lack_a_modality_are_left_out(archive, pair_factory):
    manifest = read_manifest(archive)
    pairs = [pair_factory(number) for number in range(900, 904)]
    half = {name: pixels for name, pixels in pairs[1].images.items() if name == "s1"}
    pairs[1] = Pair(pair_id="half", split="train", images=half)
    shard, _ = write_shard(archive, pairs, manifest.modalities, "shards/half.parquet", "train", 16)
    manifest = type(manifest)(**{**vars(manifest), "shards": (*manifest.shards, shard)})
    write_manifest(archive, manifest)
    prepared = prepare(archive, manifest, MODEL, None)
    assert len(prepared) == 99
    assert "half" not in prepared.pair_ids


def test_too_much_for_the_memory_names_the_remedy(archive):
    manifest = read_manifest(archive)
    needed = require_memory(manifest, [MODEL], 96, 1.0)
    assert needed == 2 * 14 * 16 * 16 * 96
    with pytest.raises(ConfigError, match="set pairs = 50 to train on a seeded sample"):
        require_memory(manifest, [MODEL], 96, needed / 1.9e9)


def _groups(manifest):
    return [group.name for m in manifest.modalities for group in m.groups]


def test_a_pair_with_an_infinite_pixel_is_marked_for_the_training_to_leave_out(archive, pair_factory):
    """Normalising clips infinity to something finite, which must not pass for a pixel."""
    manifest = read_manifest(archive)
    pairs = [pair_factory(number) for number in range(500, 520)]
    radar = pairs[7].images["s1"].copy()
    radar[0, 3, 3] = np.inf
    pairs[7] = dataclasses.replace(pairs[7], images={**pairs[7].images, "s1": radar})
    with np.errstate(invalid="ignore"):  # no statistics of it are wanted
        shard, _ = write_shard(archive, pairs, manifest.modalities, "shards/infinite.parquet", "train", 16)
    write_manifest(archive, dataclasses.replace(manifest, shards=(shard,)))
    prepared = prepare(archive, read_manifest(archive), MODEL, None)
    finite = finite_rows(prepared.batch(np.arange(len(prepared)), torch.device("cpu"))[0])
    assert [pair for pair, keep in zip(prepared.pair_ids, finite, strict=True) if not keep] == [pairs[7].pair_id]
