"""Segments made by code, without images or a model."""

import contextlib
import dataclasses
import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import shapely
import torch

from sscm.archive.manifest import read_manifest, write_manifest
from sscm.config import IndexConfig, ModelConfig
from sscm.index import build
from sscm.index.adapt import SampleBatches
from sscm.index.build import build_index
from sscm.index.embed import embed_shard
from sscm.index.segment import rows_schema
from sscm.model.adaptation import estimate_adaptation
from sscm.model.bundle import make_bundle, make_encoders, save_bundle
from sscm.workspace import open_workspace

DIMENSION = 16


def make_rows(numbers, lacking=frozenset()):
    """Rows and unit vectors of some pairs, in the order given; pairs in ``lacking`` have no s2."""
    rng = {number: np.random.default_rng(number) for number in numbers}
    items = []
    vectors = {"s1": np.zeros((len(numbers), DIMENSION), np.float32)}
    vectors["s2"] = vectors["s1"].copy()
    for place, number in enumerate(numbers):
        box = shapely.box(20 + 0.02 * number, 44, 20.01 + 0.02 * number, 44.01)
        for name in ("s1", "s2"):
            value = rng[number].standard_normal(DIMENSION)
            if name == "s1" or number not in lacking:
                vectors[name][place] = value / np.linalg.norm(value)
        items.append(
            {
                "pair_id": f"pair_{number:04d}",
                "split": ("train", "validation", "test")[number % 3],
                "labels": ["Pastures"] if number % 2 else None,
                "geometry": shapely.to_wkb(box),
                "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), box.bounds, strict=True)),
                "s1_datetime": datetime(2018, 6, 1, tzinfo=UTC) + timedelta(days=number),
                "s2_datetime": datetime(2018, 7, 1, tzinfo=UTC) + timedelta(days=number),
                "properties": [("country", "Serbia")],
                "has_s1": True,
                "has_s2": number not in lacking,
                "archive_file": "shards/a.parquet",
                "archive_row": place,
            }
        )
    return pa.Table.from_pylist(items, rows_schema(["s1", "s2"])), vectors


@pytest.fixture(scope="session")
def rows_factory():
    """:func:`make_rows`: pair numbers → rows and vectors."""
    return make_rows


@pytest.fixture
def archive(workspace, archive_factory):
    """A workspace of one test with a small archive: 24 train, 8 validation and 12 test pairs in six shards."""
    archive_factory(workspace, 24, 8, 12)
    return workspace


@pytest.fixture
def larger(workspace, archive_factory):
    """A workspace of one test with 48 train, 16 validation and 64 test pairs: enough to adapt to, and to the last."""
    archive_factory(workspace, 48, 16, 64)
    return workspace


@pytest.fixture(scope="session")
def small_factory():
    """:func:`make_small`: an untrained model of a workspace's archive, saved in it."""
    return make_small


@pytest.fixture
def small_bundle(archive):
    """An untrained model of the small archive, saved in its workspace."""
    return make_small(archive)


@pytest.fixture
def larger_bundle(larger):
    """The same of the larger archive."""
    return make_small(larger)


@pytest.fixture
def embedded(monkeypatch):
    """Embeds and adapts in this process instead of on Ray; holds the names of the shards embedded."""
    files = []

    def embed(workspace, bundle, shards, config, staging):
        for shard in shards:
            part = embed_shard(workspace, bundle, shard, bundle.modalities, config.batch_size)
            workspace.write_bytes(part.to_parquet(), *staging[shard.file])
            files.append(shard.file)
            yield {"file": shard.file, "rows": shard.rows, "part": b""}

    def estimate(workspace, bundle, sample, config):
        return estimate_adaptation(
            bundle,
            SampleBatches(workspace=workspace, modalities=bundle.modalities, sample=sample, batch_size=32),
            sample.kind,
        )

    monkeypatch.setattr(build, "run_embedding", embed)
    monkeypatch.setattr(build, "run_adaptation", estimate)
    monkeypatch.setattr(build, "embedding_session", lambda config: contextlib.nullcontext())
    return files


@pytest.fixture
def grown(archive, small_bundle, embedded):
    """The small archive, of whose six shards the first three are indexed, by a model that knows nothing."""
    manifest = read_manifest(archive)
    write_manifest(archive, dataclasses.replace(manifest, shards=manifest.shards[:3]))
    build_index(IndexConfig(workspace=archive.uri))
    write_manifest(archive, manifest)
    embedded.clear()
    return archive


@pytest.fixture
def bucket(behind, store_url, store_credentials, monkeypatch):
    """A workspace in a bucket of its own on a server that speaks S3."""
    name = f"sscm-{uuid.uuid4().hex[:12]}"
    behind.mkdir(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store_credentials["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store_credentials["secret"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", store_url)
    yield open_workspace(f"s3://{name}/w")
    behind.rm(name, recursive=True)


def make_small(workspace):
    """An untrained model of a workspace's archive, saved in it."""
    manifest = read_manifest(workspace)
    config = ModelConfig(backbone="resnet10t", dimension=DIMENSION, image_size=32)
    torch.manual_seed(0)
    bundle = make_bundle(
        "small",
        config=config,
        modalities=manifest.modalities,
        statistics=manifest.statistics,
        encoders=make_encoders(manifest.modalities, manifest.statistics, config),
        split="train",
        simulated=True,
        record={},
    )
    save_bundle(workspace, bundle)
    return bundle
