import torch

from sscm.model.augment import SYMMETRIES, apply_crops, apply_symmetries, augment, random_crops, random_symmetries


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


def test_crops_lie_inside_the_image_and_keep_the_least_share():
    maps = random_crops(500, 0.5, torch.Generator().manual_seed(0))
    spans, middles = torch.stack([maps[:, 0, 0], maps[:, 1, 1]], dim=1), maps[:, :, 2]
    assert ((middles.abs() + spans) <= 1 + 1e-6).all()
    shares = spans.prod(dim=1)
    assert 0.4 < shares.min() < 0.55 and shares.max() > 0.9  # a side that would leave the image is cut
    assert (maps[:, 0, 1] == 0).all() and (maps[:, 1, 0] == 0).all()


def test_both_images_of_a_pair_are_cropped_alike():
    columns = torch.linspace(-1, 1, 32).expand(6, 1, 32, 32)
    images = {"s1": columns, "s2": torch.cat([columns, columns.transpose(2, 3)], dim=1)}
    maps = random_crops(6, 0.3, torch.Generator().manual_seed(1))
    cropped = apply_crops(images, maps)
    assert torch.equal(cropped["s1"], cropped["s2"][:, :1])
    # What runs from −1 to 1 across the image is, after cropping, the place in the image that each pixel came from.
    middle = cropped["s2"][:, :, 15:17, 15:17].mean(dim=(2, 3)) * 31 / 32
    assert torch.allclose(middle, maps[:, :, 2], atol=1e-2)


def test_the_whole_image_as_a_crop_is_the_image():
    images = {"s1": torch.rand(3, 2, 16, 16)}
    whole = apply_crops(images, random_crops(3, 1.0, torch.Generator().manual_seed(0)) * 0 + torch.eye(2, 3))
    assert torch.allclose(whole["s1"], images["s1"], atol=1e-5)


def test_augmentation_is_seeded_and_keeps_the_shape():
    images = {"s1": torch.rand(5, 2, 16, 16), "s2": torch.rand(5, 3, 16, 16)}
    first, again, other = (augment(images, 0.6, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert all(torch.equal(first[name], again[name]) and first[name].shape == images[name].shape for name in images)
    assert not torch.equal(first["s1"], other["s1"])
    uncropped = augment(images, 1.0, torch.Generator().manual_seed(4))["s1"]
    assert torch.equal(uncropped.flatten(1).sort().values, images["s1"].flatten(1).sort().values)
