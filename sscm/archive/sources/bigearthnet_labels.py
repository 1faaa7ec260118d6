"""BigEarthNet's classes: the 43 CORINE names of version 1 and the 19 of the later nomenclature.

Source: Sumbul et al., "BigEarthNet-MM: A Large-Scale, Multimodal, Multilabel Benchmark Archive for Remote Sensing Image
Classification and Retrieval", IEEE GRSM 2021, Table 2.
"""

from __future__ import annotations

from collections.abc import Sequence

from sscm.errors import PairError

CORINE_OF_CLASS: dict[str, tuple[str, ...]] = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
"""The 19 classes, in their order, each with the CORINE classes that make it up."""

DROPPED = (
    "Road and rail networks and associated land",
    "Port areas",
    "Airports",
    "Mineral extraction sites",
    "Dump sites",
    "Construction sites",
    "Green urban areas",
    "Sport and leisure facilities",
    "Bare rock",
    "Burnt areas",
    "Intertidal flats",
)
"""CORINE classes that the 19-class nomenclature leaves out: they cannot be told from one image."""

CLASS_OF_CORINE = {corine: name for name, members in CORINE_OF_CLASS.items() for corine in members}


def classes_19(corine: Sequence[str], where: str) -> list[str]:
    """The 19-class labels of a patch of version 1.

    Args:
        corine: its CORINE names, as the JSON has them.
        where: file, for the message.

    Returns:
        Class names in the nomenclature's order, each once; empty where all its CORINE classes are left out.

    Raises:
        PairError: a name is not one of the 43.
    """
    unknown = [name for name in corine if name not in CLASS_OF_CORINE and name not in DROPPED]
    if unknown:
        raise PairError(where, f"labels {unknown}", "names of the 43 CORINE classes of BigEarthNet version 1")
    present = {CLASS_OF_CORINE[name] for name in corine if name in CLASS_OF_CORINE}
    return [name for name in CORINE_OF_CLASS if name in present]
