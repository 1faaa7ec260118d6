"""Frames: what is packed comes out again however the bytes are cut, and nothing else comes out."""

from __future__ import annotations

import itertools
import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import wire
from serve.wire import Unpacker, pack
from sscm.errors import ServiceError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.binary(), inner, max_size=5),
    max_leaves=20,
)


def fed(unpacker, *pieces):
    return [value for piece in pieces for value in unpacker.feed(piece)]


def framed(body):
    return struct.pack(">I", len(body)) + body


@given(values=st.lists(VALUES, max_size=5), data=st.data())
def test_values_come_out_as_they_went_in_wherever_their_bytes_are_cut(values, data):
    whole = b"".join(map(pack, values))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    bounds = [0, *cuts, len(whole)]
    pieces = [whole[low:high] for low, high in itertools.pairwise(bounds)]
    assert fed(Unpacker(), *pieces) == values


def test_a_frame_may_be_cut_at_every_byte():
    value = [7, "search", [b"\x00\xff" * 20, "ü"], 2.5]
    whole = pack(value)
    for cut in range(len(whole) + 1):
        unpacker = Unpacker()
        first = fed(unpacker, whole[:cut])
        assert first == ([value] if cut == len(whole) else [])
        assert first + fed(unpacker, whole[cut:]) == [value]
        assert fed(unpacker, whole) == [value]  # and nothing is left behind
    assert fed(Unpacker(), *(whole[i : i + 1] for i in range(len(whole)))) == [value]


def test_several_frames_come_at_once_and_the_start_of_another_stays():
    values = [1, "two", [3], {"four": 4.0}, b"five", None]
    last = pack("the last")
    unpacker = Unpacker()
    assert fed(unpacker, b"".join(map(pack, values)) + last[:5]) == values
    assert fed(unpacker, last[5:]) == ["the last"]


def test_the_largest_frame_that_is_taken_can_change_between_two_of_them():
    unpacker = Unpacker(20)
    small, large = pack(b"s" * 10), pack(b"l" * 1000)
    taken = []
    for value in unpacker.feed(small + large + small):  # as one piece of a stream, which cuts where it likes
        taken.append(value)
        unpacker.most = 2000
    assert taken == [b"s" * 10, b"l" * 1000, b"s" * 10]


def test_a_frame_that_says_it_is_too_large_is_refused_before_it_is_there():
    unpacker = Unpacker(100)
    with pytest.raises(ServiceError, match="a message of 101 bytes; expected at most 100"):
        fed(unpacker, pack(1) + struct.pack(">I", 101))
    with pytest.raises(ServiceError, match="a message of 4294967295 bytes"):
        fed(Unpacker(), b"\xff" * 4)
    assert fed(Unpacker(100), framed(msgpack.packb(b"x" * 98))) == [b"x" * 98]  # 100 bytes exactly


def test_what_is_too_large_is_not_sent(monkeypatch):
    monkeypatch.setattr(wire, "MOST_BYTES", 100)
    with pytest.raises(ServiceError, match=r"a message of 202 bytes; expected at most 100: ask for fewer answers"):
        pack(b"x" * 200)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",  # never used by msgpack
        b"\x93\x01\x02",  # a list of three that has two
        msgpack.packb([1, 2]) + b"\x00",
        b"\xa2\xff\xfe",  # text that is not UTF-8
        b"\x81\x91\x01\x02",  # a mapping whose key is a list
        b"\xdd\xff\xff\xff\xff",  # a list of 2³² that has none
        b"\x91" * 5000,  # lists in lists, deeper than a stack
        b"\xd6\xff\x00\x00\x00",
    ],
)
def test_what_is_not_msgpack_is_refused(body):
    with pytest.raises(ServiceError, match="a message that is not msgpack"):
        fed(Unpacker(), framed(body))


@given(pieces=st.lists(st.binary(max_size=40), max_size=6))
def test_no_bytes_do_anything_but_give_values_or_be_refused(pieces):
    unpacker = Unpacker(1000)
    try:
        fed(unpacker, *pieces)
    except ServiceError:
        return
    assert len(unpacker._buffer) < 1004


def test_objects_are_not_sent():
    with pytest.raises(TypeError):
        pack(object())
