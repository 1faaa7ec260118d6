import torch

from sscm.model.augment import SYMMETRIES, apply_symmetries, random_symmetries


def test_both_images_of_a_pair_are_turned_alike():
    marker = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(SYMMETRIES, 1, 1, 1)
    turned = apply_symmetries({"s1": marker, "s2": 100 + marker.repeat(1, 3, 1, 1)}, torch.arange(SYMMETRIES))
    assert torch.equal(turned["s2"][:, 1:2] - 100, turned["s1"])


def test_the_eight_symmetries_are_all_different_and_lose_no_pixel():
    marker = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(SYMMETRIES, 1, 1, 1)
    turned = apply_symmetries({"s1": marker}, torch.arange(SYMMETRIES))["s1"]
    assert len({tuple(image.flatten().tolist()) for image in turned}) == SYMMETRIES
    assert all(sorted(image.flatten().tolist()) == list(range(16)) for image in turned)
    assert torch.equal(turned[0], marker[0])


def test_the_draw_is_seeded():
    draws = [random_symmetries(50, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    assert set(draws[0].tolist()) == set(range(SYMMETRIES))
