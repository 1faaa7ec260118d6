"""A growing folder of images with a table and a declaration, as `sscm ingest pairs` reads it."""

import numpy as np

from sscm.archive.sources.pairs import PairsSource
from sscm.config import PairsConfig

DECLARATION = """
[radar]
title = "Grey radar"
[radar.groups.radar]
bands = ["VV"]
dtype = "uint8"
unit = "digital number"
PIXELS

[optical]
title = "Optical"
[optical.groups.optical]
bands = ["R", "G", "B"]
dtype = "uint8"
unit = "digital number"
PIXELS
"""


class Images:
    """A growing folder of images, with its table and declaration."""

    def __init__(self, folder, side=32):
        self.folder = folder
        self.side = side
        self.lines = ["pair_id,radar,optical,split"]
        self.tile = None
        folder.mkdir()
        self.declare(DECLARATION)

    def declare(self, text, pixels=True):
        side = f"pixels = {self.side}" if pixels else ""
        (self.folder / "modalities.toml").write_text(text.replace("PIXELS", side))

    def grow(self, first, last, split=None):
        for number in range(first, last):
            rng = np.random.default_rng(number)
            for name, bands in (("r", 1), ("o", 3)):
                image = rng.integers(1, 255, (bands, self.side, self.side), np.uint8)
                np.save(self.folder / f"{name}{number}.npy", image)
            dealt = split or ("test" if number % 4 == 0 else "train")
            self.lines.append(f"p{number:02d},r{number}.npy,o{number}.npy,{dealt}")
        (self.folder / "pairs.csv").write_text("\n".join(self.lines) + "\n")

    @property
    def source(self):
        table, declared = str(self.folder / "pairs.csv"), str(self.folder / "modalities.toml")
        return PairsSource(PairsConfig(table=table, modalities=declared, tile=self.tile))

    def pixels(self, numbers, name="r"):
        return np.concatenate([np.load(self.folder / f"{name}{number}.npy").ravel() for number in numbers])
