import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from sscm.archive.statistics import BandStatistics
from sscm.config import ModelConfig, TrainConfig
from sscm.errors import TrainingError
from sscm.model.bundle import make_encoders
from sscm.model.encoders import prepared_images
from sscm.sensors import sentinel1, sentinel2
from sscm.training.checkpoint import require_same, sweep, whole_checkpoints
from sscm.training.progress import epoch_line
from sscm.training.step import finite_rows, learning_rate, parameter_groups


def test_learning_rate_rises_then_falls_by_a_cosine():
    config = TrainConfig(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert all(a >= b for a, b in itertools.pairwise(rates[10:])) and rates[-1] < 0.001


def test_gains_and_biases_do_not_decay():
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 4))
    decayed, plain = parameter_groups(module, 0.5)
    assert [p.ndim for p in decayed["params"]] == [4, 2] and decayed["weight_decay"] == 0.5
    assert all(p.ndim == 1 for p in plain["params"]) and plain["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(plain["params"]) == len(list(module.parameters()))
    torch.optim.AdamW([decayed, plain], lr=1.0)


def test_an_image_with_infinity_or_nan_in_it_is_marked_before_normalising_hides_it():
    modalities = (sentinel1(24), sentinel2(24))
    standard = BandStatistics(count=2, mean=0.0, m2=2.0, minimum=-1.0, maximum=1.0)
    statistics = {f"{m.name}/{band}": standard for m in modalities for band in m.band_names}
    encoders = make_encoders(modalities, statistics, ModelConfig(backbone="resnet10t", dimension=4, image_size=32))
    batch = {g.name: torch.from_numpy(np.ones((4, *g.shape), g.numpy_dtype)) for m in modalities for g in m.groups}
    batch["s1"][1, 0, 3, 3] = torch.inf
    batch["s1"][2, 1, 0, 0] = torch.nan
    prepared = {name: prepared_images(encoder, batch) for name, encoder in encoders.items()}
    assert finite_rows(prepared).tolist() == [True, False, False, True]
    assert prepared["s1"][1].isnan().all() and prepared["s2"].isfinite().all()


def test_a_checkpoint_of_other_bands_or_another_architecture_names_both():
    then = {"bands": {"s1": ["VV", "VH"]}, "backbone": "resnet18"}
    require_same(then, dict(then), "checkpoint")
    with pytest.raises(TrainingError, match=r"\['VV', 'VH'\]} there, {'s1': \['VV'\]} now"):
        require_same(then, {**then, "bands": {"s1": ["VV"]}}, "checkpoint")
    with pytest.raises(TrainingError, match=r"checkpoint is of .*backbone: resnet18 there, resnet50 now"):
        require_same(then, {**then, "backbone": "resnet50"}, "checkpoint")


def test_an_epoch_reads_as_one_line():
    metrics = {"epoch": 3, "loss": 1.5, "mim": 1.25, "mde": 0.25, "isp": -0.5, "pairs_per_s": 1234.0}
    metrics["data_wait_fraction"] = 0.0123
    line = epoch_line({**metrics, "validation": {"s1->s2": {"recall@10": 0.5}}}, 10)
    assert "\n" not in line and "skipped" not in line
    assert "3 pairs skipped" in epoch_line({**metrics, "skipped_pairs": 3}, 10)
    assert "3/10" in line and "1,234 pairs/s, 1.2% waiting for data" in line and "s1->s2 0.500" in line


def test_checkpoints_whose_upload_did_not_end_are_no_checkpoints_and_go(workspace):
    for name in ("checkpoint_1", "checkpoint_2", "checkpoint_3"):
        workspace.write_bytes(b"half", "runs", "run", name, "state.pt")
    assert whole_checkpoints(workspace, "run") == []
    record = {"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_2"}]}
    workspace.write_json(record, "runs", "run", "checkpoint_manager_snapshot.json")
    assert whole_checkpoints(workspace, "run") == ["checkpoint_2"]
    for disagreeing in (None, "checkpoint_3"):
        sweep(workspace, "run", disagreeing)
        assert len(workspace.names("runs", "run")) == 4
    sweep(workspace, "run", "checkpoint_2")
    assert workspace.names("runs", "run") == ["checkpoint_2", "checkpoint_manager_snapshot.json"]
