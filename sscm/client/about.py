"""What the service says of itself, of its index and of its model."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sscm.client.reading import UnexpectedAnswer, checked
from sscm.sensors import Modality


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """Which model it was."""

    name: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """An image as the model sees it.

    Args:
        modality: what the image is of.
        vector: numbers of unit norm, as many as the index has dimensions.
        model: what embedded it; only vectors of one model compare.
    """

    modality: str
    vector: tuple[float, ...] = field(repr=False)
    model: ModelName


@dataclass(frozen=True, kw_only=True)
class ServedModality:
    """A modality that can be searched by, and searched for."""

    name: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Index:
    """What is searched.

    Args:
        generation: its number; it grows with every change of the index.
        created: when the generation was committed.
        items: how many pairs.
        modalities: their modalities.
        dimension: length of an embedding.
        recall: recall@10 that searches are tuned to; 1 where all are exact.
        properties: names of the properties that filters may use; None where the index does not say.
        simulated: whether the images were computed, not observed.
        model: what embedded them.
    """

    generation: int
    created: dt.datetime
    items: int
    modalities: tuple[ServedModality, ...]
    dimension: int
    recall: float
    properties: tuple[str, ...] | None
    simulated: bool
    model: ModelName


@dataclass(frozen=True, kw_only=True)
class Model:
    """What embeds images.

    Args:
        name: its name.
        fingerprint: tells its weights from others.
        dimension: length of an embedding.
        simulated: whether it was trained on computed images.
        modalities: the modalities that it knows, with the bands that it wants.
        about: all that the service says of it.
    """

    name: str
    fingerprint: str
    dimension: int
    simulated: bool
    modalities: tuple[Modality, ...] = field(repr=False)
    about: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """Whether the service answers searches.

    Args:
        ready: whether all of it does.
        generation: number of the index generation that is served.
        loading: number of the one that is being loaded to take its place; None where none is.
        refused: why a later one does not take its place; None where there is none.
        parts: what each part says.
    """

    ready: bool
    generation: int
    loading: int | None
    refused: str | None
    parts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Reload:
    """What a service serves after it was told to look for the index's current generation.

    Args:
        generation: number of the generation that is served.
        loading: number of one that takes longer to load than a request may; it takes its place when it is ready.
    """

    generation: int
    loading: int | None


def read_model(value: Any) -> Model:
    """A model from what ``/v1/model`` answers."""
    if not isinstance(value, Mapping) or not isinstance(value.get("modalities"), list):
        raise UnexpectedAnswer("modalities: no list")
    try:
        modalities = tuple(Modality.from_json(modality) for modality in value["modalities"])
    except (KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(f"modalities: {error!r}") from error
    named = checked(_Model, value)
    return Model(
        name=named.name,
        fingerprint=named.fingerprint,
        dimension=named.dimension,
        simulated=named.simulated,
        modalities=modalities,
        about=value,
    )


@dataclass(frozen=True)
class _Model(ModelName):
    dimension: int
    simulated: bool
