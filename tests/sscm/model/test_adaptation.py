"""Encoders adapted to other images than they were trained on: exact statistics, centres, and the gap that closes."""

import dataclasses

import numpy as np
import pytest
import torch

from sscm.archive.statistics import BandStatistics
from sscm.config import ModelConfig
from sscm.errors import BundleError, ConfigError, IntegrityError
from sscm.model.adaptation import Adaptation, adapt, estimate_adaptation, find_centre, norm_layers, passes
from sscm.model.bundle import load_bundle, make_bundle, make_encoders, save_bundle
from sscm.model.encoders import make_backbone
from sscm.sensors import Band, BandGroup, Modality

PIXELS = 16
COUNT = 128


def grey(name):
    bands = (Band(name="grey"),)
    group = BandGroup(name=name, bands=bands, height=PIXELS, width=PIXELS, dtype="float32", unit="1")
    return Modality(name=name, title=name, groups=(group,))


def make(backbone="resnet10t", norm="batch"):
    modalities = (grey("a"), grey("b"))
    config = ModelConfig(backbone=backbone, dimension=8, image_size=16, norm=norm)
    statistics = {f"{name}/grey": BandStatistics(1, 0.0, 1.0, 0.0, 1.0) for name in "ab"}
    torch.manual_seed(0)
    return make_bundle(
        "toy",
        config=config,
        modalities=modalities,
        statistics=statistics,
        encoders=make_encoders(modalities, statistics, config),
        split="train",
        simulated=True,
        record={},
    )


def draw(count, shift, seed):
    """Smooth images whose brightness and contrast are not those that the encoders were trained on."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 1, 4, 4)).repeat(PIXELS // 4, axis=2).repeat(PIXELS // 4, axis=3)
    return (coarse * (1 + shift) + shift + 0.1 * rng.standard_normal((count, 1, PIXELS, PIXELS))).astype(np.float32)


IMAGES = {"a": draw(COUNT, 0.8, 1), "b": draw(COUNT, -0.7, 2)}


@pytest.fixture(scope="module")
def adaptation():
    """Of the toy model to all images, statistics too."""
    return estimate_adaptation(make(), batches(64), "statistics")


def batches(size, images=IMAGES):
    count = max(len(pixels) for pixels in images.values())
    return [
        {name: {name: pixels[start : start + size]} for name, pixels in images.items()}
        for start in range(0, count, size)
    ]


def embed(bundle):
    return {name: bundle.encode(name, {name: pixels}) for name, pixels in IMAGES.items()}


def test_statistics_are_those_of_one_big_batch():
    """The first layer's are so exactly, however the batches are cut; deeper ones closely with batches of like size."""
    bundle = make()
    encoder = bundle.encoder("a").train()
    for layer in norm_layers(encoder).values():
        layer.momentum = 1.0
    with torch.no_grad():
        encoder.project(encoder.prepare({"a": torch.from_numpy(IMAGES["a"])}))
    wanted = {name: (layer.running_mean, layer.running_var) for name, layer in norm_layers(encoder).items()}
    first, *deeper = wanted
    for size, tolerance in ((COUNT, 1e-4), (64, 0.1), (40, None)):
        found = estimate_adaptation(make(), batches(size), "statistics").statistics
        assert set(found) == {
            f"{name}.{layer}.running_{which}" for name in "ab" for layer in wanted for which in ("mean", "var")
        }
        mean, variance = wanted[first]
        torch.testing.assert_close(found[f"a.{first}.running_mean"], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[f"a.{first}.running_var"], variance, rtol=1e-4, atol=1e-5)
        for layer in deeper if tolerance else ():
            mean, variance = wanted[layer]
            apart = (found[f"a.{layer}.running_mean"] - mean).abs() / variance.sqrt()
            assert apart.mean() < tolerance
            torch.testing.assert_close(
                found[f"a.{layer}.running_var"].log(), variance.log(), rtol=0, atol=10 * tolerance
            )


def test_embeddings_are_centred_and_the_gap_falls(adaptation):
    bundle = make()
    before = {name: value.clone() for name, value in bundle.encoders.state_dict().items()}
    plain = embed(bundle)
    adapted = adapt(bundle, adaptation)
    assert adaptation.images == {"a": COUNT, "b": COUNT} and adapted.adapted == adaptation.fingerprint
    found = embed(adapted)

    without_centre = dataclasses.replace(adaptation, centres={})
    raw = embed(adapt(bundle, without_centre))
    for name in "ab":
        assert np.linalg.norm(found[name].mean(axis=0)) < 0.01
        shifted = raw[name] - adaptation.centres[name].numpy()
        np.testing.assert_allclose(found[name], shifted / np.linalg.norm(shifted, axis=1, keepdims=True), atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(found[name], axis=1), 1, atol=1e-5)

    def gap(embeddings):
        return np.linalg.norm(embeddings["a"].mean(axis=0) - embeddings["b"].mean(axis=0))

    assert gap(found) < 0.02 < gap(plain)
    # The bundle itself is as it was, in its weights and in what it gives.
    assert all(torch.equal(value, before[name]) for name, value in bundle.encoders.state_dict().items())
    np.testing.assert_array_equal(embed(bundle)["a"], plain["a"])


