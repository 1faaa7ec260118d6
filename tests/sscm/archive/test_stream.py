"""The training stream: its plan as a pure function, and what Ray Data delivers."""

import dataclasses
import itertools
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sscm.archive.manifest import read_manifest
from sscm.archive.order import Deal, Piece, StreamPlan
from sscm.archive.schema import decode_group
from sscm.archive.stream import Reader, stream_batches
from sscm.archive.windows import cut_batches, groups_of, read_pieces, read_window, stream_columns
from sscm.errors import IntegrityError, WorkspaceError


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


ALONE = (Deal(0, 1),)


def reader_of(epochs, worker=0, deals=ALONE, steps=0):
    return Reader(worker=worker, epochs=epochs, deals=tuple(deals), steps=steps)


def batches_of(archive, manifest, plan, reader):
    """All batches, read in this process."""
    groups = groups_of(manifest.modalities)
    windows = (read_window(archive, part, groups) for part in reader.window_plans(plan))
    return [
        batch
        for epoch in reader.epochs
        for batch in cut_batches(windows, reader.batch_of(plan), reader.steps_of(plan, epoch))
    ]


def test_an_epoch_holds_each_pair_at_most_once_with_its_own_pixels(archive, pair_factory):
    manifest = read_manifest(archive)
    plan = StreamPlan(shards=manifest.of_split("train"), seed=0, batch_size=20)
    batches = batches_of(archive, manifest, plan, reader_of(range(3, 4)))
    assert len(batches) == plan.steps_per_epoch == 4
    seen = [name for batch in batches for name in batch["pair_id"].tolist()]
    assert len(seen) == len(set(seen)) == 80
    for batch in batches:
        assert batch["s2_20m"].shape == (20, 6, 12, 12)
        for row, name in enumerate(batch["pair_id"]):
            images = pair_factory(int(name[5:])).images
            assert all(np.array_equal(batch[group][row], pixels) for group, pixels in images.items())


def test_shards_as_ingest_writes_them_are_read_without_arrow(archive, monkeypatch):
    from sscm.archive import windows

    manifest = read_manifest(archive)
    plan = StreamPlan(shards=manifest.of_split("train"), seed=0, batch_size=20)
    monkeypatch.setattr(windows, "read_pieces", lambda *_: pytest.fail("read by Arrow"))
    assert len(batches_of(archive, manifest, plan, reader_of(range(1)))) == 4


def test_pairs_that_lack_a_modality_are_left_out(workspace, archive_factory, pair_factory, modalities):
    from sscm.archive.shard_file import write_shard

    pairs = [pair_factory(i) for i in range(32)]
    pairs[5] = dataclasses.replace(pairs[5], images={"s1": pairs[5].images["s1"]})
    shard, _ = write_shard(workspace, pairs, modalities, "shards/x.parquet", "train", 16)
    manifest = dataclasses.replace(archive_factory(workspace), shards=(shard,))
    plan = StreamPlan(shards=(shard,), seed=0, batch_size=31)
    (batch,) = batches_of(workspace, manifest, plan, reader_of(range(1)))
    assert "pair_0005" not in batch["pair_id"]
    assert len(set(batch["pair_id"])) == 31
    wrong = dataclasses.replace(shard, complete=(14, 16))
    plan = StreamPlan(shards=(wrong,), seed=0, batch_size=30)
    with pytest.raises(IntegrityError, match="15 complete pairs of 16; the manifest says 14 of 16"):
        batches_of(workspace, manifest, plan, reader_of(range(1)))


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("by", ["workers", "ray-data"])
def test_the_plan_is_delivered_epoch_by_epoch_from_the_middle_of_one(archive, by):
    manifest = read_manifest(archive)
    plan = StreamPlan(shards=manifest.of_split("train"), seed=1, batch_size=20)
    deals = (Deal(0, 1), Deal(1, 2))
    seen = {
        1: Counter(batches_of(archive, manifest, plan, reader_of(range(1, 2)))[0]["pair_id"].tolist()),
        2: Counter(),
    }
    for worker in (0, 1):
        reader = dataclasses.replace(reader_of(range(1, 3), worker, deals), by=by)
        want = iter(batches_of(archive, manifest, plan, reader))
        for epoch, batches in zip(reader.epochs, stream_batches(archive, manifest, plan, reader), strict=True):
            got = list(batches)
            assert len(got) == {1: 3, 2: 4}[epoch]
            for batch in got:
                expected = next(want)
                assert batch["pair_id"].tolist() == expected["pair_id"].tolist()
                assert np.array_equal(batch["s2_60m"], expected["s2_60m"])
                seen[epoch].update(batch["pair_id"].tolist())
    for counts in seen.values():
        assert set(counts.values()) == {1} and counts.total() == 80


