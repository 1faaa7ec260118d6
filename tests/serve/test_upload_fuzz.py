"""Thousands of damaged and hostile uploads: each is decoded to what is declared or refused, and costs little memory.

They run in a process of their own, so that a decoder which crashes is a failed test that names the file it crashed on.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import resource
import struct
import sys
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
import pytest

from serve.upload import Upload, decode_uploads
from sscm.errors import BandMismatchError, QueryError
from sscm.sensors import Band, BandGroup, Modality
from tests.plugins.images import npy, npz, png, tiff

MUTANTS_OF_EACH = 60
MEMORY = 100 << 20
"""Bytes by which the process may grow: the largest block that is taken, three times."""
ROOM = 1 << 30
"""Bytes of addresses that decoders may ask for, used or not."""
EXTREMES = (0, 1, 2, 3, 7, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True)
class Sample:
    """A valid upload."""

    name: str
    file: str
    data: bytes
    modality: Modality


def modality(dtype, nodata=None, bands=("VV", "VH"), height=24, width=20):
    group = BandGroup(
        name="image",
        bands=tuple(Band(name=name) for name in bands),
        height=height,
        width=width,
        dtype=dtype,
        unit="DN",
        nodata=nodata,
        metres=10.0,
    )
    return Modality(name="some", title="Some", groups=(group,))


def picture(dtype, count=2, height=24, width=20):
    return np.random.default_rng(5).integers(1, 250, (count, height, width)).astype(dtype)


def corpus():
    """Valid files of every kind that is taken."""
    tiled = {"tiled": True, "blockxsize": 16, "blockysize": 32}
    for dtype, nodata in (("uint16", 0.0), ("int16", -999.0), ("float32", None)):
        declared = modality(dtype, nodata)
        for shape in ({}, tiled, {"blockysize": 5}):
            for interleave in ("pixel", "band"):
                for packed in (
                    {},
                    {"compress": "deflate", "predictor": 2},
                    {"compress": "lzw"},
                    {"compress": "packbits"},
                ):
                    storage = {"interleave": interleave, **shape, **packed}
                    data = tiff(picture(dtype), ("VV", "VH"), **storage)
                    yield Sample(f"tiff {dtype} {storage}", "x.tif", data, declared)
        for extra in ({"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}, {"compress": "zstd"}, {"nodata": 7}):
            data = tiff(picture(dtype), ("VV", "VH"), **extra)
            yield Sample(f"tiff {dtype} {extra}", "x.tif", data, modality(dtype, nodata or 0.0))
        other = picture(dtype, height=31, width=23)
        yield Sample(f"tiff {dtype} other size", "x.tif", tiff(other, ("VV", "VH"), compress="lzw"), declared)
        yield Sample(f"npy {dtype}", "x.npy", npy(picture(dtype)), declared)
        yield Sample(f"npy {dtype} other size", "x.npy", npy(np.asfortranarray(other)), declared)
        yield Sample(f"npz {dtype}", "x.npz", npz({"image": picture(dtype)}), declared)
        yield Sample(f"npz {dtype} deflate", "x.npz", npz({"image": other}, np.savez_compressed), declared)
    data = tiff(picture("float32"), ("VV", "VH"), compress="deflate", predictor=3)
    yield Sample("tiff float predictor", "x.tif", data, modality("float32"))
    for bands in (("VV",), ("red", "green", "blue")):
        pixels = picture("uint8", len(bands), 40, 30)
        yield Sample(f"png {len(bands)}", "x.png", png(pixels), modality("uint8", bands=bands))


def flipped(data, rng):
    """Some bits are others."""
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
    return bytes(broken)


def headed(data, rng):
    """Some bytes near the beginning or the end, where headers lie, are others."""
    broken = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(min(400, len(broken)))
        broken[at if rng.random() < 0.7 else -1 - at] = rng.randrange(256)
    return bytes(broken)


def truncated(data, rng):
    """The end is missing."""
    return data[: rng.randrange(4, len(data))]


def doubled(data, rng):
    """A piece occurs twice, over another or between others."""
    start, to = rng.randrange(len(data)), rng.randrange(len(data))
    piece = data[start : start + rng.randrange(1, 200)]
    return data[:to] + piece + data[to + (len(piece) if rng.random() < 0.5 else 0) :]


def lengthened(data, rng):
    """A number of two, four or eight bytes near the beginning is an extreme one."""
    size, code = rng.choice(((2, "H"), (4, "I"), (8, "Q")))
    at = rng.randrange(min(len(data) - size, 300))
    number = rng.choice(EXTREMES) & ((1 << 8 * size) - 1)
    return data[:at] + struct.pack(rng.choice("<>") + code, number) + data[at + size :]


def spliced_tiff(data, rng):
    """Entries of the directory have another tag, type, count or value, or that of another entry."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count, entry = ("Q", "HHQQ") if big else ("H", "HHII")
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + count, data, at)
    at += struct.calcsize(order + count)
    size = struct.calcsize(order + entry)
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = at + size * rng.randrange(entries)
        fields = list(struct.unpack_from(order + entry, data, place))
        which = rng.randrange(5)
        if which == 4:  # a tag that nobody expects here: masks, subfiles, JPEG tables, metadata, other sizes
            fields[0] = rng.choice(
                (254, 256, 257, 258, 259, 262, 266, 277, 278, 284, 317, 320, 330, 338, 339, 347, 34665)
            )
        elif which == 3 and rng.random() < 0.5:  # two short numbers, as they lie in a long one
            fields[3] = struct.unpack(order + "I", struct.pack(order + "HH", rng.choice(EXTREMES) & 0xFFFF, 0))[0]
        else:
            fields[which] = rng.choice(EXTREMES) & (0xFFFF if which < 2 else 0xFFFFFFFF)
        if rng.random() < 0.2:
            fields = list(struct.unpack_from(order + entry, data, at + size * rng.randrange(entries)))
        struct.pack_into(order + entry, broken, place, *fields)
    return bytes(broken)


