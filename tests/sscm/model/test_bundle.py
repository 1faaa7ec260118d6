import json

import numpy as np
import pytest
import torch

from sscm.archive.manifest import read_manifest
from sscm.archive.schema import decode_group
from sscm.config import ModelConfig
from sscm.errors import BandMismatchError, BundleError, ConfigError, IntegrityError
from sscm.model.bundle import load_bundle, make_bundle, make_encoders, save_bundle, untrained
from sscm.sensors import sentinel1


@pytest.fixture
def bundle(archive):
    manifest = read_manifest(archive)
    config = ModelConfig(backbone="resnet10t", dimension=16, image_size=32)
    torch.manual_seed(0)
    made = make_bundle(
        "first",
        config=config,
        modalities=manifest.modalities,
        statistics=manifest.statistics,
        encoders=make_encoders(manifest.modalities, manifest.statistics, config),
        split="train",
        simulated=True,
        record={"epochs": []},
    )
    save_bundle(archive, made)
    return made


def images(archive, modality):
    with archive.parquet("archive", "shards", "test-0.parquet") as file:
        table = file.read()
    return {g.name: decode_group(table[g.name], g) for g in modality.groups}


def test_a_loaded_bundle_makes_the_same_embeddings(archive, bundle):
    loaded = load_bundle(archive)
    assert (loaded.name, loaded.fingerprint) == ("first", bundle.fingerprint)
    for modality in bundle.modalities:
        groups = images(archive, modality)
        embeddings = loaded.encode(modality.name, groups)
        assert embeddings.dtype == np.float32 and embeddings.shape == (24, 16)
        assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
        assert np.allclose(embeddings, bundle.encode(modality.name, groups), atol=1e-6)


def test_an_embedding_does_not_depend_on_its_batch(archive, bundle):
    groups = images(archive, bundle.modality("s2"))
    alone = bundle.encode("s2", {name: pixels[3:4] for name, pixels in groups.items()})
    assert np.allclose(alone, bundle.encode("s2", groups)[3:4], atol=1e-5)


def test_untrained_is_another_model_of_the_same_make(archive, bundle):
    fresh = untrained(bundle, seed=7)
    assert fresh.fingerprint != bundle.fingerprint
    assert fresh.fingerprint == untrained(bundle, seed=7).fingerprint
    assert fresh.encode("s1", images(archive, bundle.modality("s1"))).shape == (24, 16)


def test_no_data_pixels_do_not_matter_but_for_their_place(archive, bundle):
    encoder = bundle.encoder("s2")
    group = encoder.modality.groups[0]
    pixels = {g.name: torch.full((1, *g.shape), 1000.0) for g in encoder.modality.groups}
    pixels[group.name][0, :, :4, :4] = group.nodata
    prepared = encoder.prepare(pixels)
    assert torch.isfinite(prepared).all()
    mean = (encoder.mean[:, :4] - encoder.mean[:, :4]) / encoder.std[:, :4]
    assert torch.allclose(prepared[:, :4, 0, 0], mean[:, :, 0, 0])


def test_bands_it_does_not_know_are_refused_by_name(bundle):
    with pytest.raises(BandMismatchError, match=r"\['s2_10m'\].*s2_20m"):
        bundle.encode("s2", {"s2_10m": np.zeros((1, 4, 24, 24), np.uint16)})
    with pytest.raises(BandMismatchError, match="3 bands"):
        bundle.encode("s1", {"s1": np.zeros((1, 3, 24, 24), np.float32)})
    with pytest.raises(BundleError, match=r"no encoder for 'sar'; it has \['s1', 's2'\]"):
        bundle.encode("sar", {})


def test_an_archive_of_other_modalities_is_refused(archive, bundle):
    manifest = read_manifest(archive)
    bundle.require_bands_of(manifest, "archive")
    only_radar = type(manifest)(**{**vars(manifest), "modalities": (sentinel1(24),)})
    with pytest.raises(BandMismatchError):
        bundle.require_bands_of(only_radar, "archive")


def test_the_directory_describes_itself_and_holds_no_pickle(archive, bundle):
    assert archive.names("models", "first") == ["config.json", "weights.safetensors"]
    about = json.loads(archive.read_bytes("models", "first", "config.json"))
    assert about["simulated"] is True and about["trained_on_split"] == "train"
    assert about["modalities"][0]["groups"][0]["bands"][0]["name"] == "VV"
    assert "native" in about["statistics"]["resampling"]


def test_altered_weights_and_unknown_names_are_refused(archive, bundle):
    weights = archive.read_bytes("models", "first", "weights.safetensors")
    archive.write_bytes(weights[:-4], "models", "first", "weights.safetensors")
    with pytest.raises(IntegrityError, match=r"weights\.safetensors"):
        load_bundle(archive)
    with pytest.raises(BundleError, match=r"no such model; this workspace has \['first'\]"):
        load_bundle(archive, "second")


def test_no_model_yet(workspace):
    with pytest.raises(BundleError, match="`sscm train` makes one"):
        load_bundle(workspace)


def test_an_unknown_backbone_names_near_ones(archive):
    manifest = read_manifest(archive)
    with pytest.raises(ConfigError, match="near: resnet"):
        make_encoders(manifest.modalities, manifest.statistics, ModelConfig(backbone="resnet19"))
