"""Windows that Ray Data reads ahead: all of them, in order, not too far ahead, and when its actor is lost."""

import itertools
import time

import numpy as np
import pytest
import ray

from sscm.archive import read_ahead as module
from sscm.archive.manifest import read_manifest
from sscm.archive.order import Deal, StreamPlan
from sscm.archive.read_ahead import Depth, depth_of, read_ahead
from sscm.archive.stream import Reader
from sscm.archive.windows import groups_of, read_window
from sscm.errors import WorkspaceError

pytestmark = pytest.mark.usefixtures("ray_session")
DEPTH = Depth(lanes=2, ahead=4)


@pytest.fixture
def feeds(monkeypatch):
    """Feeds that were made, the last one last; nothing is read by this process: their actors are waited for."""
    made = []

    class Feed(module._Feed):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

        def _is_up(self, ready):
            return ray.get(ready, timeout=60) is None

    monkeypatch.setattr(module, "_Feed", Feed)
    return made


def plans_of(archive, epochs):
    manifest = read_manifest(archive)
    plan = StreamPlan(shards=manifest.of_split("train"), seed=1, batch_size=20)
    return manifest, list(Reader(worker=0, epochs=range(epochs), deals=(Deal(0, 1),)).window_plans(plan))


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    assert all(np.array_equal(got[name], wanted[name]) for name in wanted)


def test_all_windows_come_in_order_over_many_tasks_and_executions(archive, feeds, monkeypatch):
    monkeypatch.setattr(module, "FIRST_DEAL", 3)
    manifest, plans = plans_of(archive, 30)
    assert len(plans) == 60
    groups = groups_of(manifest.modalities)
    wanted = [read_window(archive, plan, groups) for plan in plans]
    got = list(read_ahead(archive, groups, iter(plans), DEPTH))
    assert len(got) == len(wanted) and len(feeds) == 1
    for window, other in zip(got, wanted, strict=True):
        assert_same(window, other)
        assert not window["s1"].flags.writeable


def test_windows_go_on_when_the_actor_is_lost(archive, feeds):
    manifest, plans = plans_of(archive, 10)
    groups = groups_of(manifest.modalities)
    wanted = [read_window(archive, plan, groups) for plan in plans]
    windows = read_ahead(archive, groups, iter(plans), DEPTH)
    for number, other in enumerate(wanted):
        if number == 7:
            ray.kill(feeds[-1]._actor)
        assert_same(next(windows), other)
    assert next(windows, None) is None
    assert len(feeds) == 2


@pytest.mark.parametrize("looks", [[True], [False, True]], ids=["at once", "after a window of this process's own"])
def test_an_actor_that_is_lost_again_and_again_is_an_error(archive, feeds, monkeypatch, looks):
    manifest, plans = plans_of(archive, 20)
    look = itertools.cycle(looks)
    monkeypatch.setattr(module._Feed, "_is_up", lambda *_: next(look))
    deal = module._Feed._deal

    def lose(feed, waiting, unseen):
        ray.kill(feed._actor)
        deal(feed, waiting, unseen)

    monkeypatch.setattr(module._Feed, "_deal", lose)
    with pytest.raises(ray.exceptions.RayActorError):
        list(read_ahead(archive, groups_of(manifest.modalities), iter(plans), DEPTH))
    assert len(feeds) == module.ATTEMPTS


def test_a_lane_that_is_silent_for_too_long_is_an_error_that_names_the_remedy(archive, feeds, monkeypatch):
    manifest, plans = plans_of(archive, 2)
    monkeypatch.setattr(module, "SILENCE_S", 1)
    with pytest.raises(ray.exceptions.GetTimeoutError, match="--stream workers"):
        list(read_ahead(archive, groups_of(manifest.modalities), iter(plans), Depth(lanes=1, ahead=0)))
    assert len(feeds) == module.ATTEMPTS


def test_no_window_is_read_before_its_time_and_one_that_cannot_be_read_is_named(archive, feeds):
    manifest, plans = plans_of(archive, 10)
    windows = read_ahead(archive, groups_of(manifest.modalities), iter(plans), DEPTH)
    for _ in range(3):
        next(windows)
    time.sleep(2)  # more than reading all of it takes
    for shard in manifest.of_split("train"):
        archive.delete("archive", *shard.file.split("/"))
    got = 0
    with pytest.raises(WorkspaceError, match="no such file"):
        for _ in windows:
            got += 1
    assert 1 <= got <= DEPTH.ahead


def test_depth_follows_the_object_store_and_the_cluster(monkeypatch):
    monkeypatch.setattr(module.runtime, "object_store_bytes", lambda: 2e9)
    monkeypatch.setattr(module.runtime, "core_share", lambda: 1.0)
    monkeypatch.setattr(module.ray, "cluster_resources", lambda: {"CPU": 32.0})
    assert depth_of(70_000_000, workers=8, neighbours=1) == Depth(lanes=2, ahead=6)
    assert depth_of(10_000_000, workers=1, neighbours=1) == Depth(lanes=8, ahead=24)
    assert depth_of(70_000_000, workers=1, neighbours=2) == Depth(lanes=4, ahead=4)
    assert depth_of(900_000_000, workers=1, neighbours=1) == Depth(lanes=1, ahead=1)
