"""An evaluation of made-up embeddings over a real small archive."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from sscm.archive.manifest import read_manifest
from sscm.config import ModelConfig, ObjectiveConfig
from sscm.evaluation.collect import Part, collect, with_vectors
from sscm.evaluation.figures import Evaluation
from sscm.evaluation.measure import measure, measure_chance
from sscm.evaluation.protocols import Protocol
from sscm.index.segment import rows_schema
from sscm.model.bundle import make_bundle, make_encoders

NAMES = ("s1", "s2")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def rows_of():
    """Rows of an index over a workspace's archive, shard by shard: one table each."""

    def read(workspace):
        tables = []
        for shard in read_manifest(workspace).shards:
            with workspace.parquet("archive", *shard.file.split("/")) as file:
                columns = [n for n in rows_schema(NAMES).names if not n.startswith(("has_", "archive_"))]
                table = file.read(columns=columns)
            for name in NAMES:
                table = table.append_column(f"has_{name}", pa.array([True] * shard.rows))
            table = table.append_column("archive_file", pa.array([shard.file] * shard.rows))
            tables.append(table.append_column("archive_row", pa.array(range(shard.rows), pa.int64())))
        return tables

    return read


@pytest.fixture
def parts_of(rows_of):
    """Rows with made-up vectors: a pair's embeddings lie near each other, the nearer the smaller the noise."""

    def make(workspace, noise, seed=0):
        rng = np.random.default_rng(seed)
        parts = []
        for rows in rows_of(workspace):
            ground = rng.normal(size=(rows.num_rows, 16))
            vectors = {name: unit(ground + noise * rng.normal(size=ground.shape)) for name in NAMES}
            parts.append(Part(rows=rows, vectors=vectors))
        return parts

    return make


@pytest.fixture
def evaluation(archive, parts_of):
    """Trained, untrained and chance figures, test split against itself."""
    parts = parts_of(archive, noise=0.3)
    images = collect(parts, ["test"], NAMES)["test"]
    bare = with_vectors(images, parts_of(archive, noise=3, seed=1), NAMES)
    protocol = Protocol(query_split="test", archive_split="test")
    figures, notes = measure(images, images, NAMES, protocol, "trained")
    figures += measure(bare, bare, NAMES, protocol, "untrained")[0]
    figures += measure_chance(images, images, NAMES, protocol, 0)
    return Evaluation(
        protocol=protocol,
        figures=tuple(figures),
        notes=tuple(notes),
        model="made",
        fingerprint="f" * 64,
        generation=3,
        dimension=16,
        simulated=True,
        seed=0,
        created="2026-01-01T00:00:00+00:00",
        code_version="0",
    )


@pytest.fixture
def bundle(archive):
    """Encoders that were never trained, with the record of a training of three epochs."""
    manifest = read_manifest(archive)
    config = ModelConfig(dimension=16, image_size=32)
    epochs = [
        {
            "epoch": n,
            "loss": 4.0 / n,
            "mim": 3.9 / n,
            "mde": 0.4 / n,
            "isp": -0.2 * n,
            "validation": {
                direction: {"recall@1": 0.1 * n, "recall@5": 0.2 * n, "recall@10": 0.25 * n, "median_rank": 9.0 - n}
                for direction in ("s1->s2", "s2->s1")
            },
        }
        for n in (1, 2, 3)
    ]
    return make_bundle(
        "made",
        config=config,
        modalities=manifest.modalities,
        statistics=manifest.statistics,
        encoders=make_encoders(manifest.modalities, manifest.statistics, config),
        split="train",
        simulated=True,
        record={
            "config": {"objective": dataclasses.asdict(ObjectiveConfig(w_mde=0.25)), "batch_size": 32, "seed": 7},
            "epochs": epochs,
            "seconds": 12.0,
            "train_pairs": 96,
        },
    )
