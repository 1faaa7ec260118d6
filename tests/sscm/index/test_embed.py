"""Embedding one shard, in this process."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sscm.archive.schema import decode_group
from sscm.archive.shard_file import write_shard
from sscm.errors import GenerationError, IntegrityError
from sscm.index.embed import EmbeddedShard, embed_shard
from sscm.index.segment import rows_schema


@pytest.fixture
def shard(archive, small_bundle, pair_factory):
    """A shard in which pair 3 has no s1 and pairs 5 and 6 no s2."""
    pairs = []
    for number in range(200, 220):
        pair = pair_factory(number, "test")
        lacking = {203: "s1", 205: "s2", 206: "s2"}.get(number)
        images = {name: image for name, image in pair.images.items() if lacking is None or not name.startswith(lacking)}
        pairs.append(dataclasses.replace(pair, images=images))
    written, _ = write_shard(archive, pairs, small_bundle.modalities, "shards/odd.parquet", "test", 8)
    return written


def test_equals_encoding_each_pair_alone(archive, small_bundle, shard):
    embedded = embed_shard(archive, small_bundle, shard, small_bundle.modalities, 7)
    with archive.parquet("archive", "shards", "odd.parquet") as file:
        table = file.read()
    for modality in small_bundle.modalities:
        for row in range(20):
            vector = embedded.vectors[modality.name][row]
            if {3: "s1", 5: "s2", 6: "s2"}.get(row) == modality.name:
                assert not vector.any()
                continue
            one = table.slice(row, 1)
            groups = {group.name: decode_group(one[group.name], group) for group in modality.groups}
            np.testing.assert_allclose(vector, small_bundle.encode(modality.name, groups)[0], atol=1e-5)
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert [i for i, has in enumerate(embedded.rows["has_s1"].to_pylist()) if not has] == [3]
    assert [i for i, has in enumerate(embedded.rows["has_s2"].to_pylist()) if not has] == [5, 6]


def test_rows_are_the_archives(archive, small_bundle, shard):
    embedded = embed_shard(archive, small_bundle, shard, small_bundle.modalities, 64)
    with archive.parquet("archive", "shards", "odd.parquet") as file:
        table = file.read()
    assert embedded.rows.schema == rows_schema(["s1", "s2"])
    for column in ("pair_id", "split", "labels", "geometry", "bbox", "s1_datetime", "s2_datetime", "properties"):
        assert embedded.rows[column].to_pylist() == table[column].to_pylist()
    assert embedded.rows["archive_row"].to_pylist() == list(range(20))
    assert set(embedded.rows["archive_file"].to_pylist()) == {"shards/odd.parquet"}


def test_as_a_file_and_back(archive, small_bundle, shard):
    embedded = embed_shard(archive, small_bundle, shard, small_bundle.modalities, 64)
    again = EmbeddedShard.from_parquet(embedded.file, embedded.to_parquet(), ["s1", "s2"])
    assert again.rows.equals(embedded.rows)
    for name in ("s1", "s2"):
        np.testing.assert_array_equal(again.vectors[name], embedded.vectors[name])


def test_previews_are_not_read(archive, small_bundle, shard, monkeypatch):
    asked = []
    read = pq.ParquetFile.iter_batches

    def spy(self, batch_size, columns):
        asked.extend(columns)
        return read(self, batch_size, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    embed_shard(archive, small_bundle, shard, small_bundle.modalities, 64)
    assert "s2_60m" in asked and not [name for name in asked if name.startswith("preview")]


def test_a_shard_cut_short_and_one_that_is_no_parquet(archive, small_bundle, shard):
    path = Path(archive.path_of("archive", "shards", "odd.parquet"))
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    with pytest.raises(IntegrityError, match=f"odd.parquet has {len(content) - 7} bytes; the manifest says"):
        embed_shard(archive, small_bundle, shard, small_bundle.modalities, 64)
    path.write_bytes(bytes(len(content)))
    with pytest.raises(IntegrityError, match=r"odd\.parquet is not a whole Parquet file"):
        embed_shard(archive, small_bundle, shard, small_bundle.modalities, 64)


def test_an_encoder_that_diverged(archive, small_bundle, shard):
    import copy

    broken = copy.deepcopy(small_bundle)
    broken.encoders["s2"].head.bias.data[0] = float("nan")
    with pytest.raises(GenerationError, match=r"odd.parquet, row 0: the embedding of s2 is not finite"):
        embed_shard(archive, broken, shard, small_bundle.modalities, 64)
