"""Listing: every generation, what it holds, which is current, and who reads it."""

import io

import pytest
from rich.console import Console

from sscm.config import ListConfig
from sscm.errors import GenerationError, IntegrityError
from sscm.index.append import append_segment
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.generation import read_generation
from sscm.index.listing import list_generations, listing_table
from sscm.index.pins import Pin, pinned, writing
from tests.plugins.growing import begin


@pytest.fixture
def index(workspace, rows_factory):
    """Generations of 4 pairs, of 6, and of 5."""
    begin(workspace, *rows_factory([1, 2, 3, 4]))
    append_segment(workspace, *rows_factory([7, 8]))
    delete_pairs(workspace, Filter(ids=["pair_0002"]))
    return workspace


def table_of(listed):
    text = io.StringIO()
    Console(file=text, width=600).print(listing_table(listed))
    return text.getvalue()


def test_what_there_is(index):
    with pinned(index, 1, "a reader") as first, writing(index, "a writer"):
        Pin(index, 2, "gone").release()
        listed = list_generations(ListConfig(workspace=index.uri))
    assert [one.number for one in listed] == [1, 2, 3] and [one.current for one in listed] == [False, False, True]
    assert [one.generation for one in listed] == [read_generation(index, number) for number in (1, 2, 3)]
    assert [len(one.pinned_by) for one in listed] == [1, 0, 0] and listed[0].pinned_by[0].startswith("a reader (")
    last = listed[2]
    assert (last.generation.rows, last.generation.deleted, last.fault) == (5, 1, None)
    assert listed[0].bytes == sum(stored.bytes for stored in first.segments[0].files.values())
    assert last.bytes == listed[1].bytes + last.generation.segments[0].deleted.bytes
    lines = [line for line in table_of(listed).splitlines() if "small" in line]
    assert len(lines) == 3
    for line, values in zip(
        lines, (["1", "4", "0", "1"], ["2", "6", "0", "2"], ["3 (current)", "5", "1", "2"]), strict=True
    ):
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert [cells[0], *cells[3:6]] == values
    assert "a reader (" in lines[0]


def test_one_that_cannot_be_read_is_listed_too(index):
    index.write_bytes(b"{", "index", "generations", "2", "manifest.json")
    index.write_json({"format": 99}, "index", "generations", "1", "manifest.json")
    listed = list_generations(ListConfig(workspace=index.uri))
    assert [one.generation is None for one in listed] == [True, True, False]
    assert "format 99" in listed[0].fault and "2/manifest.json is not JSON" in listed[1].fault
    assert listed[1].bytes == 0 and "is not JSON" in table_of(listed)


def test_of_a_writer_that_died_before_the_last_write(index):
    index.write_json({"generation": 2}, "index", "CURRENT")
    assert [one.current for one in list_generations(ListConfig(workspace=index.uri))] == [False, True, False]


def test_no_index_and_a_current_that_was_altered(workspace, index):
    index.write_bytes(b"{", "index", "CURRENT")
    with pytest.raises(IntegrityError, match="CURRENT is not JSON"):
        list_generations(ListConfig(workspace=index.uri))
    index.delete("index")
    with pytest.raises(GenerationError, match="there is no index in this workspace; `sscm index` makes one"):
        list_generations(ListConfig(workspace=workspace.uri))
