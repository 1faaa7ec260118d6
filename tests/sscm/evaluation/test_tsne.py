import numpy as np
import pytest

from sscm.evaluation.tsne import neighbour_probabilities, principal_components, tsne


def groups(rng, each=20, dimension=16):
    centres = 5 * rng.normal(size=(3, dimension))
    return (np.repeat(centres, each, axis=0) + rng.normal(size=(3 * each, dimension))).astype(np.float32)


def test_neighbours_stay_neighbours():
    vectors = groups(np.random.default_rng(0))
    places = tsne(vectors, perplexity=10)
    assert places.shape == (60, 2) and places.dtype == np.float32 and np.isfinite(places).all()
    assert places.mean(axis=0) == pytest.approx([0, 0], abs=1e-3)
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    group = np.arange(60) // 20
    assert (group[np.argsort(distances, axis=1)[:, :5]] == group[:, None]).mean() > 0.98
    assert np.array_equal(places, tsne(vectors, perplexity=10))


def test_probabilities_have_the_perplexity():
    vectors = groups(np.random.default_rng(1))
    joint = neighbour_probabilities(vectors, 10)
    assert joint.sum() == pytest.approx(1, abs=1e-5)
    assert np.allclose(joint, joint.T) and not joint.diagonal().any()
    # All at the same distance from each other: all are as likely.
    equal = neighbour_probabilities(np.eye(6, dtype=np.float32), 5)
    assert equal[~np.eye(6, dtype=bool)] == pytest.approx(1 / 30)


@pytest.mark.parametrize("images", [1, 2, 4, 9])
def test_few_points_and_points_that_coincide(images):
    assert np.isfinite(tsne(np.random.default_rng(2).normal(size=(images, 8)).astype(np.float32))).all()
    assert np.isfinite(tsne(np.ones((images, 8), np.float32))).all()


def test_principal_components_are_those_of_the_covariance():
    vectors = groups(np.random.default_rng(3))
    found = principal_components(vectors)
    values = np.linalg.eigvalsh(np.cov(vectors.T.astype(float)))
    assert found.var(axis=0, ddof=1) == pytest.approx(values[::-1][:2], rel=1e-4)
    assert np.cov(found.T)[0, 1] == pytest.approx(0, abs=1e-3)
