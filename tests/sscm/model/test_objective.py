"""The three losses against slow obvious versions, closed forms and symmetries; memory; and that nothing collapses."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sscm.config import ObjectiveConfig, TrainConfig
from sscm.errors import ConfigError
from sscm.model.gather import Layout
from sscm.model.objective import (
    intra_modal_similarity_loss,
    joint_loss,
    modality_discrepancy_loss,
    mutual_information_loss,
    partner_nll,
)
from sscm.training.step import TrainingStep


def unit(rows, dimension, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator, dtype=torch.float64), dim=1)


def test_mutual_information_equals_the_double_sum():
    first, second, tau = unit(7, 5, 0), unit(7, 5, 1), 0.2
    found = mutual_information_loss(first, second, Layout((7,)), tau)
    for i in range(7):
        forward = [math.exp(float(first[i] @ second[j]) / tau) for j in range(7)]
        backward = [math.exp(float(second[i] @ first[j]) / tau) for j in range(7)]
        expected = -0.5 * (math.log(forward[i] / sum(forward)) + math.log(backward[i] / sum(backward)))
        assert float(found[i]) == pytest.approx(expected, rel=1e-12)


def test_mutual_information_of_identical_embeddings_is_log_n_and_of_one_pair_nothing():
    same = unit(1, 4, 0).expand(6, 4)
    assert mutual_information_loss(same, same, Layout((6,)), 0.1).numpy() == pytest.approx(np.full(6, math.log(6)))
    assert float(mutual_information_loss(same[:1], same[:1], Layout((1,)), 0.1)) == 0.0


def test_discrepancy_is_the_angle():
    first, second = unit(20, 6, 0), unit(20, 6, 1)
    angles = [math.acos(max(-1, min(1, float(a @ b)))) for a, b in zip(first, second, strict=True)]
    assert modality_discrepancy_loss(first, second).numpy() == pytest.approx(np.array(angles) / math.pi, rel=1e-12)
    assert modality_discrepancy_loss(first, first).numpy() == pytest.approx(0.0)
    assert modality_discrepancy_loss(first, -first).numpy() == pytest.approx(1.0)


def test_intra_modal_similarity_is_minus_the_cosine():
    images, others = unit(3, 4, 0), unit(3, 4, 1)
    values = intra_modal_similarity_loss(images, others)
    assert values.tolist() == pytest.approx([-float(images[i] @ others[i]) for i in range(3)])
    assert intra_modal_similarity_loss(images, images).numpy() == pytest.approx(-1.0)


def test_intra_modal_similarity_counts_the_nearest_other_image_and_moves_both():
    first, second = (unit(7, 4, seed).requires_grad_() for seed in (0, 1))
    isp = joint_loss({"s1": first, "s2": second}, ObjectiveConfig()).isp
    expected = torch.zeros((), dtype=torch.float64)
    for rows in (first, second):
        for i in range(7):
            others = [F.cosine_similarity(rows[i], rows[j], dim=0) for j in range(7) if j != i]
            expected = expected - torch.stack(others).max() / 14
    assert float(isp.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    for found, wanted in zip(*(torch.autograd.grad(loss, (first, second)) for loss in (isp, expected)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["joint", "barlow", "vicreg"])
def test_gradients_are_finite_at_both_ends(sign, dtype, kind):
    first = unit(4, 3, 0).to(dtype)
    for projections in (
        {"s1": first, "s2": sign * first},
        {"s1": first[:1].expand(4, 3), "s2": sign * first[:1].expand(4, 3)},  # all images identical
    ):
        leaves = {name: rows.clone().requires_grad_() for name, rows in projections.items()}
        losses = joint_loss(leaves, ObjectiveConfig(kind=kind, w_mde=1.0, w_isp=1.0))
        losses.total.backward()
        assert torch.isfinite(losses.detached()).all()
        assert all(torch.isfinite(leaf.grad).all() for leaf in leaves.values())


@pytest.mark.parametrize("kind", ["joint", "barlow", "vicreg"])
def test_symmetric_in_the_modalities_and_in_the_order_of_pairs(kind):
    first, second = 3 * unit(8, 5, 0), unit(8, 5, 1)
    config = ObjectiveConfig(kind=kind, w_mde=0.5, w_isp=0.25)
    value = joint_loss({"s1": first, "s2": second}, config).detached().tolist()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert joint_loss({"s1": second, "s2": first}, config).detached().tolist() == pytest.approx(value, rel=1e-5)
    shuffled = joint_loss({"s1": first[order], "s2": second[order]}, config)
    assert shuffled.detached().tolist() == pytest.approx(value, rel=1e-5)


def test_the_joint_loss_is_the_weighted_sum_and_blind_to_norms():
    projections = {"s1": 5 * unit(8, 5, 0), "s2": unit(8, 5, 1)}
    config = ObjectiveConfig(w_mim=1.0, w_mde=0.5, w_isp=0.25)
    losses = joint_loss(projections, config)
    assert float(losses.total) == pytest.approx(float(losses.mim + 0.5 * losses.mde + 0.25 * losses.isp))
    without = joint_loss(projections, config, isp_scale=0.0)
    assert float(without.total) == pytest.approx(float(losses.mim + 0.5 * losses.mde))
    scaled = joint_loss({name: 7 * rows for name, rows in projections.items()}, config)
    assert float(scaled.total) == pytest.approx(float(losses.total))


def test_three_modalities_are_all_pairs_of_them():
    projections = {name: unit(6, 4, seed) for seed, name in enumerate(("s1", "s2", "lidar"))}
    config = ObjectiveConfig()
    pairs = [("s1", "s2"), ("s1", "lidar"), ("s2", "lidar")]
    of_pairs = [joint_loss({a: projections[a], b: projections[b]}, config) for a, b in pairs]
    assert float(joint_loss(projections, config).mim) == pytest.approx(np.mean([float(x.mim) for x in of_pairs]))


@pytest.mark.parametrize("kind", ["joint", "barlow", "vicreg"])
def test_a_batch_of_one_pair_has_only_its_angle(kind):
    projections = {"s1": unit(1, 4, 0).requires_grad_(), "s2": unit(1, 4, 1)}
    losses = joint_loss(projections, ObjectiveConfig(kind=kind))
    losses.total.backward()
    assert float(losses.mim.detach()) == 0.0 and float(losses.isp.detach()) == 0.0 and float(losses.mde.detach()) > 0
    assert torch.isfinite(projections["s1"].grad).all()


class LargestTensor(TorchDispatchMode):
    """The most elements that any tensor made under it has."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_chunks_of_logits_change_nothing_but_memory():
    rows, dimension, chunk = 96, 8, 96 * 10
    first, second = unit(rows, dimension, 0), unit(rows, dimension, 1)
    weights = torch.linspace(0, 1, rows, dtype=torch.float64)
    results = {}
    for name, logits in (("plain", 10**9), ("chunked", chunk), ("one row", 1)):
        queries, targets = first.clone().requires_grad_(), second.clone().requires_grad_()
        kept = []
        with LargestTensor() as largest:
            with torch.autograd.graph.saved_tensors_hooks(lambda t, to=kept: to.append(t) or t, lambda t: t):
                values = partner_nll(queries, targets, 0, 0.1, logits)
            # Every chunk keeps the same targets: memory counts them once.
            saved = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() // 8 for t in kept}.values())
            (values * weights).sum().backward()
        results[name] = (values.detach(), queries.grad, targets.grad)
        if name == "plain":
            assert largest.elements == rows * rows and saved > rows * rows
        else:  # neither kept for the backward pass, nor ever made at once
            assert saved <= 3 * rows * dimension
            assert largest.elements <= max(logits, rows * dimension)
    for name in ("chunked", "one row"):
        for plain, other in zip(results["plain"], results[name], strict=True):
            assert torch.allclose(plain, other, rtol=1e-12, atol=1e-14)


