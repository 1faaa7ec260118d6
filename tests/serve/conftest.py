"""A small index over a small archive, made without training and without Ray."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import shapely
import torch

from sscm.archive.manifest import Manifest
from sscm.archive.schema import Pair, decode_group
from sscm.config import ModelConfig
from sscm.index.append import append_segment
from sscm.index.generation import Generation, SegmentInfo, commit, open_segments
from sscm.index.search import IndexReader
from sscm.index.segment import rows_schema, write_segment
from sscm.model.bundle import Bundle, make_bundle, make_encoders, save_bundle
from sscm.workspace import ARCHIVE, Workspace, open_workspace


@dataclass(frozen=True)
class Indexed:
    """A workspace with archive, model and index, and all three open."""

    workspace: Workspace
    manifest: Manifest
    bundle: Bundle
    generation: Generation
    reader: IndexReader


def fresh_bundle(manifest: Manifest) -> Bundle:
    """A small model whose weights are drawn by a fixed seed."""
    config = ModelConfig(backbone="resnet10t", dimension=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoders = make_encoders(manifest.modalities, manifest.statistics, config)
    return make_bundle(
        "small",
        config=config,
        modalities=manifest.modalities,
        statistics=manifest.statistics,
        encoders=encoders,
        split="none",
        simulated=True,
        record={},
    )


def index_files(workspace: Workspace, manifest: Manifest, bundle: Bundle, per_segment: int) -> Generation:
    """Index an archive, so many of its files a segment."""
    names = [modality.name for modality in manifest.modalities]
    segments = []
    for start in range(0, len(manifest.shards), per_segment):
        tables, vectors = [], {name: [] for name in names}
        shards = manifest.shards[start : start + per_segment]
        for shard in shards:
            table = workspace.parquet(ARCHIVE, shard.file).read()
            for modality in manifest.modalities:
                groups = {group.name: decode_group(table[group.name], group) for group in modality.groups}
                vectors[modality.name].append(bundle.encode(modality.name, groups))
                table = table.append_column(f"has_{modality.name}", pa.array([True] * len(table)))
            table = table.append_column("archive_file", pa.array([shard.file] * len(table)))
            table = table.append_column("archive_row", pa.array(range(len(table)), pa.int64()))
            schema = rows_schema(names)
            tables.append(table.select(schema.names).cast(schema))
        rows = pa.concat_tables(tables)
        stacked = {name: np.concatenate(parts) for name, parts in vectors.items()}
        name, files = write_segment(workspace, rows, stacked)
        sources = {shard.file: shard.sha256 for shard in shards}
        segments.append(SegmentInfo(name=name, rows=rows.num_rows, files=files, sources=sources))
    generation = Generation(
        number=1,
        segments=tuple(segments),
        modalities=tuple(names),
        dimension=bundle.dimension,
        bundle=bundle.name,
        fingerprint=bundle.fingerprint,
        simulated=True,
        created="2026-01-01T00:00:00+00:00",
        code_version="0",
    )
    commit(workspace, generation)
    return generation


def append_pairs(workspace: Workspace, bundle: Bundle, pairs: Sequence[Pair]) -> Generation:
    """Append pairs to an index, embedded by its model; the archive does not have them."""
    items, vectors = [], {}
    for modality in bundle.modalities:
        groups = {group.name: np.stack([pair.images[group.name] for pair in pairs]) for group in modality.groups}
        vectors[modality.name] = bundle.encode(modality.name, groups)
    for number, pair in enumerate(pairs):
        west, south, east, north = shapely.from_wkb(pair.geometry).bounds
        items.append(
            {
                "pair_id": pair.pair_id,
                "split": pair.split,
                "labels": pair.labels,
                "geometry": pair.geometry,
                "bbox": {"xmin": west, "ymin": south, "xmax": east, "ymax": north},
                "properties": list(pair.properties.items()),
                "archive_file": "shards/elsewhere.parquet",
                "archive_row": number,
                **{f"{name}_datetime": pair.datetimes[name] for name in vectors},
                **{f"has_{name}": True for name in vectors},
            }
        )
    return append_segment(workspace, pa.Table.from_pylist(items, rows_schema(list(vectors))), vectors)


def copied(indexed: Indexed, folder: Path) -> Workspace:
    """A copy of a workspace, to be changed."""
    shutil.copytree(indexed.workspace.path_of(), folder, ignore=lambda *_: ["pins"])
    return open_workspace(str(folder))


@pytest.fixture(scope="session")
def append_factory():
    """:func:`append_pairs`: workspace, model and pairs → committed generation."""
    return append_pairs


@pytest.fixture(scope="session")
def copy_factory():
    """:func:`copied`: index and folder → a workspace of its own."""
    return copied


@pytest.fixture(scope="session")
def bundle_factory():
    """:func:`fresh_bundle`: manifest → model."""
    return fresh_bundle


@pytest.fixture(scope="session")
def index_factory():
    """:func:`index_files`: workspace, manifest, model and files a segment → committed generation."""
    return index_files


@pytest.fixture(scope="session")
def indexed(archive_factory, tmp_path_factory) -> Indexed:
    """96 + 32 + 48 pairs of 24² pixels in two segments."""
    workspace = open_workspace(str(tmp_path_factory.mktemp("served") / "workspace"))
    manifest = archive_factory(workspace)
    bundle = fresh_bundle(manifest)
    save_bundle(workspace, bundle)
    generation = index_files(workspace, manifest, bundle, per_segment=4)
    reader = IndexReader(open_segments(workspace, generation))
    return Indexed(workspace, manifest, bundle, generation, reader)
