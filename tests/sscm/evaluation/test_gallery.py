import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from sscm.archive.schema import decode_group
from sscm.evaluation import metrics
from sscm.evaluation.collect import collect, places
from sscm.evaluation.gallery import OTHER, PARTNER, RELEVANT, Shown, gallery_rows, read_previews, write_gallery_png

NAMES = ("s1", "s2")


@pytest.fixture
def shown(archive, parts_of):
    parts = parts_of(archive, noise=0.3)
    images = collect(parts, ["test"], NAMES)["test"]
    where = places(parts, ["test"])
    return images, where, gallery_rows(archive, images, images, where, NAMES, seed=3, count=4)


def test_rows_are_queries_with_their_first_answers(shown):
    images, where, rows = shown
    assert [str(row.direction) for row in rows] == ["s1→s2"] * 4 + ["s2→s1"] * 4
    assert [row.query.pair_id for row in rows[:4]] == [row.query.pair_id for row in rows[4:]]
    for row in rows:
        query = images.ids.index(row.query.pair_id)
        scores, answers = metrics.top_k(
            images.vectors[row.direction.query][query : query + 1], images.vectors[row.direction.target], 10
        )
        assert [a.pair_id for a in row.answers] == [images.ids[i] for i in answers[0]]
        assert [a.score for a in row.answers] == pytest.approx(scores[0].tolist())
        assert row.answers[0].partner and row.answers[0].pair_id == row.query.pair_id
        assert sum(a.partner for a in row.answers) == 1
        for answer in row.answers:
            assert answer.relevant == bool(set(answer.labels) & set(row.query.labels))
            assert answer.labels == where[answer.pair_id].labels


def test_the_seed_draws_the_queries(archive, shown):
    images, where, rows = shown
    again = gallery_rows(archive, images, images, where, NAMES, seed=3, count=4)
    assert again == rows
    other = gallery_rows(archive, images, images, where, NAMES, seed=4, count=4)
    assert [r.query.pair_id for r in other] != [r.query.pair_id for r in rows]


def test_pictures_are_the_previews_of_the_pairs(archive, shown):
    _, where, rows = shown
    for row in (rows[0], rows[-1]):
        for modality, picture in [(row.direction.query, row.query), *((row.direction.target, a) for a in row.answers)]:
            place = where[picture.pair_id]
            with archive.parquet("archive", *place.file.split("/")) as file:
                expected = file.read(columns=["pair_id", f"preview_{modality}"]).slice(place.row, 1).to_pylist()[0]
            assert expected["pair_id"] == picture.pair_id
            assert picture.picture == expected[f"preview_{modality}"]
            assert Image.open(io.BytesIO(picture.picture)).size == (24, 24)


def test_only_the_row_groups_needed_are_read(archive, shown, monkeypatch):
    _, where, _ = shown
    read = []
    opened = type(archive).parquet

    def watched(self, *parts):
        file = opened(self, *parts)
        original = file.read_row_group
        file.read_row_group = lambda group, columns: read.append((group, columns)) or original(group, columns=columns)
        return file

    monkeypatch.setattr(type(archive), "parquet", watched)
    last = max(where, key=lambda pair_id: where[pair_id].row)
    assert where[last].row == 23  # of row groups of 16 and 8
    found = read_previews(archive, [("s1", last)], where)
    assert list(found) == [("s1", last)]
    assert read == [(1, ["preview_s1"])]


def test_pictures_show_what_lies_in_the_images(archive, shown, modalities):
    _, where, rows = shown
    place = where[rows[0].query.pair_id]
    group = modalities[0].groups[0]
    with archive.parquet("archive", *place.file.split("/")) as file:
        vv = decode_group(file.read(columns=["s1"])["s1"].slice(place.row, 1), group)[0, 0]
    red = np.asarray(Image.open(io.BytesIO(rows[0].query.picture)))[..., 0]
    inside = (red > 5) & (red < 250)
    assert np.corrcoef(vv[inside], red[inside])[0, 1] > 0.8


def test_frames():
    assert Shown(pair_id="a", picture=None, partner=True, relevant=True).colour == PARTNER
    assert Shown(pair_id="a", picture=None, relevant=True).colour == RELEVANT
    assert Shown(pair_id="a", picture=None).colour == OTHER


def test_png(tmp_path, shown):
    _, _, rows = shown
    rows = [dataclasses.replace(row, query=dataclasses.replace(row.query, picture=None)) for row in rows]
    write_gallery_png(tmp_path / "gallery.png", rows, {"s1": "Sentinel-1", "s2": "Sentinel-2"}, pixels=48)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["gallery.png"]
    picture = np.asarray(Image.open(tmp_path / "gallery.png").convert("RGB")).astype(int)
    assert picture.shape[1] > 11 * 48 and picture.shape[0] > 8 * 48
    gold = tuple(int(PARTNER[i : i + 2], 16) for i in (1, 3, 5))
    # Every row's first answer is the partner: a frame of 54 pixels with edges of 3, and a smaller one in the legend.
    assert (abs(picture - gold).max(axis=-1) <= 8).sum() >= 8 * 4 * 3 * 51  # the palette moves colours a little
