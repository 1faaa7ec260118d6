"""Integer products, by int8 instructions and by float32."""

import time

import pytest
import torch

from sscm.index import product
from sscm.index.product import MOST_TERMS, float_product, int8_product, int8_works


@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("queries", [1, 5, 32])
def test_the_same_integers_either_way(monkeypatch, pays, queries):
    monkeypatch.setattr(product, "int8_pays", lambda: pays)
    monkeypatch.setattr(product, "FLOAT_ROWS", 64)
    generator = torch.Generator().manual_seed(queries)
    left = torch.randint(-127, 128, (queries, 64), generator=generator, dtype=torch.int8)
    right = torch.randint(-127, 128, (200, 64), generator=generator, dtype=torch.int8)
    out = torch.empty(queries, 200, dtype=torch.int32)
    int8_product(left, right, out)
    assert torch.equal(out, left.int() @ right.int().T)


@pytest.mark.parametrize("width", [MOST_TERMS // 16 * 16, 4096])
def test_long_rows_of_the_largest_values_are_exact_in_floats(monkeypatch, width):
    monkeypatch.setattr(product, "int8_pays", lambda: False)
    out = torch.empty(1, 8, dtype=torch.int32)
    int8_product(torch.full((1, width), 127, dtype=torch.int8), torch.full((8, width), 127, dtype=torch.int8), out)
    assert out.unique().tolist() == [127 * 127 * width]


def test_a_product_that_is_missing_or_wrong_is_not_used(monkeypatch):
    def missing(*args, **kwargs):
        raise NotImplementedError

    def wrong(left, right, out):
        out.fill_(0)

    for broken in (missing, wrong):
        monkeypatch.setattr(torch, "_int_mm", broken)
        int8_works.cache_clear()
        assert not int8_works("cpu")
    int8_works.cache_clear()


@pytest.mark.parametrize("slow", ["int8", "float32"])
def test_the_faster_one_is_used(monkeypatch, slow):
    real = torch._int_mm

    def late(left, right, out=None):
        time.sleep(0.02)
        return real(left, right, out=out)

    monkeypatch.setattr(product, "int8_works", lambda device: True)
    if slow == "int8":
        monkeypatch.setattr(torch, "_int_mm", late)
    else:
        monkeypatch.setattr(product, "float_product", lambda *given: time.sleep(0.5))
    product.int8_pays.cache_clear()
    assert product.int8_pays() == (slow == "float32")
    product.int8_pays.cache_clear()


def test_what_was_multiplied_in_inference_mode_multiplies_outside_of_it():
    left, right = torch.ones(2, 16, dtype=torch.int8), torch.ones(8, 16, dtype=torch.int8)
    out = torch.empty(2, 8, dtype=torch.int32)
    for within in (True, False):
        product._memory.__dict__.clear()
        with torch.inference_mode(within):
            float_product(left, right, out)
        with torch.inference_mode(not within):
            float_product(left, right, out)
        assert out.unique().tolist() == [16]
