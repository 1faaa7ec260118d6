"""One encoder embeds as the bundle does, in whatever batches."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest

from serve.encoder import Encoder
from sscm.archive.schema import decode_group
from sscm.errors import BundleError, GenerationError
from sscm.index.adapt import SampleBatches, draw_sample, write_adaptation
from sscm.index.generation import commit, open_segments
from sscm.model.adaptation import adapt, estimate_adaptation
from sscm.model.bundle import save_bundle


def groups_of(pair, modality):
    return {group.name: pair.images[group.name] for group in modality.groups}


def test_a_batch_of_callers_gets_what_the_bundle_gives(indexed, pair_factory):
    bundle = indexed.bundle
    encoder = Encoder(indexed.workspace, 1, "s2", threads=1)
    images = [groups_of(pair_factory(i), bundle.modality("s2")) for i in range(5)]

    async def ask():
        return await asyncio.gather(*(encoder.encode(image) for image in images))

    answers = asyncio.run(ask())
    assert sum(1 / size for _, size in answers) == pytest.approx(round(sum(1 / size for _, size in answers)))
    for (vector, _), image in zip(answers, images, strict=True):
        alone = bundle.encode("s2", {name: pixels[None] for name, pixels in image.items()})[0]
        np.testing.assert_allclose(vector, alone, atol=1e-5)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_it_holds_no_other_modality(indexed):
    encoder = Encoder(indexed.workspace, 1, "s1", threads=1)
    assert list(encoder._bundle.encoders) == ["s1"]
    encoder.check()


def test_an_image_alone_gets_the_vector_that_the_adapted_archive_has(
    workspace, archive_factory, bundle_factory, index_factory
):
    manifest = archive_factory(workspace, 32, 16, 48)
    bundle = bundle_factory(manifest)
    save_bundle(workspace, bundle)
    sample = draw_sample(manifest.shards, "statistics")
    batches = SampleBatches(workspace=workspace, modalities=manifest.modalities, sample=sample, batch_size=32)
    adaptation = estimate_adaptation(bundle, batches, "statistics")
    info = write_adaptation(workspace, adaptation, sample)
    plain = index_factory(workspace, manifest, adapt(bundle, adaptation), per_segment=9)
    generation = dataclasses.replace(plain, number=2, adaptation=info)
    commit(workspace, generation)
    (segment,) = open_segments(workspace, generation)
    for name in ("s1", "s2"):
        encoder = Encoder(workspace, 2, name, threads=1)
        unadapted = Encoder(workspace, 1, name, threads=1)
        for place in (0, 40, 95):
            file, row = (segment.rows[column][place].as_py() for column in ("archive_file", "archive_row"))
            one = workspace.parquet("archive", *file.split("/")).read().slice(row, 1)
            image = {group.name: decode_group(one[group.name], group)[0] for group in bundle.modality(name).groups}
            stored = segment.vectors(name)[place]
            np.testing.assert_allclose(encoder.encode_batch([image])[0], stored, atol=1e-5)
            assert np.abs(unadapted.encode_batch([image])[0] - stored).max() > 0.05


def test_another_model_or_modality_than_the_index_s_is_refused(
    indexed, workspace, archive_factory, bundle_factory, index_factory
):
    with pytest.raises(GenerationError, match=r"no such generation; the index has \[1\]"):
        Encoder(indexed.workspace, 7, "s1", threads=1)
    with pytest.raises(BundleError, match="no encoder for 's9'"):
        Encoder(indexed.workspace, 1, "s9", threads=1)
    manifest = archive_factory(workspace, 4, 4, 4)
    bundle = bundle_factory(manifest)
    save_bundle(workspace, bundle)
    index_factory(workspace, manifest, dataclasses.replace(bundle, fingerprint="0" * 64), per_segment=9)
    with pytest.raises(GenerationError, match="made with 000000000000; build the index anew"):
        Encoder(workspace, 1, "s1", threads=1)
