from __future__ import annotations

import json

import pytest

from sscm.client import Client
from sscm.client.answers import Hit, read_answers
from sscm.client.saving import require_empty, save_answers
from sscm.errors import WorkspaceError


def test_answers_and_the_pictures_found_are_written(server, answer, tmp_path):
    server.answers = [(200, b"\xff\xd8picture", {"Content-Type": "image/jpeg"})]
    folder = tmp_path / "a" / "b"
    with Client(server.url) as client:
        missing = save_answers(read_answers(answer, Hit), folder, client)
    assert missing == 1  # the second answer has no picture
    assert [path for _, path, _, _ in server.asked] == ["/v1/items/p%5B1%5D/preview/s2"]
    assert sorted(path.name for path in folder.iterdir()) == ["0001_p_1__s2.jpg", "answers.geojson"]
    assert (folder / "0001_p_1__s2.jpg").read_bytes() == b"\xff\xd8picture"
    saved = json.loads((folder / "answers.geojson").read_text())
    assert [feature["id"] for feature in saved["features"]] == ["p[1]", "p/2"]
    first = saved["features"][0]
    assert first["assets"]["preview_s2"] == {"href": "./0001_p_1__s2.jpg", "type": "image/jpeg"}
    assert first["assets"]["preview_s1"]["href"] == f"{server.url}/v1/items/p%5B1%5D/preview/s1"
    assert first["links"] == [{"rel": "self", "href": f"{server.url}/v1/items/p%5B1%5D"}]
    assert first["properties"] == answer["features"][0]["properties"]
    assert answer["features"][0]["assets"]["preview_s2"]["href"].startswith("/")  # the answers are as they were


def test_an_id_cannot_name_a_file_elsewhere(server, answer, tmp_path):
    server.answers = [(200, b"\xff\xd8", {"Content-Type": "image/jpeg"})]
    answer["features"][0]["id"] = "../../" + "x" * 300 + "\0"
    with Client(server.url) as client:
        save_answers(read_answers(answer, Hit), tmp_path / "out", client)
    [picture] = (tmp_path / "out").glob("*.jpg")
    assert picture.name.startswith("0001_.._.._xxx") and len(picture.name) < 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_folder_in_use_is_told(tmp_path):
    require_empty(tmp_path)
    require_empty(tmp_path / "new")
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkspaceError, match="is not empty; expected a new or empty folder"):
        require_empty(tmp_path)
    with pytest.raises(WorkspaceError, match=r"cannot save to .*file: Not a directory"):
        require_empty(tmp_path / "file")


def test_a_folder_that_cannot_be_made_is_told(server, answer, tmp_path):
    (tmp_path / "file").write_text("x")
    with Client(server.url) as client, pytest.raises(WorkspaceError, match=r"cannot save to .*: Not a directory"):
        save_answers(read_answers(answer, Hit), tmp_path / "file" / "folder", client)
