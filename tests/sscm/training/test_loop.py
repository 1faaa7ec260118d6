import itertools
import math

import pytest
import torch
from torch import nn

from sscm.config import TrainConfig
from sscm.training.progress import epoch_line
from sscm.training.step import learning_rate, parameter_groups


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


def test_an_epoch_reads_as_one_line():
    metrics = {"epoch": 3, "loss": 1.5, "mim": 1.25, "mde": 0.25, "isp": -0.5, "pairs_per_s": 1234.0}
    line = epoch_line({**metrics, "validation": {"s1->s2": {"recall@10": 0.5}}}, 10)
    assert "\n" not in line
    assert "3/10" in line and "1,234 pairs/s" in line and "s1->s2 0.500" in line
