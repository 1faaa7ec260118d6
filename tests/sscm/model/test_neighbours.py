"""The nearest other image, against a loop."""

import pytest
import torch
from torch.nn import functional as F

from sscm.model.neighbours import nearest_other


def unit(rows, dimension, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dimension, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("elements", [2**24, 12 * 2, 1])
def test_nearest_other_against_a_loop_and_never_itself(elements):
    batch = unit(12, 4, 0)
    batch[5] = batch[3]  # a duplicate is a neighbour, the image itself is not
    for start in (0, 4, 8):
        found = nearest_other(batch[start : start + 4], batch, start, elements)
        for row in range(4):
            others = [(float(batch[start + row] @ batch[j]), j) for j in range(12) if j != start + row]
            assert float(batch[start + row] @ batch[found[row]]) == pytest.approx(max(others)[0])
            assert int(found[row]) != start + row
    assert int(nearest_other(batch[3:4], batch, 3)[0]) == 5
    assert nearest_other(batch[:0], batch, 0).shape == (0,)