def test_centring_alone_keeps_the_trained_statistics():
    """One pass, over what can be gone through once only."""
    bundle = make()
    adaptation = estimate_adaptation(bundle, iter(batches(64)), "centre")
    assert adaptation.kind == "centre" and not adaptation.statistics and adaptation.images == {"a": COUNT, "b": COUNT}
    plain, found = embed(bundle), embed(adapt(bundle, adaptation))
    for name in "ab":
        shifted = plain[name] - adaptation.centres[name].numpy()
        np.testing.assert_allclose(found[name], shifted / np.linalg.norm(shifted, axis=1, keepdims=True), atol=1e-3)
        assert np.linalg.norm(found[name].mean(axis=0)) < 0.01


def skewed(count, dimension):
    """Unit vectors in a narrow cone, a fifth of them in a tighter one of their own."""
    rng = np.random.default_rng(dimension)
    points = rng.standard_normal((count, dimension)) + 3 * rng.standard_normal(dimension)
    points[: count // 5] *= 0.2
    points[: count // 5, 0] += 9
    return torch.from_numpy(points / np.linalg.norm(points, axis=1, keepdims=True)).float()


@pytest.mark.parametrize(("count", "dimension"), [(64, 4), (300, 8), (1000, 64)])
def test_around_the_centre_directions_have_a_mean_of_zero(count, dimension):
    points = skewed(count, dimension)

    def left(centre):
        return float(torch.nn.functional.normalize(points - centre).mean(dim=0).norm())

    centre = find_centre(points)
    assert left(centre) < 0.01 < 0.03 < left(points.mean(dim=0))
    # The point of the smallest summed distance, and the same for rotated points, rotated.
    distance = (points - centre).norm(dim=1).sum()
    rotation = torch.linalg.qr(torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(0)))[0]
    torch.testing.assert_close(find_centre(points @ rotation), centre @ rotation, rtol=0, atol=1e-4)
    for step in 0.05 * rotation:
        assert (points - centre - step).norm(dim=1).sum() > distance


def test_where_most_images_are_the_same_one_the_mean_is_taken():
    points = skewed(100, 8)
    points[:60] = points[0]
    torch.testing.assert_close(find_centre(points), points.mean(dim=0))
    same = points[:1].expand(70, -1)
    torch.testing.assert_close(find_centre(same), points[0])


def test_one_image_needs_nothing_but_itself(adaptation):
    adapted = adapt(make(), adaptation)
    alone = adapted.encode("a", {"a": IMAGES["a"][7:8]})
    np.testing.assert_allclose(alone, embed(adapted)["a"][7:8], atol=1e-5)


def test_training_knows_no_centre(adaptation):
    bundle = make()
    encoder = adapt(bundle, dataclasses.replace(adaptation, statistics={})).encoder("a")
    pixels = torch.from_numpy(IMAGES["a"][:8])
    with torch.no_grad():
        trained = encoder.train()(encoder.prepare({"a": pixels}))
        plain = bundle.encoder("a").train()(bundle.encoder("a").prepare({"a": pixels}))
    torch.testing.assert_close(trained, plain)


def test_as_a_file_and_back(adaptation):
    again = Adaptation.from_bytes(adaptation.to_bytes(), "file")
    assert (again.bundle, again.kind, again.images) == (adaptation.bundle, "statistics", adaptation.images)
    assert again.fingerprint == adaptation.fingerprint and again.to_bytes() == adaptation.to_bytes()
    assert estimate_adaptation(make(), batches(64), "statistics").fingerprint == adaptation.fingerprint
    fewer = batches(64, {name: pixels[:64] for name, pixels in IMAGES.items()})
    assert estimate_adaptation(make(), fewer, "statistics").fingerprint != adaptation.fingerprint
    assert dataclasses.replace(adaptation, kind="centre").fingerprint != adaptation.fingerprint
    # Of before there was a choice; and of a kind that is none.
    with pytest.raises(IntegrityError, match=r"here is not a whole adaptation file .*kind"):
        Adaptation.from_bytes(retold(adaptation, b'"unkn": "statistics"'), "here")
    with pytest.raises(IntegrityError, match=r"here is not a whole adaptation file .*kind 'statistixx'"):
        Adaptation.from_bytes(retold(adaptation, b'"kind": "statistixx"'), "here")


def retold(adaptation, kind):
    """The file of an adaptation with other words, of the same length, where its kind is told."""
    told = b'"kind": "statistics"'.replace(b'"', b'\\"')
    assert told in adaptation.to_bytes()
    return adaptation.to_bytes().replace(told, kind.replace(b'"', b'\\"'))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:100], lambda data: data[:-1], lambda _: b"", lambda _: b"{}" * 9]
)
def test_a_damaged_file_is_named(damage, adaptation):
    data = adaptation.to_bytes()
    with pytest.raises(IntegrityError, match=r"here\.safetensors"):
        Adaptation.from_bytes(damage(data), "here.safetensors")


