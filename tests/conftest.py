"""What all tests share: one small Ray a session, archives made by code, and the real data where it lies beside us."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import shapely

from sscm import runtime
from sscm.archive.manifest import Manifest, write_manifest
from sscm.archive.schema import Pair
from sscm.archive.shard_file import write_shard
from sscm.archive.statistics import merge_statistics
from sscm.sensors import Modality, sentinel1, sentinel2
from sscm.workspace import Workspace, open_workspace

pytest_plugins = ["tests.plugins.bigearthnet", "tests.plugins.object_store"]

PIXELS = 24
"""Side of the patches of small archives, pixels at 10 m."""


@pytest.hookimpl(tryfirst=True)  # before -m chooses by it
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses Ray."""
    for item in items:
        if "ray_session" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small Ray for the whole session."""
    with runtime.ray_session(num_cpus=8, object_store_bytes=400_000_000):
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real image pairs; tests that need it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real image pairs at {folder}")
    return folder


@pytest.fixture(scope="session")
def modalities() -> tuple[Modality, Modality]:
    """Sentinel-1 and Sentinel-2 in patches of 24 pixels."""
    return sentinel1(PIXELS), sentinel2(PIXELS)


def make_pair(number: int, split: str = "train", pixels: int = PIXELS) -> Pair:
    """A pair whose two images share a low-frequency ground of one of four kinds; the same for the same number."""
    rng = np.random.default_rng(number)
    kind = number % 4
    ground = np.kron(rng.normal(kind, 1.0, (6, 6)), np.ones((pixels // 6, pixels // 6)))
    images = {}
    for modality in (sentinel1(pixels), sentinel2(pixels)):
        for group in modality.groups:
            step = pixels // group.height
            layer = ground[::step, ::step]
            planes = [layer * (1 + 0.2 * band) for band in range(len(group.bands))]
            noisy = np.stack(planes) + rng.normal(0, 0.3, group.shape)
            values = -15 + 2 * noisy if group.dtype == "float32" else np.clip(1500 + 300 * noisy, 1, 10000)
            images[group.name] = values.astype(group.numpy_dtype)
    west = 20 + 0.02 * number
    taken = datetime(2018, 6, 1, 10, 0, tzinfo=UTC) + timedelta(days=number)
    return Pair(
        pair_id=f"pair_{number:04d}",
        split=split,
        images=images,
        datetimes={"s1": taken + timedelta(hours=6), "s2": taken},
        geometry=shapely.to_wkb(shapely.box(west, 44.0, west + 0.015, 44.011)),
        labels=[("Arable land", "Pastures", "Mixed forest", "Inland waters")[kind]],
        properties={"country": "Serbia" if number % 2 else "Austria", "number": str(number)},
    )


def make_archive(workspace: Workspace, train: int = 96, validation: int = 32, test: int = 48) -> Manifest:
    """Write an archive of :func:`make_pair` pairs, two shards a split."""
    modalities = (sentinel1(PIXELS), sentinel2(PIXELS))
    shards, statistics, number = [], {}, 0
    for split, count in (("train", train), ("validation", validation), ("test", test)):
        for part in range(2):
            size = count // 2
            pairs = [make_pair(number + i, split) for i in range(size)]
            number += size
            shard, found = write_shard(workspace, pairs, modalities, f"shards/{split}-{part}.parquet", split, 16)
            assert shard is not None
            shards.append(shard)
            if split == "train":
                statistics = merge_statistics(statistics, found)
    manifest = Manifest(
        modalities=modalities,
        shards=tuple(shards),
        statistics=statistics,
        source={"name": "made by tests"},
        created="2026-01-01T00:00:00+00:00",
        code_version="0",
        simulated=True,
    )
    write_manifest(workspace, manifest)
    return manifest


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace of one test."""
    return open_workspace(str(tmp_path / "workspace"))


@pytest.fixture
def archive(workspace: Workspace) -> Workspace:
    """A workspace of one test with a small archive: 96 train, 32 validation and 48 test pairs of 24² pixels."""
    make_archive(workspace)
    return workspace


@pytest.fixture
def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def pair_factory():
    """:func:`make_pair`: number → the same small pair each time."""
    return make_pair


@pytest.fixture(scope="session")
def archive_factory():
    """:func:`make_archive`: write a small archive into a workspace."""
    return make_archive
