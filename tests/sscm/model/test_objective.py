"""The losses against slow obvious versions, closed forms and symmetries."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional as F

from sscm.config import ObjectiveConfig
from sscm.model.neighbours import nearest_other
from sscm.model.objective import (
    gather,
    intra_modal_similarity_loss,
    joint_loss,
    modality_discrepancy_loss,
    mutual_information_loss,
)


def unit(rows, dimension, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator, dtype=torch.float64), dim=1)


def test_mutual_information_equals_the_double_sum():
    first, second, tau = unit(7, 5, 0), unit(7, 5, 1), 0.2
    total = 0.0
    for i in range(7):
        forward = [math.exp(float(first[i] @ second[j]) / tau) for j in range(7)]
        backward = [math.exp(float(second[i] @ first[j]) / tau) for j in range(7)]
        total -= 0.5 * (math.log(forward[i] / sum(forward)) + math.log(backward[i] / sum(backward)))
    found = mutual_information_loss(first, second, first, second, 0, tau)
    assert float(found) == pytest.approx(total / 7, rel=1e-12)


def test_mutual_information_of_identical_embeddings_is_log_n():
    same = unit(1, 4, 0).expand(6, 4)
    assert float(mutual_information_loss(same, same, same, same, 0, 0.1)) == pytest.approx(math.log(6))


def test_discrepancy_is_the_angle():
    first, second = unit(20, 6, 0), unit(20, 6, 1)
    angles = [math.acos(max(-1, min(1, float(a @ b)))) for a, b in zip(first, second, strict=True)]
    assert float(modality_discrepancy_loss(first, second)) == pytest.approx(np.mean(angles) / math.pi, rel=1e-12)
    assert float(modality_discrepancy_loss(first, first)) == 0.0
    assert float(modality_discrepancy_loss(first, -first)) == pytest.approx(1.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_discrepancy_has_a_finite_gradient_at_both_ends(sign):
    first = unit(4, 3, 0).float().requires_grad_()
    modality_discrepancy_loss(first, sign * first.detach().clone()).backward()
    assert torch.isfinite(first.grad).all()


def test_nearest_other_against_a_loop_and_never_itself():
    batch = unit(12, 4, 0)
    batch[5] = batch[3]  # a duplicate is a neighbour, the image itself is not
    for start in (0, 4, 8):
        found = nearest_other(batch[start : start + 4], batch, start)
        for row in range(4):
            others = [(float(batch[start + row] @ batch[j]), j) for j in range(12) if j != start + row]
            assert float(batch[start + row] @ batch[found[row]]) == pytest.approx(max(others)[0])
            assert int(found[row]) != start + row
    assert int(nearest_other(batch[3:4], batch, 3)) == 5


def test_intra_modal_similarity_of_twins_is_minus_one():
    twins = unit(3, 4, 0).repeat_interleave(2, dim=0)
    assert float(intra_modal_similarity_loss(twins, twins, 0)) == pytest.approx(-1.0)


def test_joint_loss_is_symmetric_in_modalities_and_order():
    first, second = unit(8, 5, 0), unit(8, 5, 1)
    config = ObjectiveConfig(w_mim=1.0, w_mde=0.5, w_isp=0.25)
    value = float(joint_loss({"s1": first, "s2": second}, config).total)
    order = torch.randperm(8)
    assert float(joint_loss({"s1": second, "s2": first}, config).total) == pytest.approx(value)
    assert float(joint_loss({"s1": first[order], "s2": second[order]}, config).total) == pytest.approx(value)


def test_joint_loss_is_the_weighted_sum_and_scales_neighbours():
    embeddings = {"s1": unit(8, 5, 0), "s2": unit(8, 5, 1)}
    config = ObjectiveConfig(w_mim=1.0, w_mde=0.5, w_isp=0.25)
    losses = joint_loss(embeddings, config)
    assert float(losses.total) == pytest.approx(float(losses.mim + 0.5 * losses.mde + 0.25 * losses.isp))
    without = joint_loss(embeddings, config, isp_scale=0.0)
    assert float(without.total) == pytest.approx(float(losses.mim + 0.5 * losses.mde))


def test_gather_without_a_group_is_the_identity():
    local = unit(3, 2, 0)
    assert gather(local) is local


def _joint_gradient(rank, workers, port, results):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    try:
        weight = unit(6, 4, 9).requires_grad_()
        inputs = {"s1": unit(12, 6, 0), "s2": unit(12, 6, 1)}
        size = 12 // workers
        local = {m: F.normalize(x[rank * size : (rank + 1) * size] @ weight, dim=1) for m, x in inputs.items()}
        loss = joint_loss(local, ObjectiveConfig(w_mde=0.5, w_isp=0.5)).total
        loss.backward()
        dist.all_reduce(weight.grad)  # what DistributedDataParallel does: the mean over workers
        loss = loss.detach()
        dist.all_reduce(loss)
        if rank == 0:
            results["gradient"] = (weight.grad / workers).tolist()
            results["loss"] = float(loss.detach()) / workers
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("workers", [2])
def test_gathered_loss_and_gradient_equal_those_of_one_process(workers, free_port):
    results = mp.Manager().dict()
    mp.spawn(_joint_gradient, (workers, free_port, results), nprocs=workers)
    weight = unit(6, 4, 9).requires_grad_()
    inputs = {"s1": unit(12, 6, 0), "s2": unit(12, 6, 1)}
    whole = {m: F.normalize(x @ weight, dim=1) for m, x in inputs.items()}
    loss = joint_loss(whole, ObjectiveConfig(w_mde=0.5, w_isp=0.5)).total
    loss.backward()
    assert results["loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
    assert np.allclose(results["gradient"], weight.grad.numpy(), rtol=1e-6, atol=1e-12)
