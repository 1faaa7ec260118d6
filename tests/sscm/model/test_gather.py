"""One global batch on one, two and four workers: the same losses and the same gradients, whoever holds which rows."""

import itertools

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sscm.config import ObjectiveConfig, TrainConfig
from sscm.model.gather import Layout, gather, layout_of
from sscm.model.gradient_cache import cached_backward
from sscm.model.objective import joint_loss
from sscm.training.step import PairEncoders, TrainingStep
from tests.plugins.processes import run_on

ROWS = 12
JOINT = ObjectiveConfig(w_mde=0.5, w_isp=0.5, isp_warmup=0.0)
OBJECTIVES = {"joint": JOINT, "barlow": ObjectiveConfig(kind="barlow"), "vicreg": ObjectiveConfig(kind="vicreg")}
COUNTS = {
    1: [(12,)],
    2: [(6, 6), (5, 7), (12, 0)],
    4: [(3, 3, 3, 3), (5, 3, 4, 0), (1, 8, 2, 1)],
}
MICRO_BATCHES = (None, 2)


class Toy(nn.Module):
    """Images to projections, without batch norm."""

    def __init__(self, bands):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(bands, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 4 * 4, 5))

    def project(self, pixels):
        return self.layers(pixels)


def toys():
    torch.manual_seed(5)
    return nn.ModuleDict({"s1": Toy(2), "s2": Toy(3)}).double()


def images(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(ROWS, bands, 6, 6, generator=generator, dtype=torch.float64)
        for name, bands in (("s1", 2), ("s2", 3))
    }


def loss_and_gradient(rank, counts, objective, micro_batch):
    """Mean loss over workers, and the gradient that DistributedDataParallel leaves."""
    encoders = toys()
    pairs = PairEncoders(encoders, bfloat16=False)
    model = DistributedDataParallel(pairs) if len(counts) > 1 else pairs
    start, rows = sum(counts[:rank]), counts[rank]
    local = {name: pixels[start : start + rows] for name, pixels in images(0).items()}
    layout = layout_of(rows, torch.device("cpu"))
    assert layout == Layout(counts, rank)

    def loss_of(projections):
        own = {name: projected[: layout.own_count] for name, projected in projections.items()}
        return joint_loss(own, objective, layout=layout)

    if not rows:  # takes part with a row that does not count
        local = {name: pixels.new_zeros(1, *pixels.shape[1:]) for name, pixels in local.items()}
    if micro_batch is not None:
        losses = cached_backward(model, local, loss_of, micro_batch)
    else:
        losses = loss_of(model(local))
        losses.total.backward()
    values = torch.stack([losses.total, losses.mim, losses.mde, losses.isp]).detach()
    if len(counts) > 1:
        dist.all_reduce(values)
        values /= len(counts)
    return values, torch.cat([parameter.grad.flatten() for parameter in encoders.parameters()])


def train_on(rank, workers, steps):
    """Parameters after some steps of a global batch that workers share."""
    encoders = toys()
    pairs = PairEncoders(encoders, bfloat16=False)
    config = TrainConfig(batch_size=ROWS, augment=False, objective=JOINT)
    step = TrainingStep(encoders, config, 10, DistributedDataParallel(pairs) if workers > 1 else pairs)
    share = ROWS // workers
    for number in steps:
        mine = {name: pixels[rank * share : (rank + 1) * share] for name, pixels in images(number).items()}
        step(mine, ["p"] * share, number, torch.Generator())
    return torch.cat([parameter.detach().flatten() for parameter in encoders.parameters()])


def every_case(rank, workers):
    """(counts, objective, micro-batch) → loss and gradient; and the parameters after three steps."""
    cases = {
        (counts, name, micro_batch): loss_and_gradient(rank, counts, objective, micro_batch)
        for counts in COUNTS[workers]
        for name, objective in OBJECTIVES.items()
        for micro_batch in MICRO_BATCHES
    }
    return cases, train_on(rank, workers, range(3))


@pytest.fixture(scope="module")
def one_process():
    return {name: loss_and_gradient(0, (ROWS,), objective, None) for name, objective in OBJECTIVES.items()}


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_losses_gradients_and_steps_do_not_depend_on_who_holds_which_rows(workers, one_process):
    trained = train_on(0, 1, range(3))
    for cases, parameters in [every_case(0, 1)] if workers == 1 else run_on(workers, every_case, workers):
        for (counts, name, micro_batch), (values, gradient) in cases.items():
            expected_values, expected_gradient = one_process[name]
            case = f"{name} on {counts}, micro-batch {micro_batch}"
            torch.testing.assert_close(values, expected_values, rtol=1e-9, atol=1e-12, msg=case)
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-12, msg=case)
        torch.testing.assert_close(parameters, trained, rtol=1e-6, atol=1e-9)


def test_the_cases_differ_so_that_equality_says_something(one_process):
    gradients = [gradient for _, gradient in one_process.values()]
    for first, second in itertools.combinations(gradients, 2):
        assert (first - second).abs().max() > 1e-6


def test_a_layout_knows_its_own_rows():
    layout = Layout((3, 0, 2), rank=2)
    assert (layout.total, layout.start, layout.own_count) == (5, 3, 2)
    assert layout.own(torch.arange(5)).tolist() == [3, 4]
    assert float(layout.mean(torch.tensor([1.0, 2.0]))) == pytest.approx(3 * 3 / 5)
    assert float(Layout((0,)).mean(torch.zeros(0))) == 0.0


def test_without_a_group_gathering_is_the_identity():
    rows = torch.randn(3, 2)
    assert gather(rows, Layout((3,))) is rows
    assert layout_of(3, torch.device("cpu")) == Layout((3,))
