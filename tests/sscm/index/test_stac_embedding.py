"""The Collection: what STAC and its extensions ask for is there, and nothing that they forbid.

No licence is stated for the Embedding extension's JSON schema, so that there is no copy of it here: its rules for a
Collection are written out below.
"""

import dataclasses
import json
from collections import Counter
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from sscm.index import stac_embedding
from sscm.index.export_contents import Contents
from sscm.index.generation import AdaptationInfo, Generation
from sscm.index.segment import rows_schema
from sscm.index.stac_embedding import ADAPTED, embedding_collection
from sscm.model import adaptation, encoders

CONTENTS = Contents(
    rows=5,
    splits=Counter(train=3, test=2),
    modalities=Counter(s1=5, s2=4),
    bbox=(20.0, 44.0, 20.5, 44.1),
    interval=(datetime(2018, 6, 1, tzinfo=UTC), datetime(2018, 6, 30, 10, 30, tzinfo=UTC)),
)
ADAPTATION = AdaptationInfo(
    file="adaptations/a.safetensors",
    kind="centre",
    bytes=9,
    sha256="0" * 64,
    fingerprint="1" * 64,
    images={"s1": 70, "s2": 68},
    pairs=80,
    most=4096,
    seed=0,
    sample="2" * 64,
)
GENERATION = Generation(
    number=3,
    segments=(),
    modalities=("s1", "s2"),
    dimension=128,
    bundle="run-1",
    fingerprint="f" * 64,
    simulated=False,
    created="2026-01-01T00:00:00+00:00",
    code_version="0.1.0",
    adaptation=ADAPTATION,
)


def describe(generation=GENERATION, contents=CONTENTS, files=("./a%20b.parquet",), **changes):
    fields = [field for field in rows_schema(generation.modalities) if field.name != "properties"]
    vector = pa.list_(pa.float32(), generation.dimension)
    fields += [pa.field("country", pa.string()), *(pa.field(f"embedding_{m}", vector) for m in generation.modalities)]
    arguments = {"modalities": generation.modalities, "properties": {"country": "country"}, "model": None}
    arguments |= {"href": "./a%20b.collection.json", "files": files, "source": "bigearthnet"}
    return embedding_collection(generation, contents, pa.schema(fields), **arguments | changes)


def require_stac(value):
    """What STAC 1.1.0 asks of a Collection."""
    assert value["type"] == "Collection" and value["stac_version"] == "1.1.0"
    for name in ("id", "description", "license"):
        assert isinstance(value[name], str) and value[name]
    assert value["license"] == "other"  # proprietary is deprecated
    (box,) = value["extent"]["spatial"]["bbox"]
    west, south, east, north = box
    assert -180 <= west <= east <= 180 and -90 <= south <= north <= 90
    for end in value["extent"]["temporal"]["interval"][0]:
        assert end is None or datetime.fromisoformat(end).tzinfo is UTC or end.endswith("Z")
    for link in value["links"]:
        assert link["rel"] and link["href"]
    for asset in (*value["assets"].values(), *value["item_assets"].values()):
        assert asset["type"] == "application/vnd.apache.parquet" and asset["roles"] == ["data"]
    assert all(asset["href"] for asset in value["assets"].values())
    assert not any("href" in asset for asset in value["item_assets"].values())
    assert len(set(value["stac_extensions"])) == len(value["stac_extensions"])


def require_embedding(value):
    """What the Embedding extension v0.0.1 asks of a Collection."""
    assert "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json" in value["stac_extensions"]
    assert value["emb:type"] in ("pixel", "chip")
    assert isinstance(value["emb:dimensions"], int) and value["emb:dimensions"] >= 1
    assert value["data_type"] == "float32"
    assert {link["rel"] for link in value["links"]} >= {"emb:model", "emb:source-data"}
    allowed = {"type", "dimensions", "chip_layout", "temporal_resolution", "fit_for_use", "uncertainty"}
    assert {name.removeprefix("emb:") for name in value if name.startswith("emb:")} <= allowed
    assert all(isinstance(use, str) for use in value["emb:fit_for_use"])
    assert "embeddings" in value["item_assets"]
    for asset in (*value["assets"].values(), *value["item_assets"].values()):
        assert not [name for name in asset if name.startswith("emb:")]


