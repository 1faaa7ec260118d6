"""The plot of an experiment."""

import io

import numpy as np
from PIL import Image

from sscm.experiment.plot import plot_png


def test_a_picture_with_marks(results):
    picture = Image.open(io.BytesIO(plot_png(results)))
    assert picture.format == "PNG" and picture.width > 600
    colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert [0x1F, 0x5F, 0xA8] in colours.tolist() and [0xC8, 0x50, 0x1E] in colours.tolist()