def sealed_png(data, rng):
    """A chunk is damaged, twice there, left out or of another kind, and its checksum is right."""
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    which = rng.randrange(len(chunks))
    kind, content = chunks[which]
    change = rng.randrange(4)
    if change == 0 and content:
        chunks[which] = (kind, flipped(content, rng))
    elif change == 1:
        chunks.insert(which, (kind, content))
    elif change == 2:
        del chunks[which]
    else:
        chunks.insert(
            which, (rng.choice((b"PLTE", b"tRNS", b"zTXt", b"iCCP", b"acTL", b"IDAT")), zlib.compress(bytes(999)))
        )
    sealed = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:8] + b"".join(sealed)


def sealed_npz(data, rng):
    """The array in it is damaged, and the checksum of the entry is right; names and methods vary."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        content = archive.read("image.npy")
    content = rng.choice((flipped, headed, truncated, doubled, lengthened))(content, rng)
    buffer = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(rng.choice(("image.npy", "image.npy", "image", "../image.npy")), content)
    return buffer.getvalue()


EVERYWHERE = (flipped, headed, truncated, doubled, lengthened)
MUTATORS = {
    "tif": (*EVERYWHERE, *(spliced_tiff,) * 5),
    "npy": EVERYWHERE,
    "npz": (*EVERYWHERE, sealed_npz, sealed_npz),
    "png": (*EVERYWHERE, *(sealed_png,) * 4),
}


def attempt(sample, data):
    """How an upload ends: decoded, refused, or what should never be."""
    group = sample.modality.groups[0]
    try:
        decoded = decode_uploads([Upload(sample.file, data)], sample.modality)
    except (QueryError, BandMismatchError) as error:
        return "out of memory" if "memory" in str(error) or "alloc" in str(error) else "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    pixels = decoded[group.name]
    right = list(decoded) == [group.name] and pixels.shape == group.shape and pixels.dtype == group.numpy_dtype
    return "decoded" if right and np.isfinite(pixels).all() else f"decoded as {pixels.dtype} {pixels.shape}"


def in_other_process(samples, mutants, pipe):
    """Decode everything, and send what came of it; the parent knows by the pipe how far it went."""
    stumbled = []  # what callbacks of decoders raise, which nobody can catch
    sys.unraisablehook = lambda told: stumbled.append(repr(told.exc_value))
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for sample in samples:  # what libraries load on first use is not what a file costs
        assert attempt(sample, sample.data) == "decoded", sample.name
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index, (sample, name, data) in enumerate(mutants):
        outcome = attempt(sample, data)
        pipe.send((index, f"{sample.name}, {name}", stumbled.pop() if stumbled else outcome))
    pipe.send((None, "memory", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10))


def run_apart(samples, mutants):
    """Outcome of each mutant, and how many bytes the process grew."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=in_other_process, args=(samples, mutants, sender))
    process.start()
    sender.close()
    outcomes = []
    try:
        while True:
            outcomes.append(receiver.recv())
    except EOFError:
        pass
    process.join()
    assert process.exitcode == 0, f"exit code {process.exitcode} after {outcomes[-1:]}, at {len(outcomes)}"
    return outcomes[:-1], outcomes[-1][2]