def require_table_and_processing(value):
    """What the Table 1.2.0 and Processing 1.2.0 extensions ask of a Collection."""
    for column in value["table:columns"]:
        assert set(column) == {"name", "type", "description"} and all(column.values())
    assert value["table:primary_geometry"] in [column["name"] for column in value["table:columns"]]
    assert isinstance(value["table:row_count"], int)
    for asset in (*value["assets"].values(), *value["item_assets"].values()):
        told = {name: text for name, text in asset.items() if name.startswith("processing:")}
        assert set(told) == {"processing:lineage", "processing:software", "processing:datetime"}
        assert all(isinstance(version, str) for version in told["processing:software"].values())


@pytest.mark.parametrize(
    "value",
    [
        describe(),
        describe(files=["./e/part-00000.parquet", "./e/part-00001.parquet"], source=None),
        describe(
            contents=Contents(rows=1, splits=Counter(train=1)), generation=dataclasses.replace(GENERATION, number=9)
        ),
    ],
)
def test_it_is_what_the_specifications_ask_for(value):
    require_stac(value)
    require_embedding(value)
    require_table_and_processing(value)
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_its_links_lead_somewhere():
    """Model and source have no address of their own: their links are pointers into the Collection."""
    value = describe()
    for rel, name in (("emb:model", "run-1"), ("emb:source-data", "bigearthnet")):
        (link,) = (link for link in value["links"] if link["rel"] == rel)
        found = value
        for step in urlsplit(link["href"]).fragment.split("/")[1:]:
            found = found[step]
        assert found["name"] == name
    assert {asset["href"] for asset in value["assets"].values()} == {"./a%20b.parquet"}
    parts = describe(files=["./e/part-00000.parquet", "./e/part-00001.parquet"])["assets"]
    assert {key: asset["href"][-8:] for key, asset in parts.items()} == {
        "embeddings-00000": ".parquet",
        "embeddings-00001": ".parquet",
    }


def test_where_when_and_of_what():
    value = describe()
    assert value["extent"] == {
        "spatial": {"bbox": [[20.0, 44.0, 20.5, 44.1]]},
        "temporal": {"interval": [["2018-06-01T00:00:00Z", "2018-06-30T10:30:00Z"]]},
    }
    assert value["emb:temporal_resolution"] == "single_acquisition"
    assert value["sscm:index"]["rows_by_split"] == {"train": 3, "test": 2}
    assert "5 pairs (2 test, 3 train)" in value["description"] and "computed" not in value["description"]
    assert [column["name"] for column in value["table:columns"]][-3:] == ["country", "embedding_s1", "embedding_s2"]
    unknown = describe(contents=Contents(rows=1, splits=Counter(train=1)))
    assert unknown["extent"]["spatial"]["bbox"] == [[-180, -90, 180, 90]]
    assert unknown["extent"]["temporal"]["interval"] == [[None, None]]
    assert "emb:temporal_resolution" not in unknown
    assert "computed, not observed" in describe(dataclasses.replace(GENERATION, simulated=True))["description"]


def test_what_adapted_the_model():
    told = describe()["sscm:adaptation"]
    assert (told["kind"], told["images"], told["pairs"]) == ("centre", {"s1": 70, "s2": 68}, 80)
    assert told["fingerprint"] == "1" * 64 and told["description"] == ADAPTED["centre"]
    assert describe(dataclasses.replace(GENERATION, adaptation=None))["sscm:adaptation"] is None


def test_what_it_says_of_the_model_is_what_the_model_does():
    assert f"clipped to {encoders.CLIP:g} deviations" in stac_embedding.NORMALISATION
    assert set(ADAPTED) == set(adaptation.Kind.__args__)
