"""Gradient caching against the plain computation."""

import copy

import pytest
import torch
from torch import nn

from sscm.config import ObjectiveConfig
from sscm.model.gradient_cache import cached_backward, micro_batches
from sscm.model.objective import joint_loss

OBJECTIVE = ObjectiveConfig(w_mde=0.5, w_isp=0.5)


class Toys(nn.Module):
    """Two encoders in one module."""

    def __init__(self, *extra):
        super().__init__()
        torch.manual_seed(0)
        self.nets = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Conv2d(bands, 4, 3), *(make() for make in extra), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6)
                )
                for name, bands in (("s1", 2), ("s2", 3))
            }
        )
        self.double()

    def forward(self, images):
        return {name: net(images[name]) for name, net in self.nets.items()}


def batch(rows):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(rows, bands, 6, 6, generator=generator, dtype=torch.float64)
        for name, bands in (("s1", 2), ("s2", 3))
    }


def loss_of(projections):
    return joint_loss(projections, OBJECTIVE)


def plain_backward(model, images, parts):
    """The same loss with all graphs at once; each part is a batch of its own to batch norm and dropout."""
    projected = [model(part) for part in parts]
    losses = loss_of({name: torch.cat([part[name] for part in projected]) for name in images})
    losses.total.backward()
    return losses


def assert_same(first, second, losses, expected):
    torch.testing.assert_close(losses.total.detach(), expected.total.detach(), rtol=1e-12, atol=0)
    for (name, mine), other in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-13, msg=name)
    for (name, mine), other in zip(first.named_buffers(), second.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=0, msg=name)


@pytest.mark.parametrize("micro_batch", [2, 3, 5, 12, 100])
def test_the_gradient_is_that_of_the_whole_batch(micro_batch):
    cached, plain, images = Toys(), Toys(), batch(13)
    losses = cached_backward(cached, images, loss_of, micro_batch)
    assert_same(cached, plain, losses, plain_backward(plain, images, [images]))


def test_batch_norm_sees_micro_batches_and_counts_them_once():
    cached, images = Toys(lambda: nn.BatchNorm2d(4)), batch(12)
    plain = copy.deepcopy(cached)
    losses = cached_backward(cached, images, loss_of, 4)
    assert_same(cached, plain, losses, plain_backward(plain, images, micro_batches(images, 4)))
    assert int(cached.nets["s1"][1].num_batches_tracked) == 3


def test_both_passes_draw_the_same_random_numbers():
    cached, images = Toys(lambda: nn.Dropout(0.5)), batch(12)
    plain = copy.deepcopy(cached)
    torch.manual_seed(9)
    losses = cached_backward(cached, images, loss_of, 4)
    after = torch.get_rng_state()
    torch.manual_seed(9)
    assert_same(cached, plain, losses, plain_backward(plain, images, micro_batches(images, 4)))
    assert torch.equal(after, torch.get_rng_state())


def test_gradients_add_up_as_backward_does():
    twice, once, images = Toys(), Toys(), batch(8)
    cached_backward(once, images, loss_of, 4)
    for _ in range(2):
        cached_backward(twice, images, loss_of, 4)
    for mine, other in zip(twice.parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, 2 * other.grad)


def test_no_micro_batch_holds_more_rows_than_asked_nor_one_alone():
    for rows in range(2, 40):
        sizes = [len(part["s1"]) for part in micro_batches(batch(rows), 4)]
        assert sum(sizes) == rows and min(sizes) >= 2 and max(sizes) <= 4
    assert [len(part["s1"]) for part in micro_batches(batch(3), 2)] == [3]  # rather one more than one alone


def test_only_one_micro_batch_holds_a_graph_at_a_time():
    model, images, rows = Toys(), batch(12), []
    model.register_forward_hook(lambda m, args, out: rows.append((len(out["s1"]), out["s1"].requires_grad)))
    cached_backward(model, images, loss_of, 4)
    assert rows == [(4, False)] * 3 + [(4, True)] * 3