@pytest.fixture
def one_thread():
    """Layers this small only wait for one another on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Toy(nn.Module):
    """Tiny images to projections."""

    def __init__(self, bands):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(bands, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 8))

    def project(self, pixels):
        return self.layers(pixels)


def spread_and_recall(objective):
    """How spread the embeddings of 64 pairs of small noisy images are after 200 steps, and partner recall@1.

    Spread is variance times effective number of dimensions: 1 × 8 at best, 0 where all are one point. Chance is 1/64.
    """
    torch.manual_seed(0)
    ground = torch.randn(64, 1, 8, 8)
    images = {"s1": ground + 0.2 * torch.randn(64, 2, 8, 8), "s2": -ground + 0.2 * torch.randn(64, 3, 8, 8)}
    encoders = nn.ModuleDict({"s1": Toy(2), "s2": Toy(3)})
    config = TrainConfig(lr=3e-3, augment=False, weight_decay=0.0, objective=objective)
    step = TrainingStep(encoders, config, 200)
    generator = torch.Generator().manual_seed(0)
    for number in range(200):
        step(images, [str(i) for i in range(64)], number, generator)
    with torch.no_grad():
        first, second = (F.normalize(encoders[name].project(images[name]), dim=1) for name in images)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(first.T)).clamp(min=0)
    spread = float(eigenvalues.sum()) * float(eigenvalues.sum() ** 2 / eigenvalues.square().sum())
    recall = float(((first @ second.T).argmax(dim=1) == torch.arange(64)).float().mean())
    return spread, recall


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "objective",
    [ObjectiveConfig(w_isp=0.3), ObjectiveConfig(kind="barlow"), ObjectiveConfig(kind="vicreg")],
    ids=lambda objective: objective.kind,
)
def test_training_finds_partners_and_does_not_collapse(objective):
    spread, recall = spread_and_recall(objective)
    assert spread > 2 and recall > 0.5, (spread, recall)


@pytest.mark.usefixtures("one_thread")
def test_without_what_tells_pairs_apart_the_same_training_collapses():
    with pytest.raises(ConfigError, match="collapsing"):
        ObjectiveConfig(w_mim=0.0)
    objective = dataclasses.replace(ObjectiveConfig(w_mde=1.0, w_isp=1.0, isp_warmup=0.0))
    object.__setattr__(objective, "w_mim", 0.0)  # what the settings refuse
    spread, _ = spread_and_recall(objective)
    assert spread < 0.5, spread
