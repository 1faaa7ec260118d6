import json

import numpy as np
import pyarrow as pa
import pytest

from sscm.errors import EvaluationError
from sscm.evaluation.collect import Part, class_fractions, collect, places, with_vectors

NAMES = ("s1", "s2")


def part(ids, split="test", labels=None, properties=None, first=0):
    rows = pa.table(
        {
            "pair_id": ids,
            "split": pa.array([split] * len(ids)),
            "labels": pa.array(labels or [None] * len(ids), pa.list_(pa.string())),
            "properties": pa.array(properties or [[]] * len(ids), pa.map_(pa.string(), pa.string())),
            "has_s1": [True] * len(ids),
            "has_s2": [i % 2 == 0 for i in range(len(ids))],
            "archive_file": [f"shards/{split}.parquet"] * len(ids),
            "archive_row": list(range(first, first + len(ids))),
        }
    )
    vectors = {name: np.arange(2 * len(ids), dtype=np.float32).reshape(-1, 2) + 100 * first for name in NAMES}
    return Part(rows=rows, vectors=vectors)


def test_splits_are_gathered_over_segments():
    parts = [part(["a", "b"]), part(["c"], "train"), part(["d", "e"], first=2)]
    images = collect(parts, ["test", "train"], NAMES)
    assert images["test"].ids == ["a", "b", "d", "e"]
    assert images["test"].vectors["s1"].tolist() == [[0, 1], [2, 3], [200, 201], [202, 203]]
    assert images["test"].present["s2"].tolist() == [True, False, True, False]
    assert images["train"].ids == ["c"]
    assert images["test"].labels is None and images["test"].cover is None


def test_labels_share_their_columns():
    parts = [part(["a", "b"], labels=[["x", "y"], None]), part(["c"], "train", labels=[["z"]])]
    images = collect(parts, ["test", "train"], NAMES)
    assert images["test"].labels.astype(int).tolist() == [[1, 1, 0], [0, 0, 0]]
    assert images["train"].labels.astype(int).tolist() == [[0, 0, 1]]


def test_cover_as_one_property_or_as_several():
    cover = json.dumps({"water": 0.25, "forest": 0.75})
    several = [("water_fraction", "1.0"), ("s2_nodata_fraction", "0.5"), ("country", "Greece")]
    images = collect([part(["a", "b", "c"], properties=[[("cover", cover)], several, []])], ["test"], NAMES)["test"]
    assert images.cover[:2].tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert np.isnan(images.cover[2]).all()


def test_cover_comes_before_fractions():
    assert class_fractions({"cover": '{"a": 1}', "b_fraction": "0.5"}, "p") == {"a": 1.0}
    assert class_fractions({"country": "Greece"}, "p") is None
    assert class_fractions({"s2_nodata_fraction": "0.1"}, "p") is None


@pytest.mark.parametrize(
    "properties",
    [{"cover": "{"}, {"cover": "[1]"}, {"cover": '{"a": "much"}'}, {"a_fraction": "nan"}, {"a_fraction": "1.5"}],
)
def test_broken_fractions_name_the_pair(properties):
    with pytest.raises(EvaluationError, match=r"pair p7, property (cover|a_fraction): .* from 0 to 1"):
        class_fractions(properties, "p7")


def test_an_empty_split_names_those_there_are():
    with pytest.raises(EvaluationError, match=r"no images of split 'validation'; it has \{'test': 2, 'train': 1\}"):
        collect([part(["a", "b"]), part(["c"], "train")], ["validation"], NAMES)
    with pytest.raises(EvaluationError, match="none at all"):
        collect([part([])], ["test"], NAMES)


def test_vectors_of_another_encoder_are_put_in_order():
    images = collect([part(["a", "b", "c"])], ["test"], NAMES)["test"]
    other = with_vectors(images, [part(["c", "x"]), part(["b", "a"], first=1)], NAMES)
    assert other.vectors["s1"].tolist() == [[102, 103], [100, 101], [0, 1]]
    assert other.ids == images.ids
    with pytest.raises(
        EvaluationError, match=r"1 of 3 indexed pairs are not in the archive \(first: b\); .*sscm index"
    ):
        with_vectors(images, [part(["c", "a"])], NAMES)


def test_places():
    found = places([part(["a", "b"], labels=[["x"], None]), part(["c"], "train")], ["test", "test"])
    assert set(found) == {"a", "b"}
    assert (found["b"].file, found["b"].row, found["b"].labels) == ("shards/test.parquet", 1, ())
    assert found["a"].labels == ("x",)
