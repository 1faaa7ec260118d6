import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from sscm.archive.schema import decode_group, encode_group, encode_pairs, shard_schema
from sscm.errors import IntegrityError
from sscm.sensors import sentinel2


def test_images_come_back_as_views_of_the_column(modalities):
    group = modalities[1].groups[0]
    images = np.random.default_rng(0).integers(0, 10_000, (5, *group.shape)).astype(np.uint16)
    column = encode_group(list(images), group)
    decoded = decode_group(column, group)
    assert np.array_equal(decoded, images)
    address = column.buffers()[1].address
    assert decoded.__array_interface__["data"][0] == address
    assert np.array_equal(decode_group(column.slice(2, 2), group), images[2:4])
    chunked = pa.chunked_array([column, column.slice(1, 3)])
    assert np.array_equal(decode_group(chunked, group), np.concatenate([images, images[1:4]]))


def test_bytes_are_little_endian_c_order_by_the_contract(modalities):
    group = modalities[1].groups[0]
    image = np.arange(np.prod(group.shape)).reshape(group.shape).astype(">u2")
    value = encode_group([image], group)[0].as_py()
    by_hand = b"".join(int(v).to_bytes(2, "little") for v in range(int(np.prod(group.shape))))
    assert value == by_hand


def test_a_lacking_modality_is_null(modalities, pair_factory):
    pair = pair_factory(0)
    lacking = dataclasses.replace(pair, images={"s1": pair.images["s1"]}, datetimes={})
    table = encode_pairs([pair, lacking], modalities)
    assert table["s2_20m"].null_count == 1 and table["s1"].null_count == 0
    assert table["s2_datetime"].to_pylist()[1] is None
    assert np.array_equal(decode_group(table["s2_20m"], modalities[1].groups[1])[0], pair.images["s2_20m"])


def test_a_column_of_another_size_is_refused(modalities):
    with pytest.raises(IntegrityError, match="column s2_10m"):
        decode_group(pa.array([b"1234"], pa.binary(4)), modalities[1].groups[0])


def test_shard_opens_as_geoparquet(tmp_path, modalities, pair_factory):
    pairs = [pair_factory(i) for i in range(3)]
    pq.write_table(encode_pairs(pairs, modalities), tmp_path / "shard.parquet")
    table = pq.read_table(tmp_path / "shard.parquet")
    assert table.schema.names == shard_schema(modalities).names
    geo = json.loads(table.schema.metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    footprint = shapely.from_wkb(table["geometry"][0].as_py())
    box = table["bbox"][0].as_py()
    assert footprint.bounds == (box["xmin"], box["ymin"], box["xmax"], box["ymax"])
    assert json.loads(table.schema.metadata[b"sscm"])["modalities"][1] == sentinel2(24).to_json()
    assert dict(table["properties"][1].as_py()) == pairs[1].properties
