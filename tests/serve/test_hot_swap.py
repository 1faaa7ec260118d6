"""A service that is asked without a pause while its index changes: every answer is whole, and of one generation."""

from __future__ import annotations

import dataclasses
import io
import shutil
import threading
import time

import httpx
import numpy as np
import pytest

from serve.guard import Rules
from sscm.index.append import append_segment
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.generation import commit, open_segments, read_generation
from sscm.index.segment import rows_schema, write_segment
from sscm.model.bundle import make_bundle, make_encoders, save_bundle
from sscm.workspace import open_workspace
from tests.plugins.growing import live_ids
from tests.plugins.service import serving

CLIENTS = 4
WAIT_S = 30.0
GRACE_S = 20.0
"""Deadline of a request, and how long an old generation stays for it: the same, as a service has it."""


@pytest.fixture
def growing(indexed, tmp_path):
    """A copy of the workspace, to be changed."""
    place = tmp_path / "growing"
    shutil.copytree(indexed.workspace.path_of(), place, ignore=shutil.ignore_patterns("pins"))
    return open_workspace(str(place))


def some_rows(workspace, count, first):
    """Rows and vectors of new pairs, like those of the index."""
    segment = open_segments(workspace, read_generation(workspace))[0]
    rows = segment.rows.select(rows_schema(list(segment.modalities)).names).slice(0, count)
    names = [f"new_{first + number:04d}" for number in range(count)]
    rows = rows.set_column(rows.schema.get_field_index("pair_id"), "pair_id", [names])
    return rows, {name: np.array(segment.vectors(name)[:count]) for name in segment.modalities}


class Asking:
    """Clients that ask without a pause and keep what they were answered."""

    def __init__(self, url, ask):
        self.url, self.ask, self.answers, self.errors = url, ask, [], []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _run(self):
        with httpx.Client(base_url=self.url, timeout=WAIT_S) as http:
            while not self._stop.is_set():
                try:
                    response = self.ask(http)
                    (self.answers if response.status_code == 200 else self.errors).append(response.json())
                except httpx.HTTPError as error:
                    self.errors.append(repr(error))


def wait_for(url, generation):
    end = time.monotonic() + WAIT_S
    while httpx.get(f"{url}/v1/index", timeout=WAIT_S).json()["generation"] != generation:
        assert time.monotonic() < end, f"generation {generation} is not served"
        time.sleep(0.05)


def test_no_answer_fails_or_is_mixed_while_the_index_changes(growing):
    def ask(http):
        body = {"id": "pair_0042", "modality": "s1", "target": "s2", "limit": 1000}
        return http.post("/v1/search", json=body)

    rows = {1: set(live_ids(growing))}
    with (
        serving(growing, shards=2, watch_s=0.1, deadline_s=GRACE_S, grace_s=GRACE_S) as service,
        Asking(service.url, ask) as asking,
    ):
        for turn in range(5):
            if turn % 2:
                number = delete_pairs(
                    growing, Filter(ids=[f"new_{100 * (turn - 1):04d}", "pair_0003"])
                ).generation.number
            else:
                number = append_segment(growing, *some_rows(growing, 20, 100 * turn)).number
            rows[number] = set(live_ids(growing, number))
            wait_for(service.url, number)
            time.sleep(0.1)
    assert asking.errors == []
    seen = {answer["sscm"]["generation"] for answer in asking.answers}
    assert {1, 6} <= seen
    for answer in asking.answers:
        expected = rows[answer["sscm"]["generation"]]
        assert {feature["id"] for feature in answer["features"]} == expected
        assert (answer["numberMatched"], answer["sscm"]["complete"]) == (len(expected), True)


def test_encoder_and_index_switch_together_when_the_model_changes(indexed, growing, pair_factory):
    """An uploaded image of the archive finds itself with a score of 1, whichever model embeds it: both or neither."""
    buffer = io.BytesIO()
    np.save(buffer, pair_factory(3).images["s1"])

    def ask(http):
        form = {"modality": "s1", "target": "s1", "limit": "1"}
        return http.post("/v1/search/image", data=form, files={"files": ("x.npy", buffer.getvalue())})

    with (
        serving(growing, shards=2, watch_s=0.1, deadline_s=GRACE_S, grace_s=GRACE_S) as service,
        Asking(service.url, ask) as asking,
    ):
        time.sleep(0.5)
        commit(growing, of_another_model(indexed, growing))
        wait_for(service.url, 2)
        time.sleep(0.5)
    assert asking.errors == []
    assert {answer["sscm"]["generation"] for answer in asking.answers} == {1, 2}
    assert len({answer["sscm"]["model"]["fingerprint"] for answer in asking.answers}) == 2
    for answer in asking.answers:
        (found,) = answer["features"]
        assert (found["id"], found["properties"]["score"]) == ("pair_0003", pytest.approx(1, abs=1e-4))


def of_another_model(indexed, workspace):
    """The same pairs, embedded by other weights under another name."""
    old, config = indexed.bundle, indexed.bundle.config
    bundle = make_bundle(
        "other",
        config=config,
        modalities=old.modalities,
        statistics=old.statistics,
        encoders=make_encoders(old.modalities, old.statistics, config).eval(),
        split="none",
        simulated=True,
        record={},
    )
    save_bundle(workspace, bundle)
    generation = read_generation(workspace)
    infos = []
    for info, segment in zip(generation.segments, open_segments(workspace, generation), strict=True):
        vectors = {}
        for modality in old.modalities:
            images = [pair_images(indexed, segment, row, modality) for row in range(len(segment))]
            stacked = {name: np.stack([image[name] for image in images]) for name in modality.group_names}
            vectors[modality.name] = bundle.encode(modality.name, stacked)
        rows = segment.rows.select(rows_schema([m.name for m in old.modalities]).names)
        name, files = write_segment(workspace, rows, vectors)
        infos.append(dataclasses.replace(info, name=name, files=files))
    return dataclasses.replace(
        generation, number=2, segments=tuple(infos), bundle=bundle.name, fingerprint=bundle.fingerprint
    )


def pair_images(indexed, segment, row, modality):
    from tests.conftest import make_pair

    number = int(segment.rows["pair_id"][row].as_py().removeprefix("pair_"))
    images = make_pair(number).images
    return {name: images[name] for name in modality.group_names}


def test_a_generation_that_was_altered_is_refused_and_the_old_one_is_served_on(growing):
    def ask(http):
        return http.post("/v1/search", json={"id": "pair_0042", "modality": "s1", "target": "s2"})

    with serving(growing, shards=2, rules=Rules(local=True)) as service, Asking(service.url, ask) as asking:
        generation = append_segment(growing, *some_rows(growing, 20, 0))
        segment = generation.segments[-1]
        name = next(name for name in segment.files if name.startswith("vectors_s2"))
        path = growing.path_of("index", "segments", segment.name, name)
        with open(path, "r+b") as file:
            file.seek(-8, io.SEEK_END)
            file.write(b"\xff" * 8)
        refused = httpx.post(f"{service.url}/v1/admin/reload", timeout=WAIT_S)
        ready = httpx.get(f"{service.url}/readyz", timeout=WAIT_S)
        time.sleep(0.2)
    assert refused.status_code == 409
    assert "generation 2 is not served" in refused.json()["detail"]
    assert "was altered" in refused.json()["detail"]
    assert (ready.status_code, ready.json()["generation"]) == (200, 1)
    assert "generation 2 is not served" in ready.json()["refused"]
    assert asking.errors == []
    assert {answer["sscm"]["generation"] for answer in asking.answers} == {1}
