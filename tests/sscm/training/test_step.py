"""A training step in memory: bad pairs are left out, a loss gone non-finite stops everyone, state goes on."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sscm.config import ObjectiveConfig, TrainConfig
from sscm.errors import NonFiniteLossError
from sscm.training.step import PairEncoders, TrainingStep, finite_rows, in_bfloat16
from tests.plugins.processes import run_on

ROWS = 6
IDS = [f"pair_{i}" for i in range(ROWS)]


class Toy(nn.Module):
    """Images to projections, with batch norm."""

    def __init__(self, bands):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(bands, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 4 * 4, 5))

    def project(self, pixels):
        return self.layers(pixels)


def step_of(workers=1, **changes):
    torch.manual_seed(5)
    encoders = nn.ModuleDict({"s1": Toy(2), "s2": Toy(3)})
    objective = changes.pop("objective", ObjectiveConfig(isp_warmup=0.0))
    config = TrainConfig(batch_size=8, augment=False, objective=objective, **changes)
    pairs = PairEncoders(encoders, bfloat16=False)
    return TrainingStep(encoders, config, 10, DistributedDataParallel(pairs) if workers > 1 else pairs)


def images(rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, bands, 6, 6, generator=generator) for name, bands in (("s1", 2), ("s2", 3))}


def weights_of(step):
    return {name: value.clone() for name, value in step.encoders.state_dict().items()}


def assert_same_weights(first, second):
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("changes", [{}, {"micro_batch": 2}, {"objective": ObjectiveConfig(kind="vicreg")}])
def test_a_pair_with_a_bad_pixel_is_as_if_it_were_not_there(bad, changes):
    broken, clean = step_of(**changes), step_of(**changes)
    batch = images()
    batch["s2"][3, 1, 2, 2] = bad
    assert finite_rows(batch).tolist() == [True, True, True, False, True, True]
    rest = [0, 1, 2, 4, 5]
    found = broken(batch, IDS, 0, torch.Generator())
    expected = clean({name: rows[rest] for name, rows in batch.items()}, [IDS[i] for i in rest], 0, torch.Generator())
    assert torch.equal(found.detached(), expected.detached()) and torch.isfinite(found.detached()).all()
    assert (broken.skipped, clean.skipped) == (1, 0)
    assert_same_weights(weights_of(broken), weights_of(clean))  # running statistics, too
    broken.check()


def test_a_batch_of_bad_pairs_changes_nothing():
    step, batch = step_of(), images()
    batch["s1"][:] = torch.nan
    before = weights_of(step)
    assert step(batch, IDS, 0, torch.Generator()).detached().tolist() == [0, 0, 0, 0]
    assert step.skipped == ROWS
    assert_same_weights(before, weights_of(step))


def test_one_good_pair_teaches_its_angle_alone_by_running_statistics():
    step, batch = step_of(), images()
    batch["s1"][1:] = torch.nan
    before = weights_of(step)
    losses = step(batch, IDS, 0, torch.Generator())
    assert float(losses.mim.detach()) == float(losses.isp.detach()) == 0.0 and float(losses.mde.detach()) > 0
    after = weights_of(step)
    assert torch.equal(before["s1.layers.1.running_mean"], after["s1.layers.1.running_mean"])
    assert not torch.equal(before["s1.layers.0.weight"], after["s1.layers.0.weight"])


def test_identical_images_have_finite_losses_and_gradients():
    step = step_of()
    batch = {name: rows[:1].expand(ROWS, -1, -1, -1).clone() for name, rows in images().items()}
    assert torch.isfinite(step(batch, IDS, 0, torch.Generator()).detached()).all()
    step.check()
    assert all(torch.isfinite(p.grad).all() for p in step.encoders.parameters())


@pytest.mark.parametrize("where", ["next step", "check"])
def test_a_loss_gone_non_finite_names_its_pairs(where):
    step = step_of()
    with torch.no_grad():
        step.encoders["s1"].layers[3].weight[0, 0] = torch.inf
    step(images(), IDS, 7, torch.Generator())
    with pytest.raises(NonFiniteLossError, match=r"step 7: the loss .* not finite, over 6 pairs \(pair_0") as error:
        step.check() if where == "check" else step(images(), ["other"] * ROWS, 8, torch.Generator())
    assert (error.value.step, list(error.value.pair_ids)) == (7, IDS)


def test_weights_gone_non_finite_by_the_gradient_of_a_finite_loss_are_found_before_they_are_kept():
    step = step_of()
    step.encoders["s1"].layers[0].weight.register_hook(lambda gradient: gradient * torch.nan)
    assert torch.isfinite(step(images(), IDS, 7, torch.Generator()).detached()).all()
    with pytest.raises(NonFiniteLossError, match="step 7: the loss or its gradient is not finite"):
        step.check()


def test_training_goes_on_from_its_state(tmp_path):
    whole, first, second = (step_of() for _ in range(3))
    for step in (whole, first):
        for number in range(2):
            step(images(seed=number), [f"{number}/{i}" for i in range(ROWS)], number, torch.Generator())
    torch.save({"encoders": first.encoders.state_dict(), "step": first.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second.encoders.load_state_dict(state["encoders"])
    second.load_state_dict(state["step"])
    for step in (whole, second):
        step(images(seed=2), IDS, 2, torch.Generator())
    assert_same_weights(weights_of(whole), weights_of(second))


def _two_workers(rank):
    """What each of two workers sees: all its pairs bad, then a loss that is not finite on one of them."""
    results = []
    for micro_batch in (None, 2):
        step = step_of(workers=2, micro_batch=micro_batch)
        batch = images(4, seed=rank)
        if rank == 0:
            batch["s1"][:] = torch.nan
        losses = step(batch, [f"{rank}/{i}" for i in range(4)], 0, torch.Generator())
        results.append((step.skipped, losses.detached().tolist()))
        step(images(4, seed=rank), [f"{rank}/{i}" for i in range(4)], 1, torch.Generator())
        weights = torch.cat([parameter.detach().flatten() for parameter in step.encoders.parameters()])
    if rank == 1:
        step._last_is_bad.fill_(1)  # as if its loss, and not the other's, had not been finite
    try:
        step(images(4), ["late"] * 4, 2, torch.Generator())
    except NonFiniteLossError as error:
        return results, weights, error.pair_ids
    return results, weights, None


def test_a_worker_without_a_good_pair_and_one_with_a_bad_loss_hold_up_nobody():
    (first, weights, ids), (second, same_weights, same_ids) = run_on(2, _two_workers)
    assert [skipped for skipped, _ in first] == [4, 4] and [skipped for skipped, _ in second] == [0, 0]
    for (_, mine), (_, other) in zip(first, second, strict=True):
        assert mine == [0, 0, 0, 0] and torch.isfinite(torch.tensor(other)).all() and other[1] > 0
    assert torch.equal(weights, same_weights)
    assert ids == same_ids == tuple(f"{rank}/{i}" for rank in (0, 1) for i in range(4))


def test_crops_reach_the_images_that_are_encoded():
    """The same seed without crops, with crops, and with crops again."""

    def loss_with(crop):
        step = step_of()
        step.config = dataclasses.replace(step.config, augment=True, crop=crop)
        return float(step(images(), IDS, 0, torch.Generator().manual_seed(3)).total.detach())

    assert loss_with(0.3) == loss_with(0.3) != loss_with(1.0)


def test_bfloat16_is_a_choice_on_the_processor_and_the_default_on_a_gpu():
    processor, gpu = torch.device("cpu"), torch.device("cuda")
    assert [in_bfloat16(TrainConfig(), device) for device in (processor, gpu)] == [False, True]
    assert in_bfloat16(TrainConfig(bfloat16=True), processor) and not in_bfloat16(TrainConfig(bfloat16=False), gpu)
    encoders = nn.ModuleDict({"s1": Toy(2), "s2": Toy(3)})
    found = {low: PairEncoders(encoders, bfloat16=low)(images())["s1"] for low in (False, True)}
    assert found[False].dtype == torch.float32 and found[True].dtype == torch.bfloat16
