"""A STAC Collection that describes exported embeddings: what they are of, what made them, and which columns hold them.

``emb:*`` fields and relation types are those of the STAC Embedding extension v0.0.1 (a proposal), read at
https://github.com/geo-embeddings/embeddings-stac-specification, commit 0a9cb04. It has no place in a Collection for how
images were prepared: that is said in fields of our own, ``sscm:*``.

Source: STAC 1.1.0, Collection and Common Metadata; extensions Embedding 0.0.1, Table 1.2.0, Processing 1.2.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from sscm.index.export_contents import Contents
from sscm.index.generation import AdaptationInfo, Generation
from sscm.sensors import BandGroup, Modality
from sscm.version import code_version

STAC = "1.1.0"
EMBEDDING = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
TABLE = "https://stac-extensions.github.io/table/v1.2.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
PARQUET = "application/vnd.apache.parquet"
WORLD = (-180.0, -90.0, 180.0, 90.0)
"""What a Collection must say of where its rows are if none of them is known to be anywhere."""
NORMALISATION = (
    "each band resampled to image_size pixels, then (pixel - mean) / std, clipped to 6 deviations; pixels without data "
    "are the mean"
)
ADAPTED = {
    "centre": "the geometric median of each modality's embeddings, over a sample of the archive, was taken away",
    "statistics": (
        "batch-norm statistics were estimated anew on a sample of the archive; then the geometric median of each "
        "modality's embeddings was taken away"
    ),
}

_COLUMNS = {
    "pair_id": "Name of the pair, unique in the export; rows of a file or part are sorted by it",
    "split": "train, validation or test",
    "labels": "Names of land-cover classes, where known; no model was trained on them",
    "geometry": "Footprint of the pair, WKB, longitude and latitude",
    "bbox": "Bounds of the footprint, degrees",
    "archive_file": "File of the image archive that the pair was read from",
    "archive_row": "Its row there, from 0",
}


def embedding_collection(
    generation: Generation,
    contents: Contents,
    schema: pa.Schema,
    *,
    modalities: Sequence[str],
    href: str,
    files: Sequence[str],
    properties: Mapping[str, str],
    model: Mapping[str, Any] | None,
    source: str | None,
) -> dict[str, Any]:
    """A STAC Collection, as JSON.

    Args:
        generation: what is exported.
        contents: of the rows that are.
        schema: of the files.
        modalities: names of those that are exported.
        href: of the Collection itself, relative to where it lies.
        files: hrefs of the Parquet files, in the order of their rows.
        properties: column → name of the source's property that it holds.
        model: ``config.json`` of the model bundle; None where it is not there any more.
        source: what the image archive was made from; None where that is not known.

    Returns:
        The Collection. It links model and source data within itself: neither has an address of its own.
    """
    declared = _declared(model, modalities)
    titles = [declared[name].title if name in declared else name for name in modalities]
    gsd = min((g.metres for m in declared.values() for g in m.groups if g.metres is not None), default=None)
    processing = {
        "processing:lineage": f"Images embedded by the encoders of model {generation.bundle}, one a modality.",
        "processing:software": {"sscm": generation.code_version},
        "processing:datetime": generation.created,
    }
    asset = {"type": PARQUET, "title": "Footprints, times, properties and embeddings", "roles": ["data"]} | processing
    keys = ["embeddings"] if len(files) == 1 else [f"embeddings-{number:05d}" for number in range(len(files))]
    interval = [None, None] if contents.interval is None else [_rfc3339(end) for end in contents.interval]
    return {
        "type": "Collection",
        "stac_version": STAC,
        "stac_extensions": [EMBEDDING, TABLE, PROCESSING],
        "id": f"{generation.bundle}-{generation.fingerprint[:12]}-{generation.number}",
        "title": f"Embeddings of {' and '.join(titles)} by {generation.bundle}",
        "description": _description(generation, contents, titles),
        "keywords": ["embeddings", "retrieval", *titles],
        "license": "other",
        "created": _rfc3339(datetime.now(UTC)),
        "extent": {
            "spatial": {"bbox": [list(contents.bbox or WORLD)]},
            "temporal": {"interval": [interval]},
        },
        "links": [
            {"rel": "root", "href": href, "type": "application/json"},
            {"rel": "emb:model", "href": "#/sscm:model", "type": "application/json", "title": generation.bundle},
            {
                "rel": "emb:source-data",
                "href": "#/sscm:source",
                "type": "application/json",
                "title": f"Image archive{f' from {source}' if source else ''}",
            },
        ],
        "emb:type": "chip",
        "emb:dimensions": generation.dimension,
        "data_type": "float32",
        **({} if gsd is None else {"gsd": gsd}),
        **({} if contents.interval is None else {"emb:temporal_resolution": "single_acquisition"}),
        "emb:fit_for_use": ["retrieval"],
        "table:columns": _columns(schema, modalities, properties),
        "table:primary_geometry": "geometry",
        "table:row_count": contents.rows,
        "item_assets": {"embeddings": asset},
        "assets": {key: {"href": file} | asset for key, file in zip(keys, files, strict=True)},
        "sscm:simulated": generation.simulated,
        "sscm:similarity": "cosine",
        "sscm:model": _model(generation, model, declared),
        "sscm:adaptation": _adaptation(generation.adaptation),
        "sscm:source": {"name": source, "files": len(generation.sources), "simulated": generation.simulated},
        "sscm:index": {
            "generation": generation.number,
            "created": generation.created,
            "rows_by_split": dict(contents.splits),
            "rows_by_modality": {name: contents.modalities.get(name, 0) for name in modalities},
            "exported_by": f"sscm {code_version()}",
        },
    }


def _description(generation: Generation, contents: Contents, titles: Sequence[str]) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in sorted(contents.splits.items()))
    sentences = [
        f"{contents.rows:,} pairs ({counts}) of images by {' and '.join(titles)}, one row a pair.",
        f"Each image is a vector of {generation.dimension} float32 numbers of unit length, made by model "
        f"{generation.bundle}.",
        "Vectors of all modalities lie in one space: the cosine of two says how alike their images are.",
    ]
    if generation.simulated:
        sentences.append("The images were computed, not observed by a satellite.")
    return " ".join(sentences)


def _model(generation: Generation, about: Mapping[str, Any] | None, declared: Mapping[str, Modality]) -> dict[str, Any]:
    """What made the embeddings; name and fingerprint alone where the bundle is not there any more."""
    named: dict[str, Any] = {"name": generation.bundle, "fingerprint": generation.fingerprint}
    if about is None:
        return named
    config, statistics = about["config"], about["statistics"]["bands"]
    return {
        **named,
        "created": about["created"],
        "code_version": about["code_version"],
        "trained_on_split": about["trained_on_split"],
        "trained_on_simulated": about["simulated"],
        "backbone": config["backbone"],
        "norm": config.get("norm", "batch"),
        "dimension": config["dimension"],
        "normalisation": NORMALISATION,
        "modalities": [
            {
                "name": modality.name,
                "title": modality.title,
                "image_size": config["image_size"] or max(modality.height, modality.width),
                "bands": [
                    _band(group, place, statistics[f"{modality.name}/{name}"])
                    for group in modality.groups
                    for place, name in enumerate(group.band_names)
                ],
            }
            for modality in declared.values()
        ],
    }


def _band(group: BandGroup, place: int, statistics: Mapping[str, Any]) -> dict[str, Any]:
    """A band as the encoder takes it: native pixels, and the statistics that normalise them."""
    band = group.bands[place]
    described = {
        "name": band.name,
        "common_name": band.common_name,
        "group": group.name,
        "pixels": [group.height, group.width],
        "data_type": group.dtype,
        "unit": group.unit,
        "nodata": group.nodata,
        "gsd": group.metres,
        "mean": statistics["mean"],
        "std": statistics["std"],
    }
    return {name: value for name, value in described.items() if value is not None}


def _adaptation(info: AdaptationInfo | None) -> dict[str, Any] | None:
    """What adapts the model to its archive; None where the embeddings are as it was trained to make them."""
    if info is None:
        return None
    return {
        "kind": info.kind,
        "description": ADAPTED[info.kind],
        "fingerprint": info.fingerprint,
        "images": dict(info.images),
        "pairs": info.pairs,
        "seed": info.seed,
    }


def _declared(model: Mapping[str, Any] | None, modalities: Sequence[str]) -> dict[str, Modality]:
    """The modalities that are exported, as the model declares them."""
    found = [] if model is None else [Modality.from_json(value) for value in model["modalities"]]
    return {modality.name: modality for modality in found if modality.name in modalities}


def _columns(schema: pa.Schema, modalities: Sequence[str], properties: Mapping[str, str]) -> list[dict[str, str]]:
    told = dict(_COLUMNS)
    for name in modalities:
        told[f"{name}_datetime"] = f"When the {name} image was taken, UTC"
        told[f"has_{name}"] = f"Whether the pair has an image of {name}"
        told[f"embedding_{name}"] = f"Embedding of the {name} image, of unit length; null where the pair lacks it"
    told |= {column: f"Property {name!r} of the source, as text" for column, name in properties.items()}
    return [{"name": column.name, "type": str(column.type), "description": told[column.name]} for column in schema]


def _rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
