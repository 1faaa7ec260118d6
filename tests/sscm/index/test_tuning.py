"""Tuning: an effort that does no better than scanning all rows is none."""

from dataclasses import dataclass

import numpy as np
import pytest

from sscm.index.tuning import HeldOut, tune

ROWS, QUERIES, DIMENSION = 4_000, 100, 16


@dataclass
class Codes:
    """An index whose codes tell as much as is asked: the true products, or nothing."""

    vectors: np.ndarray
    blind: bool
    rows: int = ROWS
    count: int = 256

    def propose(self, queries, probes, most):
        products = queries @ self.vectors.T
        estimates = np.full_like(products, 1e30) if self.blind else products
        found = np.argsort(-estimates, axis=1, kind="stable")[:, :most]
        return np.take_along_axis(estimates, found, axis=1), found


@pytest.mark.parametrize("blind", [True, False])
def test_codes_that_tell_nothing_are_no_index(blind):
    rng = np.random.default_rng(0)
    vectors, queries = (rng.standard_normal((n, DIMENSION)).astype(np.float32) for n in (ROWS, QUERIES))
    answers = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    kinds = {"s1": HeldOut(queries=queries, answers=answers, own=np.full(QUERIES, -1))}
    effort = tune(Codes(vectors, blind), vectors, 0.99, kinds)
    assert (effort is None) == blind