def test_decoded_windows_are_views(archive):
    manifest = read_manifest(archive)
    shard = manifest.of_split("train")[0]
    table = read_pieces(archive, [Piece(shard.file, 0, 16, 16)], ["s2_10m"])
    decoded = decode_group(table["s2_10m"], manifest.group("s2_10m"))
    assert not decoded.flags.owndata


def test_object_storage_is_read_by_ray_data_and_a_folder_by_the_worker(archive, monkeypatch):
    from sscm.archive import stream

    manifest = read_manifest(archive)
    plan = StreamPlan(shards=manifest.of_split("train"), seed=0, batch_size=20)
    for name in ("read_in_threads", "read_ahead"):
        monkeypatch.setattr(stream, name, lambda *_, name=name: (_ for _ in [{"pair_id": [name] * 20}]))
    monkeypatch.setattr(stream, "depth_of", lambda *_: None)

    def who(workspace, by):
        reader = dataclasses.replace(reader_of(range(1)), by=by)
        epochs = stream_batches(workspace, manifest, plan, reader)
        return next(next(epochs))["pair_id"][0]

    remote = dataclasses.replace(archive, uri="memory://elsewhere")
    assert who(archive, "auto") == who(archive, "workers") == "read_in_threads"
    assert who(archive, "ray-data") == "read_ahead"
    assert who(remote, "auto") == "read_ahead" and who(remote, "workers") == "read_in_threads"


def test_threads_that_read_end_with_the_stream_and_hand_on_errors(archive):
    manifest = read_manifest(archive)
    plan = StreamPlan(shards=manifest.of_split("train"), seed=0, batch_size=20)
    batches = itertools.chain.from_iterable(stream_batches(archive, manifest, plan, reader_of(range(9))))
    next(batches)
    for shard in manifest.shards:
        archive.delete("archive", *shard.file.split("/"))
    with pytest.raises(WorkspaceError, match="no such file"):
        list(batches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


@pytest.mark.parametrize("place", ["id", "header", "footer"])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_a_damaged_shard_is_named(archive, codec, place, pair_factory, modalities):
    from sscm.archive.shard_file import write_shard

    manifest = read_manifest(archive)
    shard, _ = write_shard(archive, map(pair_factory, range(32)), modalities, "shards/x.parquet", "train", 16, codec)
    path = Path(archive.path_of("archive", shard.file))
    data = bytearray(path.read_bytes())
    if place == "id":
        start = data.index(b"pair_0000")
        data[start - 4 : start + 9] = b"\xff" * 13
    elif place == "header":
        column = pq.read_metadata(path).row_group(0).column(1)
        data[column.data_page_offset : column.data_page_offset + 16] = b"\xff" * 16
    else:
        data[-200:-100] = b"\xff" * 100
    path.write_bytes(data)
    plan = StreamPlan(shards=(shard,), seed=0, batch_size=8)
    with pytest.raises(IntegrityError, match=r"(?s)x\.parquet.* (ingest the archive|write it) again"):
        batches_of(archive, manifest, plan, reader_of(range(1)))


def test_a_shard_without_a_column_of_the_manifest_is_named(archive, pair_factory, modalities):
    from sscm.archive.shard_file import write_shard

    fewer = (dataclasses.replace(modalities[1], groups=modalities[1].groups[:2]),)
    shard, _ = write_shard(
        archive, map(pair_factory, range(16)), (modalities[0], *fewer), "shards/x.parquet", "train", 16
    )
    plan = StreamPlan(shards=(shard,), seed=0, batch_size=8)
    with pytest.raises(IntegrityError, match="no columns s2_60m, which the manifest says"):
        batches_of(archive, read_manifest(archive), plan, reader_of(range(1)))
