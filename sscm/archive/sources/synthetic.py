"""A simulated archive of Sentinel-1 and Sentinel-2 pairs: nothing in it was observed.

Good enough to learn from and to measure on where no public data set can be had. Ground is drawn procedurally, both
sensors look at it, and labels are what lies there. Every pair says ``simulated`` in its properties.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import shapely

from sscm.archive.schema import Pair
from sscm.archive.sources.base import PairRef
from sscm.archive.sources.land_cover import CLASSES
from sscm.archive.sources.landscape import draw_ground
from sscm.archive.sources.sentinel_physics import relief, see_optical, see_radar
from sscm.archive.sources.simulated_scene import Scene, draw_scene, footprint
from sscm.config import SyntheticConfig
from sscm.errors import PairError
from sscm.sensors import Modality, sentinel1, sentinel2

VERSION = 1
"""Raised whenever the same seed gives other bytes."""
PATCHES_PER_SCENE = 25
"""Five by five; fewer in archives too small for twenty scenes of that size."""
LABEL_SHARE = 0.03
"""Least share of a patch that a class must cover to be a label."""

_SPLIT_STREAM, _SCENE_STREAM, _PATCH_STREAM = 0, 1, 2


class SyntheticSource:
    """Simulated pairs; the same bytes for the same settings and :data:`VERSION`, in any order and on any worker.

    Random streams and elementary functions are numpy's: another release of it, or another kind of processor, may round
    a pixel otherwise.

    Args:
        config: number of pairs, seed, size and splits.
    """

    name = "synthetic"
    simulated = True

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Sentinel-1 and Sentinel-2, patches of the configured size."""
        return sentinel1(self.config.pixels), sentinel2(self.config.pixels)

    @property
    def pairs_per_ref(self) -> int:
        """One."""
        return 1

    @property
    def patches_per_scene(self) -> int:
        """Pairs that share season, region, weather and geometry, and so a split."""
        return min(PATCHES_PER_SCENE, max(1, self.config.pairs // 20))

    def describe(self) -> Mapping[str, Any]:
        """Settings and version of the simulation."""
        return {**dataclasses.asdict(self.config), "version": VERSION, "simulated": True}

    def plan(self) -> Sequence[PairRef]:
        """One reference a pair; pairs of one scene are of one split."""
        splits = self._scene_splits()
        return [
            PairRef(key=f"sim_{index:06d}", split=splits[index // self.patches_per_scene], args={"index": index})
            for index in range(self.config.pairs)
        ]

    def read(self, ref: PairRef) -> Iterator[Pair]:
        """Simulate the pair of a reference.

        Raises:
            PairError: the reference is none of this source's.
        """
        index = ref.args.get("index")
        if type(index) is not int or not 0 <= index < self.config.pairs:
            raise PairError(ref.key, f"index {index!r}", f"a number from 0 to {self.config.pairs - 1}", pair_id=ref.key)
        number, slot = divmod(index, self.patches_per_scene)
        scene = _scene(self.config.seed, number, (ref.split == "test") if self.config.unseen_test else None)
        rng = _generator(self.config.seed, _PATCH_STREAM, index)
        ground = draw_ground(rng, self.config.pixels, scene)
        slopes = relief(rng, ground.side)
        s1, s2 = self.modalities
        optical = see_optical(rng, ground, slopes, scene, s2.groups)
        radar = see_radar(rng, ground, slopes, scene)
        shares = ground.cover_shares()
        yield Pair(
            pair_id=ref.key,
            split=ref.split,
            images={s1.groups[0].name: radar, **optical.images},
            datetimes={
                "s1": scene.s1_time + timedelta(seconds=slot),
                "s2": scene.s2_time + timedelta(seconds=slot),
            },
            geometry=shapely.to_wkb(shapely.box(*footprint(scene, slot, self.config.pixels * 10.0))),
            labels=[CLASSES[i] for i in np.flatnonzero(shares >= LABEL_SHARE)],
            properties={
                "simulated": "true",
                "simulator_version": str(VERSION),
                "scene": f"{number:05d}",
                "region": scene.region.name,
                "season": scene.season,
                "cloud_share": f"{optical.cloud_share:.3f}",
                "cover": json.dumps({CLASSES[i]: round(float(shares[i]), 4) for i in np.flatnonzero(shares)}),
            },
        )

    def _scene_splits(self) -> list[str]:
        """Split of each scene: shares as configured, to the nearest scene, and at least one where there are enough."""
        scenes = -(-self.config.pairs // self.patches_per_scene)
        counts = {}
        left = scenes - 1  # one is for training
        for split, share in (("test", self.config.test), ("validation", self.config.validation)):
            counts[split] = min(left, max(1, round(share * scenes))) if share > 0 else 0
            left -= counts[split]
        splits = ["train"] * scenes
        order = _generator(self.config.seed, _SPLIT_STREAM, 0).permutation(scenes)
        for place, scene in enumerate(order):
            if place < counts["test"]:
                splits[scene] = "test"
            elif place < counts["test"] + counts["validation"]:
                splits[scene] = "validation"
        return splits


def _generator(seed: int, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng([VERSION, seed, stream, number])


@lru_cache(maxsize=256)
def _scene(seed: int, number: int, unseen: bool | None) -> Scene:
    return draw_scene(_generator(seed, _SCENE_STREAM, number), number, unseen)
