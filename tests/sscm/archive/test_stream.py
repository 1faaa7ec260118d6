"""The training stream: its plan as a pure function, and what Ray Data delivers."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from sscm.archive.manifest import Shard, read_manifest
from sscm.archive.schema import decode_group
from sscm.archive.stream import (
    Piece,
    StreamPlan,
    _epoch_batches,
    pieces_of,
    read_pieces,
    stream_batches,
    stream_columns,
)
from sscm.errors import ConfigError, IntegrityError, WorkspaceError


def shards(*sizes):
    return tuple(
        Shard(
            file=f"shards/{i}.parquet",
            split="train",
            rows=sum(groups),
            row_groups=groups,
            complete=groups,
            bytes=1,
            sha256="",
        )
        for i, groups in enumerate(sizes)
    )


def plan_of(workers, local_batch=8, seed=0):
    return StreamPlan(
        shards=shards((16, 16, 7), (16, 16), (16, 3)), seed=seed, workers=workers, local_batch=local_batch
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_share_an_epoch_without_overlap(workers):
    plan = plan_of(workers)
    dealt = [piece for worker in range(workers) for piece in plan.order(4, worker)]
    assert sorted(dealt) == sorted(pieces_of(plan.shards))
    for worker in range(workers):
        assert sum(p.complete for p in plan.order(4, worker)) >= plan.steps_per_epoch * plan.local_batch


def test_one_worker_drops_less_than_a_batch():
    assert plan_of(1).steps_per_epoch == 90 // 8


def test_epochs_differ_and_repeat_by_seed():
    plan = plan_of(1)
    assert plan.order(0, 0) != plan.order(1, 0)
    assert plan.order(1, 0) == plan_of(1).order(1, 0)
    assert plan.order(1, 0) != plan_of(1, seed=1).order(1, 0)


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(ConfigError, match="90 pairs with all modalities do not fill one batch of 91"):
        plan_of(1, local_batch=91)


def test_columns_leave_out_labels_and_previews(modalities):
    assert stream_columns(modalities) == ["pair_id", "s1", "s2_10m", "s2_20m", "s2_60m"]


def test_pieces_are_read_from_the_files_that_they_name(archive):
    manifest = read_manifest(archive)
    pieces = [Piece(manifest.shards[1].file, 2, 16, 16), Piece(manifest.shards[0].file, 0, 16, 16)]
    table = read_pieces(archive, pieces, ["pair_id"])
    assert table["pair_id"].to_pylist() == [f"pair_{i:04d}" for i in [*range(16), *range(80, 96)]]
    with pytest.raises(IntegrityError, match="3 row groups; the manifest says more"):
        read_pieces(archive, [Piece(manifest.shards[0].file, 9, 16, 16)], ["pair_id"])
    archive.delete("archive", *manifest.shards[0].file.split("/"))
    with pytest.raises(WorkspaceError, match="no such file"):
        read_pieces(archive, pieces, ["pair_id"])


def tables_of(archive, plan, epoch, worker=0):
    columns = stream_columns(read_manifest(archive).modalities)
    return iter([read_pieces(archive, window, columns) for window in plan.windows(epoch, worker)])


def test_an_epoch_holds_each_pair_at_most_once_with_its_own_pixels(archive, pair_factory):
    manifest = read_manifest(archive)
    plan = StreamPlan(shards=manifest.of_split("train"), seed=0, workers=1, local_batch=20)
    batches = list(_epoch_batches(tables_of(archive, plan, 3), manifest, plan, 0, 3))
    assert len(batches) == plan.steps_per_epoch == 4
    seen = [name for batch in batches for name in batch["pair_id"].tolist()]
    assert len(seen) == len(set(seen)) == 80
    for batch in batches:
        assert batch["s2_20m"].shape == (20, 6, 12, 12)
        for row, name in enumerate(batch["pair_id"]):
            assert np.array_equal(batch["s1"][row], pair_factory(int(name[5:])).images["s1"])


def test_pairs_that_lack_a_modality_are_left_out(workspace, archive_factory, pair_factory, modalities):
    from sscm.archive.shard_file import write_shard

    pairs = [pair_factory(i) for i in range(32)]
    pairs[5] = dataclasses.replace(pairs[5], images={"s1": pairs[5].images["s1"]})
    shard, _ = write_shard(workspace, pairs, modalities, "shards/x.parquet", "train", 16)
    manifest = dataclasses.replace(archive_factory(workspace), shards=(shard,))
    plan = StreamPlan(shards=(shard,), seed=0, workers=1, local_batch=31)
    (batch,) = _epoch_batches(tables_of(workspace, plan, 0), manifest, plan, 0, 0)
    assert "pair_0005" not in batch["pair_id"]
    assert len(set(batch["pair_id"])) == 31


@pytest.mark.usefixtures("ray_session")
def test_ray_data_delivers_the_plan_epoch_by_epoch(archive):
    manifest = read_manifest(archive)
    plan = StreamPlan(shards=manifest.of_split("train"), seed=1, workers=2, local_batch=10)
    streams = [stream_batches(archive, manifest, plan, worker, range(1, 3)) for worker in (0, 1)]
    for epoch in (1, 2):
        seen = Counter()
        for worker, stream in enumerate(streams):
            got = list(next(stream))
            want = list(_epoch_batches(tables_of(archive, plan, epoch, worker), manifest, plan, worker, epoch))
            assert len(got) == plan.steps_per_epoch
            for a, b in zip(got, want, strict=True):
                assert a["pair_id"].tolist() == b["pair_id"].tolist()
                assert np.array_equal(a["s2_60m"], b["s2_60m"])
                seen.update(a["pair_id"].tolist())
        assert set(seen.values()) == {1}


def test_decoded_windows_are_views(archive):
    manifest = read_manifest(archive)
    shard = manifest.of_split("train")[0]
    table = read_pieces(archive, [Piece(shard.file, 0, 16, 16)], ["s2_10m"])
    decoded = decode_group(table["s2_10m"], manifest.group("s2_10m"))
    assert not decoded.flags.owndata