@pytest.mark.parametrize("count", [0, 63])
def test_too_few_images_of_one_modality_leave_all_as_trained(count):
    """Centred queries of one modality must not meet images of another that are not."""
    bundle = make()
    images = {"a": IMAGES["a"][:64], "b": IMAGES["b"][:count]}
    given = [{name: groups for name, groups in batch.items() if len(groups[name])} for batch in batches(32, images)]
    adaptation = estimate_adaptation(bundle, given, "statistics")
    assert adaptation.images == adaptation.centres == adaptation.statistics == {}
    again = Adaptation.from_bytes(adaptation.to_bytes(), "file")
    for name, vectors in embed(adapt(bundle, again)).items():
        np.testing.assert_array_equal(vectors, embed(bundle)[name])


def test_images_that_are_not_finite_do_not_count():
    spoilt = {name: pixels.copy() for name, pixels in IMAGES.items()}
    spoilt["a"][5, 0, 3, 3] = np.nan
    sound = {"a": np.delete(IMAGES["a"], 5, axis=0), "b": IMAGES["b"]}
    found = estimate_adaptation(make(), batches(COUNT, spoilt), "statistics")
    assert found.images == {"a": COUNT - 1, "b": COUNT}
    assert found.fingerprint == estimate_adaptation(make(), batches(COUNT, sound), "statistics").fingerprint


def test_another_bundle_s_adaptation_is_refused(adaptation):
    with pytest.raises(BundleError, match=r"000000000000; model toy has .*; run `sscm index` again"):
        adapt(make(), dataclasses.replace(adaptation, bundle="0" * 64))
    with pytest.raises(BundleError, match=r"adaptation of a\.centre, \[3\]: model toy has shape \[8\]"):
        adapt(make(), dataclasses.replace(adaptation, centres={"a": torch.zeros(3)}))
    with pytest.raises(BundleError, match=r"adaptation of a\.bn9, \[3\]: model toy has no such tensor"):
        adapt(make(), dataclasses.replace(adaptation, statistics={"a.bn9": torch.zeros(3)}))
    with pytest.raises(BundleError, match="no encoder for 'c'"):
        estimate_adaptation(make(), [{"c": {"c": IMAGES["a"]}}], "centre")


def test_nothing_is_adapted_twice_or_saved_adapted(workspace, adaptation):
    adapted = adapt(make(), adaptation)
    for twice in (lambda: adapt(adapted, adaptation), lambda: estimate_adaptation(adapted, batches(64), "centre")):
        with pytest.raises(BundleError, match="adapted already"):
            twice()
    with pytest.raises(BundleError, match="is adapted to an archive; save the one that was trained"):
        save_bundle(workspace, adapted)
    with pytest.raises(ValueError, match="got an iterator"):
        estimate_adaptation(make(), iter(batches(64)), "statistics")


def test_an_encoder_that_diverged():
    bundle = make()
    bundle.encoders["b"].head.bias.data[0] = float("nan")
    with pytest.raises(BundleError, match="not finite: it diverged"):
        estimate_adaptation(bundle, batches(64), "centre")


@pytest.mark.parametrize(("backbone", "norm"), [("resnet10t", "group"), ("vit_tiny_patch16_224", "batch")])
def test_without_batch_norm_there_is_only_the_centre(backbone, norm):
    bundle = make(backbone, norm)
    assert passes(bundle, "statistics") == passes(make(), "centre") == 1 and passes(make(), "statistics") == 2
    adaptation = estimate_adaptation(bundle, batches(64), "statistics")
    assert not adaptation.statistics and set(adaptation.centres) == {"a", "b"}
    found = embed(adapt(bundle, adaptation))["a"]
    plain = embed(bundle)["a"]
    shifted = plain - adaptation.centres["a"].numpy()
    np.testing.assert_allclose(found, shifted / np.linalg.norm(shifted, axis=1, keepdims=True), atol=1e-3)


def test_group_norm(workspace):
    bundle = make(norm="group")
    kinds = {type(layer).__name__ for layer in bundle.encoders.modules()}
    assert not [kind for kind in kinds if "BatchNorm" in kind]
    save_bundle(workspace, bundle)
    loaded = load_bundle(workspace, "toy")
    assert loaded.config.norm == "group"
    np.testing.assert_allclose(embed(loaded)["a"], embed(bundle)["a"], atol=1e-6)
    for name in ("mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto", "resnet50_gn"):
        with pytest.raises(ConfigError, match=rf"'{name}' cannot be made with group norm; choose norm = 'batch'"):
            make_backbone(name, 3, 64, "group")


def test_a_bundle_written_before_there_was_a_norm(workspace):
    bundle = make()
    save_bundle(workspace, bundle)
    about = workspace.read_json("models", "toy", "config.json")
    del about["config"]["norm"]
    workspace.write_json(about, "models", "toy", "config.json")
    loaded = load_bundle(workspace, "toy")
    assert loaded.config.norm == "batch" and loaded.fingerprint == bundle.fingerprint
    np.testing.assert_allclose(embed(loaded)["a"], embed(bundle)["a"], atol=1e-6)
