"""One encoder embeds as the bundle does, in whatever batches."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serve.encoder import Encoder
from sscm.errors import BundleError, GenerationError


def groups_of(pair, modality):
    return {group.name: pair.images[group.name] for group in modality.groups}


def test_a_batch_of_callers_gets_what_the_bundle_gives(indexed, pair_factory):
    bundle = indexed.bundle
    encoder = Encoder(indexed.workspace, "small", bundle.fingerprint, "s2", threads=1)
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
    encoder = Encoder(indexed.workspace, "small", indexed.bundle.fingerprint, "s1", threads=1)
    assert list(encoder._bundle.encoders) == ["s1"]
    assert encoder.ready() == "small/s1"
    encoder.check_health()


def test_another_model_or_modality_than_the_index_s_is_refused(indexed):
    with pytest.raises(GenerationError, match="the index was made with 000000000000; build the index anew"):
        Encoder(indexed.workspace, "small", "0" * 64, "s1", threads=1)
    with pytest.raises(BundleError, match="no encoder for 's9'"):
        Encoder(indexed.workspace, "small", indexed.bundle.fingerprint, "s9", threads=1)
