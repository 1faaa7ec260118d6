"""Training on Ray Train, with two workers, through its failures and its resumption."""

import dataclasses
import json
import threading
import time

import numpy as np
import pytest

from sscm.archive.manifest import read_manifest
from sscm.config import ExportModelConfig, ModelConfig, TrainConfig
from sscm.errors import ConfigError, ManifestError, TrainingError
from sscm.model.bundle import load_bundle
from sscm.training.export import export_model
from sscm.training.launch import _as_begun, _claim_name, require_resources, train
from tests.plugins.fault_proxy import Fault
from tests.plugins.object_store import QUICK
from tests.plugins.raylets import until

MODEL = ModelConfig(backbone="resnet10t", dimension=16, image_size=32)


def config_of(workspace, **changes):
    settings = {"epochs": 2, "batch_size": 32, "workers": 2, "cpus_per_worker": 1, "lr": 2e-3, "model": MODEL}
    return TrainConfig(workspace=workspace.uri, name="run", **(settings | changes))


@pytest.mark.usefixtures("ray_session")
def test_two_workers_train_stop_and_go_on(archive):
    bundle = train(config_of(archive))
    history = bundle.record["epochs"]
    assert [metrics["epoch"] for metrics in history] == [1, 2]
    assert archive.read_json("runs", "run", "metrics.json") == history
    for metrics in history:
        assert metrics["workers"] == 2 and metrics["skipped_pairs"] == 0
        assert np.isfinite([metrics[name] for name in ("loss", "mim", "mde", "isp", "pairs_per_s")]).all()
        assert set(metrics["validation"]) == {"s1->s2", "s2->s1"}
        assert metrics["validation"]["s1->s2"]["pairs"] == 32
    assert history[1]["mim"] < history[0]["mim"]
    assert load_bundle(archive).fingerprint == bundle.fingerprint

    with pytest.raises(ConfigError, match="--resume"):
        train(config_of(archive))
    with pytest.raises(ConfigError, match=r"lr: 0\.002 then, 0\.5 now"):
        train(config_of(archive, resume=True, lr=0.5))
    assert train(config_of(archive, resume=True)).fingerprint == bundle.fingerprint

    # A driver killed between the last checkpoint and the bundle: the run goes on from the checkpoint, on one worker.
    archive.delete("models")
    again = train(config_of(archive, resume=True, workers=1))
    assert again.record["epochs"] == history
    for modality in bundle.modalities:
        groups = {g.name: np.ones((2, *g.shape), g.numpy_dtype) for g in modality.groups}
        assert np.allclose(again.encode(modality.name, groups), bundle.encode(modality.name, groups), atol=1e-5)


@pytest.mark.usefixtures("ray_session")
def test_a_loss_gone_non_finite_ends_the_run_at_once_and_names_the_pairs(archive):
    with pytest.raises(TrainingError, match=r"run run stopped: the loss of step 1 .*non_finite_batch\.json"):
        train(config_of(archive, lr=1e30, warmup=0.0, batch_size=16))
    found = archive.read_json("runs", "run", "non_finite_batch.json")
    assert found["step"] == 1 and len(set(found["pair_ids"])) == 16
    assert all(pair_id.startswith("pair_") for pair_id in found["pair_ids"])
    assert not archive.exists("models")


@pytest.mark.usefixtures("ray_session")
def test_storage_that_is_away_for_a_while_ends_nothing(remote, proxy, archive_factory, store_credentials, monkeypatch):
    # Workers have no AWS_* variables: what they need travels with the workspace.
    monkeypatch.setenv("SSCM_STORAGE_OPTIONS", json.dumps({"s3": {**store_credentials, "config_kwargs": QUICK}}))
    archive_factory(remote)
    away = Fault("status", until=0.0)
    proxy.faults = [away]

    def take_away():
        until(lambda: remote.exists("runs", "run", "metrics.json"), 120, "the first epoch")
        away.until = time.monotonic() + 12

    thread = threading.Thread(target=take_away)
    thread.start()
    bundle = train(config_of(remote, workers=1, epochs=3, checkpoint_minutes=0.03, max_failures=0))
    thread.join(120)
    assert away.done > 3
    assert [metrics["epoch"] for metrics in bundle.record["epochs"]] == [1, 2, 3]
    exported = export_model(ExportModelConfig(workspace=remote.uri, run="run"))
    assert len(exported.record["epochs"]) == 3
    with pytest.raises(ConfigError, match=r"has no checkpoint 'nothing'; it has \['checkpoint_"):
        export_model(ExportModelConfig(workspace=remote.uri, run="run", checkpoint="nothing"))
    with pytest.raises(ConfigError, match="has no checkpoint; this workspace has runs"):
        export_model(ExportModelConfig(workspace=remote.uri, run="none"))


@pytest.mark.usefixtures("ray_session")
def test_a_cluster_that_is_too_small_says_so(archive):
    with pytest.raises(ConfigError, match="8 logical CPUs; 8 workers of 1 and one CPU each for their stream make 16"):
        require_resources(config_of(archive, workers=8))
    with pytest.raises(ConfigError, match="0 GPUs; 2 workers want one each"):
        require_resources(config_of(archive, gpu=True))


def test_a_run_goes_on_with_the_shards_that_it_began_with(archive):
    config = config_of(archive, resume=True)
    begun = read_manifest(archive)
    _claim_name(archive, config, begun)
    [first, *_] = begun.of_split("train")
    name, value = next(iter(begun.statistics.items()))
    changed = {**begun.statistics, name: dataclasses.replace(value, mean=value.mean + 1)}
    more = dataclasses.replace(first, file="shards/added.parquet")
    grown = dataclasses.replace(begun, shards=(*begun.shards, more), statistics=changed)
    assert _as_begun(archive, grown, config) == begun
    assert _as_begun(archive, grown, dataclasses.replace(config, name="another")) == grown
    less = dataclasses.replace(begun, shards=tuple(shard for shard in begun.shards if shard != first))
    with pytest.raises(ConfigError, match="1 shards that it was trained on are no longer in the archive"):
        _as_begun(archive, less, config)


def test_what_cannot_work_is_refused_before_anything_starts(archive, workspace):
    with pytest.raises(ConfigError, match="smaller batch size"):
        train(config_of(archive, batch_size=1000))
    with pytest.raises(ConfigError, match="unknown to timm"):
        train(config_of(archive, model=dataclasses.replace(MODEL, backbone="resnet-eighteen")))
    with pytest.raises(ConfigError, match="cannot be made with group norm"):
        train(config_of(archive, model=dataclasses.replace(MODEL, backbone="convnext_atto", norm="group")))
    archive.delete("archive")
    with pytest.raises(ManifestError, match="`sscm ingest` makes one"):
        train(config_of(archive))
    assert not archive.exists("runs")
