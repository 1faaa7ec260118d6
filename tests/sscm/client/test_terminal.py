"""`sscm search` as typed: what it asks, what it prints, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sscm.cli import main


@pytest.fixture
def search(server, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words, code=0):
        assert main(["search", *map(str, words), "--url", server.url]) == code
        out = capsys.readouterr()
        return out.err if code else out.out

    return run


def asked(server):
    [(_, path, _, body)] = server.asked
    return path, json.loads(body)


def test_files_are_sent_and_answers_shown_as_a_table(server, search, tmp_path):
    (tmp_path / "x.npy").write_bytes(b"pixels")
    out = search("--modality", "s1", "--target", "s2", "--target", "s1", tmp_path / "x.npy", "--labels", "Pastures")
    [(_, path, _, body)] = server.asked
    assert path == "/v1/search/image" and b"pixels" in body and b'{"labels": ["Pastures"]}' in body
    assert body.count(b'name="target"') == 2
    assert "2 of 1,234 s2 and s1 images" in out and "0.9877" in out


def test_examples_and_filters_are_sent(server, search):
    search(
        *("--like", "a", "--like", "b", "--unlike", "c", "--modality", "s1", "--target", "s2"),
        *("--bbox", 1, -2, 3, 4, "--datetime", "2020-01-01T00:00:00Z/..", "--labels", "x, y", "--labels", "z"),
        *("--split", "test", "--filter", "cloud < 0.1", "--ids", "d", "--min-score", 0.25, "--limit", 3),
    )
    assert asked(server) == (
        "/v1/search",
        {
            "positives": [{"id": "a"}, {"id": "b"}],
            "negatives": [{"id": "c"}],
            "modality": "s1",
            "target": "s2",
            "bbox": [1, -2, 3, 4],
            "datetime": "2020-01-01T00:00:00Z/..",
            "labels": ["x, y", "z"],
            "split": "test",
            "filter": "cloud < 0.1",
            "ids": ["d"],
            "min_score": 0.25,
            "limit": 3,
        },
    )


def test_an_id_and_a_key_are_sent_and_ids_printed(server, search, monkeypatch):
    monkeypatch.setenv("SSCM_API_KEY", "ours")
    out = search("--id", "a", "--modality", "s1", "--target", "s2", "--format", "ids")
    assert out.splitlines() == ["p[1]", "p/2"]
    assert asked(server)[1] == {"id": "a", "modality": "s1", "target": "s2", "limit": 10}
    search("--id", "a", "--modality", "s1", "--target", "s2", "--api-key", "mine")
    assert server.headers("Authorization") == ["Bearer ours", "Bearer mine"]


def test_the_service_s_geojson_is_printed_as_it_is(server, search, answer):
    assert json.loads(search("--id", "a", "--modality", "s1", "--target", "s2", "--format", "json")) == answer


@pytest.mark.parametrize("vector", [np.float32([[0.5, 0.25]]), np.array([1, 2])])
def test_a_vector_is_read_from_its_file(server, search, tmp_path, vector):
    np.save(tmp_path / "v.npy", vector)
    search("--vector", tmp_path / "v.npy", "--modality", "s1", "--target", "s2")
    assert asked(server)[1]["vector"] == vector.ravel().tolist()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 3)), r"v.npy holds float64 [2, 3]; expected one vector of numbers"),
        (np.array(["a"]), "holds <U1 [1]; expected one vector"),
        (np.array([{}], object), "cannot be read (Object arrays cannot be loaded"),
        (b"no array", "cannot be read ("),
        (None, "cannot be read ([Errno 2] No such file"),
    ],
)
def test_what_is_no_vector_is_told(server, search, tmp_path, value, message):
    if isinstance(value, bytes):
        (tmp_path / "v.npy").write_bytes(value)
    elif value is not None:
        np.save(tmp_path / "v.npy", value)
    err = search("--vector", tmp_path / "v.npy", "--modality", "s1", "--target", "s2", code=1)
    assert message in err and server.asked == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "s2"], "nothing to search by given; expected one of files, --id, --like and --vector"),
        (["--target", "s2", "--like", "a", "b"], "files and --like given; expected one of"),
        (["--target", "s2", "--id", "a", "--like", "b"], "--id and --like given; expected one of"),
        (["--target", "s2", "--id", "a", "--unlike", "b"], "--unlike without --like; expected both"),
        (["--id", "a"], "target: none given; expected the modality that is looked for"),
        (["--target", "s2", "--id", "a", "--limit", "1001"], "limit = 1001; expected 1 to 1000"),
        (["--target", "s2", "x.npy"], "modality is missing; expected what the image was taken by"),
        (["--target", "s2", "--modality", "s1", "missing.npy"], "cannot read missing.npy: No such file"),
    ],
)
def test_what_makes_no_search_is_told_before_anything_is_sent(server, search, words, message):
    assert message in search(*words, code=1)
    assert server.asked == []


def test_answers_are_saved_and_a_folder_in_use_is_told_first(server, search, answer, tmp_path):
    server.answers = [(200, answer, {}), (200, b"\xff\xd8", {"Content-Type": "image/jpeg"})]
    words = ("--id", "a", "--modality", "s1", "--target", "s2", "--save", tmp_path / "out")
    search(*words)
    assert len(list((tmp_path / "out").iterdir())) == 2
    before = len(server.asked)
    assert "is not empty; expected a new or empty folder" in search(*words, code=1)
    assert len(server.asked) == before


def test_that_answers_have_no_picture_is_told_beside_them(server, answer, tmp_path, capsys):
    server.answers = [(200, answer, {}), (200, b"\xff\xd8", {"Content-Type": "image/jpeg"})]
    words = ["--id", "a", "--modality", "s1", "--target", "s2", "--save", str(tmp_path / "out"), "--format", "ids"]
    assert main(["search", *words, "--url", server.url]) == 0
    assert capsys.readouterr() == ("p[1]\np/2\n", "1 answers have no picture\n")


def test_a_refusal_is_told_with_exit_code_1(server, search):
    server.answers = [(400, {"detail": "target: 's9' is unknown"}, {})]
    err = search("--id", "a", "--modality", "s1", "--target", "s9", code=1)
    assert "sscm: Service error" in err and "answered 400: target: 's9' is unknown [request" in err
