"""What simulated ground is made of: reflectance spectra and radar backscatter of some thirty surfaces.

The figures are plausible round values in the range that Sentinel products show; they serve a simulation and are no
spectral library. A land-cover class is no surface: a town is roofs, streets and gardens, an orchard crowns and floor.
"""

from __future__ import annotations

import enum

import numpy as np

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""Order of the spectra: by wavelength, the twelve bands of Sentinel-2 L2A."""
NANOMETRES = (443, 490, 560, 665, 705, 740, 783, 842, 865, 945, 1610, 2190)
"""Central wavelength of each."""


class Surface(enum.IntEnum):
    """A material, as a sensor sees it."""

    GREEN_CROP = 0
    TALL_CROP = enum.auto()
    RIPE_CROP = enum.auto()
    STUBBLE = enum.auto()
    SOIL = enum.auto()
    PALE_SOIL = enum.auto()
    GRASS = enum.auto()
    DRY_GRASS = enum.auto()
    BROADLEAF = enum.auto()
    BARE_TREES = enum.auto()
    CONIFER = enum.auto()
    SHRUB = enum.auto()
    BARE_SHRUB = enum.auto()
    HEATH = enum.auto()
    REED = enum.auto()
    DRY_REED = enum.auto()
    FLOODED_REED = enum.auto()
    SALT_MARSH = enum.auto()
    MUD = enum.auto()
    LAKE = enum.auto()
    RIVER = enum.auto()
    SEA = enum.auto()
    SAND = enum.auto()
    ROCK = enum.auto()
    RED_ROOF = enum.auto()
    GREY_ROOF = enum.auto()
    BRIGHT_ROOF = enum.auto()
    ASPHALT = enum.auto()
    YARD = enum.auto()
    GARDEN = enum.auto()
    TRACK = enum.auto()


# Reflectance × 10⁴ at the twelve bands | VV, VH in dB at 38° incidence | deviation from one unit of ground to the next,
# of reflectance (share) and of backscatter (dB) | the same from pixel to pixel
_TABLE = """
GREEN_CROP    280  320  650  380 1050 2900 3700 3900 4100 4000 1900  950 | -11.0 -17.5 | .12 1.4 | .05 0.4
TALL_CROP     260  300  560  340  950 2500 3200 3400 3600 3550 1800  880 |  -9.5 -14.8 | .12 1.4 | .06 0.5
RIPE_CROP     500  620 1000 1250 1600 2200 2500 2700 2900 2900 3000 2000 | -12.5 -19.0 | .12 1.3 | .05 0.4
STUBBLE       600  750 1100 1450 1750 2050 2250 2450 2650 2650 3300 2500 | -12.5 -20.5 | .13 1.3 | .06 0.4
SOIL          350  450  650  850 1000 1150 1250 1350 1450 1450 1900 1600 | -12.0 -21.0 | .16 1.7 | .06 0.4
PALE_SOIL     700  900 1300 1700 1950 2150 2350 2500 2650 2650 3300 2800 | -13.0 -22.0 | .14 1.7 | .06 0.4
GRASS         300  370  720  480 1150 2500 3000 3200 3400 3350 2200 1200 | -13.0 -19.8 | .12 0.8 | .06 0.4
DRY_GRASS     480  600  950 1150 1500 2000 2200 2400 2600 2600 2900 1950 | -13.8 -21.2 | .12 0.8 | .07 0.4
BROADLEAF     200  230  480  260  750 2500 3300 3500 3650 3600 1650  750 |  -9.6 -14.8 | .08 0.6 | .13 0.7
BARE_TREES    280  330  480  520  760 1100 1300 1450 1650 1650 1850 1150 |  -9.2 -15.2 | .08 0.6 | .12 0.7
CONIFER       170  190  330  220  480 1400 1750 1850 1950 1950  900  430 | -10.2 -15.6 | .10 0.6 | .14 0.7
SHRUB         250  300  560  420  900 1950 2300 2500 2650 2600 1900 1050 | -10.8 -16.8 | .10 0.7 | .14 0.8
BARE_SHRUB    320  390  580  650  900 1300 1500 1650 1850 1850 2050 1350 | -10.8 -17.2 | .10 0.7 | .14 0.8
HEATH         230  270  430  420  700 1350 1600 1750 1850 1850 1700 1050 | -12.6 -18.4 | .11 0.7 | .12 0.6
REED          260  310  520  460  800 1600 1900 2050 2150 2100 1500  850 | -11.0 -18.5 | .10 1.2 | .10 0.7
DRY_REED      400  480  720  820 1050 1500 1700 1850 2000 2000 2000 1300 | -11.2 -19.0 | .10 0.9 | .10 0.7
FLOODED_REED  240  280  450  380  620 1150 1350 1450 1500 1450  850  450 |  -7.5 -17.5 | .10 1.2 | .10 0.8
SALT_MARSH    350  420  620  600  850 1400 1600 1700 1800 1750 1450  900 | -13.0 -20.5 | .10 1.0 | .09 0.5
MUD           600  720  900 1000 1050 1050 1050 1050 1050 1000  600  400 | -15.5 -24.5 | .12 1.2 | .05 0.4
LAKE          330  310  270  170  140  110  110  100   90   90   50   40 | -20.5 -27.5 | .20 0.6 | .03 0.2
RIVER         450  500  650  480  430  260  250  220  160  150   70   50 | -19.0 -26.5 | .20 0.6 | .03 0.2
SEA           400  360  250  120  100   80   80   70   60   60   30   20 | -17.5 -26.0 | .15 0.4 | .04 0.4
SAND         1400 1800 2400 2900 3100 3250 3350 3450 3500 3400 3900 3500 | -17.0 -25.5 | .10 1.0 | .05 0.4
ROCK          800  950 1150 1300 1400 1500 1600 1700 1800 1800 2200 1900 | -10.5 -17.5 | .12 1.0 | .15 1.0
RED_ROOF      600  700  950 1500 1750 1900 2000 2150 2300 2300 2600 2100 |  -6.5 -13.5 | .12 1.0 | .12 2.2
GREY_ROOF     800  950 1100 1200 1300 1400 1450 1550 1600 1600 1700 1500 |  -5.5 -13.0 | .15 1.2 | .12 2.4
BRIGHT_ROOF  2200 2600 2900 3100 3200 3200 3250 3300 3300 3200 3100 2700 |  -4.5 -12.0 | .15 2.0 | .06 2.6
ASPHALT       600  680  780  850  950 1000 1050 1100 1150 1150 1300 1150 | -14.5 -22.0 | .12 1.0 | .06 0.5
YARD         1000 1200 1450 1650 1750 1850 1900 2000 2050 2050 2400 2100 | -11.5 -19.5 | .15 1.5 | .10 1.2
GARDEN        320  390  640  520  950 1900 2300 2450 2600 2550 1900 1100 | -10.5 -16.6 | .10 0.8 | .16 1.0
TRACK         900 1150 1550 1900 2100 2250 2350 2450 2550 2500 3000 2500 | -13.5 -21.0 | .12 1.0 | .05 0.4
"""

_columns = sorted(
    ([part.split() for part in line.split("|")] for line in _TABLE.split("\n") if line),
    key=lambda row: Surface[row[0][0]],
)
REFLECTANCE = np.array([row[0][1:] for row in _columns], np.float64)
"""float64 [surfaces, 12], reflectance × 10⁴."""
BACKSCATTER_DB = np.array([row[1] for row in _columns], np.float64)
"""float64 [surfaces, 2], sigma nought of VV and VH, dB, at 38° incidence."""
UNIT_SPREAD = np.array([row[2] for row in _columns], np.float64)
"""float64 [surfaces, 2]: deviation from unit to unit, of reflectance (share) and of backscatter (dB)."""
PIXEL_SPREAD = np.array([row[3] for row in _columns], np.float64)
"""float64 [surfaces, 2]: deviation from pixel to pixel, of reflectance (share) and of backscatter (dB)."""

LEAFLESS = np.arange(len(Surface))
"""int [surfaces]: what a surface turns into when its leaves are gone or dry; most stay what they are."""
for _green, _dormant in (
    (Surface.GREEN_CROP, Surface.SOIL),
    (Surface.TALL_CROP, Surface.SOIL),
    (Surface.GRASS, Surface.DRY_GRASS),
    (Surface.BROADLEAF, Surface.BARE_TREES),
    (Surface.SHRUB, Surface.BARE_SHRUB),
    (Surface.REED, Surface.DRY_REED),
    (Surface.GARDEN, Surface.BARE_SHRUB),
):
    LEAFLESS[_green] = _dormant
SOWN = np.isin(np.arange(len(Surface)), (Surface.GREEN_CROP, Surface.TALL_CROP))
"""bool [surfaces]: crops, whose leaf follows the farmer and not the season."""
WATER = np.isin(np.arange(len(Surface)), (Surface.LAKE, Surface.RIVER, Surface.SEA))
"""bool [surfaces]: open water, whose backscatter follows the wind."""
BARE = np.isin(
    np.arange(len(Surface)), (Surface.SOIL, Surface.PALE_SOIL, Surface.STUBBLE, Surface.RIPE_CROP, Surface.MUD)
)
"""bool [surfaces]: soil in view of the radar, whose backscatter follows its moisture."""