@pytest.mark.parametrize("kind", list(MUTATORS))
def test_mutants_are_decoded_or_refused(kind):
    samples = [sample for sample in corpus() if sample.file.endswith(kind)]
    mutants = []
    for sample in samples:
        rng = random.Random(f"{sample.name}")
        for _ in range(MUTANTS_OF_EACH):
            mutate = rng.choice(MUTATORS[kind])
            mutants.append((sample, mutate.__name__, mutate(sample.data, rng)))
    outcomes, grown = run_apart(samples, mutants)
    wrong = [outcome for outcome in outcomes if outcome[2] not in ("decoded", "refused")]
    assert not wrong, f"{len(wrong)} of {len(outcomes)}: {wrong[:5]}"
    refused = sum(outcome == "refused" for *_, outcome in outcomes)
    assert len(outcomes) == len(mutants) and refused > len(mutants) / 4
    assert grown < MEMORY


def test_there_are_enough_mutants():
    assert len(list(corpus())) * MUTANTS_OF_EACH >= 1000


class Marker:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (self.folder,))


def test_nothing_is_ever_unpickled(tmp_path):
    folder = tmp_path / "unpickled"
    objects = np.array([Marker(str(folder))] * 2, dtype=object)
    np.load(io.BytesIO(npy(objects, allow_pickle=True)), allow_pickle=True)
    folder.rmdir()  # a pickle that is loaded does leave a mark
    declared = modality("float32")
    npy_sample = Sample("npy of objects", "x.npy", npy(objects, allow_pickle=True), declared)
    npz_sample = Sample("npz of objects", "x.npz", npz({"image": objects}), declared)
    raw_sample = Sample("pickle", "x.npy", npy_sample.data[128:], declared)
    rng = random.Random(3)
    mutants = [(sample, "as it is", sample.data) for sample in (npy_sample, npz_sample, raw_sample)]
    for _ in range(200):
        mutants.append((npy_sample, "mutant", rng.choice(EVERYWHERE)(npy_sample.data, rng)))
        mutants.append((npz_sample, "mutant", sealed_npz(npz_sample.data, rng)))
    disguised = npy_sample.data.replace(b"'|O'", b"'<f4'").replace(b"(2,)", b"(2, 6, 6)")
    mutants.append((npy_sample, "disguised", disguised))
    outcomes, _ = run_apart([], mutants)
    assert {outcome for *_, outcome in outcomes} == {"refused"}
    assert not folder.exists()
