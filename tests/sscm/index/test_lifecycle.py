"""However an index came to be, by whatever appends, deletions, compactions and collections, it answers as a plain scan.

Hypothesis draws what is done and what is asked. The answers of a reader that opens the index afresh, of one that
followed it all the way, and of an index built anew of what is left are compared with a scan in float64 of plain rows.
"""

import dataclasses
import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from sscm.config import CollectConfig, CompactConfig
from sscm.index.append import append_segment
from sscm.index.compact import compact_index
from sscm.index.delete import delete_pairs
from sscm.index.filters import Filter
from sscm.index.follow import open_current
from sscm.index.garbage import collect_garbage
from sscm.index.generation import read_generation
from sscm.index.search import IndexReader
from sscm.index.segment import rows_schema
from sscm.workspace import open_workspace
from tests.plugins.growing import DIMENSION, begin

START = datetime(2018, 6, 1, tzinfo=UTC)
PAIRS = 24
COUNTRIES = ("Serbia", "Austria", None)
LABELS = (None, (), ("x",), ("x", "y"), ("z",))
SPLITS = ("train", "validation", "test")

# ---- Pairs


def directions():
    """Few directions, so that many scores are equal, and some that differ in the last place only."""
    rng = np.random.default_rng(5)
    some = rng.standard_normal((4, DIMENSION))
    some = (some / np.linalg.norm(some, axis=1, keepdims=True)).astype(np.float32)
    near = some.copy()
    near[:, 3] = np.nextafter(near[:, 3], np.float32(2))
    return np.concatenate([some, near])


DIRECTIONS = directions()


@dataclasses.dataclass(frozen=True)
class Pair:
    """A pair as a test knows it; everything follows from its number and how often it was made anew."""

    number: int
    version: int

    @property
    def id(self):
        return f"pair_{self.number:04d}"

    @property
    def split(self):
        return SPLITS[(self.number + self.version) % 3]

    @property
    def labels(self):
        return LABELS[self.number % 5]

    @property
    def country(self):
        return COUNTRIES[self.number // 2 % 3]

    @property
    def cloud(self):
        return None if self.number % 4 == 3 else self.number * 4 + self.version

    @property
    def box(self):
        return (self.number % 6, self.number // 6, self.number % 6 + 0.5, self.number // 6 + 0.5)

    def has(self, modality):
        return modality == "s1" or self.number % 7 != 2

    def time(self, modality):
        if modality == "s1":
            return START + timedelta(days=self.number)
        return None if self.number % 5 == 4 else START + timedelta(days=30 - self.number)

    def vector(self, modality):
        if not self.has(modality):
            return np.zeros(DIMENSION, np.float32)
        return DIRECTIONS[(3 * self.number + 5 * self.version + (modality == "s2")) % len(DIRECTIONS)]


def table_of(pairs):
    """Rows and vectors, as a segment takes them."""
    items = [
        {
            "pair_id": pair.id,
            "split": pair.split,
            "labels": pair.labels,
            "geometry": shapely.to_wkb(shapely.box(*pair.box)),
            "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), pair.box, strict=True)),
            **{f"{name}_datetime": pair.time(name) for name in ("s1", "s2")},
            **{f"has_{name}": pair.has(name) for name in ("s1", "s2")},
            "properties": [
                *([] if pair.country is None else [("country", pair.country)]),
                *([] if pair.cloud is None else [("cloud", str(pair.cloud))]),
            ],
            "archive_file": "shards/a.parquet",
            "archive_row": pair.version,
        }
        for pair in pairs
    ]
    vectors = {name: np.stack([pair.vector(name) for pair in pairs]) for name in ("s1", "s2")}
    return pa.Table.from_pylist(items, rows_schema(["s1", "s2"])), vectors


# ---- Filters: what is said, and whether it holds for a pair, found in the plainest way


@dataclasses.dataclass(frozen=True)
class Said:
    """CQL2 text, and what it says of a pair where ``when`` is its time: True, False, or None for unknown."""

    text: str
    holds: object


def compared(name, operator, value, of):
    def holds(pair, when):
        found = of(pair, when)
        return None if found is None else {"=": found == value, "<": found < value, ">=": found >= value}[operator]

    literal = f"'{value}'" if isinstance(value, str) else str(value)
    if isinstance(value, datetime):
        literal = f"TIMESTAMP('{value:%Y-%m-%dT%H:%M:%SZ}')"
    return Said(f"{name} {operator} {literal}", holds)


def negated(one):
    def holds(pair, when):
        found = one.holds(pair, when)
        return None if found is None else not found

    return Said(f"NOT ({one.text})", holds)


def joined(word, one, two):
    def holds(pair, when):
        both = (one.holds(pair, when), two.holds(pair, when))
        decides = word == "OR"
        return decides if decides in both else None if None in both else not decides

    return Said(f"({one.text}) {word} ({two.text})", holds)


operators = st.sampled_from(["=", "<", ">="])
numbers = st.integers(0, PAIRS - 1)
instants = numbers.map(lambda days: START + timedelta(days=days))
conditions = st.recursive(
    st.one_of(
        st.builds(
            lambda o, v: compared("country", o, v, lambda p, w: p.country), operators, st.sampled_from(COUNTRIES[:2])
        ),
        st.builds(lambda o, v: compared("cloud", o, 4 * v, lambda p, w: p.cloud), operators, numbers),
        st.builds(lambda o, v: compared("id", o, Pair(v, 0).id, lambda p, w: p.id), operators, numbers),
        st.builds(lambda v: compared("split", "=", v, lambda p, w: p.split), st.sampled_from(SPLITS)),
        st.builds(lambda o, v: compared("datetime", o, v, lambda p, w: w(p)), operators, instants),
        st.builds(lambda o, v: compared("s2_datetime", o, v, lambda p, w: p.time("s2")), operators, instants),
        st.sampled_from(
            [
                Said("country IS NULL", lambda p, w: p.country is None),
                Said("cloud IS NOT NULL", lambda p, w: p.cloud is not None),
            ]
        ),
    ),
    lambda part: st.one_of(part.map(negated), st.builds(joined, st.sampled_from(["AND", "OR"]), part, part)),
    max_leaves=4,
)
PARTS = {
    "ids": st.lists(numbers.map(lambda number: Pair(number, 0).id), max_size=12),
    "labels": st.lists(st.sampled_from(["x", "y", "z", "none"]), min_size=1, max_size=2),
    "split": st.sampled_from(SPLITS),
    "bbox": st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 4), st.integers(1, 4)).map(
        lambda box: (box[0] + 0.25, box[1] + 0.25, box[0] + box[2], box[1] + box[3])
    ),
    "datetime": st.tuples(instants, instants).map(sorted),
    "filter": conditions,
}


def filters(least):
    """From so many to two things that must all hold: of more, hardly a pair would be left."""
    names = st.lists(st.sampled_from([*PARTS, "filter"]), min_size=least, max_size=2, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: PARTS[name] for name in chosen}))


def filter_of(drawn):
    """The filter that says it."""
    said = dict(drawn)
    if "datetime" in said:
        said["datetime"] = "/".join(f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in said["datetime"])
    if "filter" in said:
        said["filter"] = said["filter"].text
    return Filter(**said)


def passes(drawn, pair, modality):
    """Whether a pair passes; where ``modality`` is None any image's time does, and ``datetime`` is the earliest."""
    times = [pair.time(name) for name in ((modality,) if modality else ("s1", "s2"))]
    times = [moment for moment in times if moment is not None]
    west, south, east, north = pair.box
    box = drawn.get("bbox")
    low, high = drawn.get("datetime", (None, None))
    return (
        ("ids" not in drawn or pair.id in drawn["ids"])
        and ("labels" not in drawn or bool(set(pair.labels or ()) & set(drawn["labels"])))
        and ("split" not in drawn or pair.split == drawn["split"])
        and (box is None or (west <= box[2] and box[0] <= east and south <= box[3] and box[1] <= north))
        and (low is None or any(low <= moment <= high for moment in times))
        and ("filter" not in drawn or drawn["filter"].holds(pair, lambda _: min(times, default=None)) is True)
    )


def known(drawn, pairs):
    """Whether some pair has each property: of one that none has, an index may know no more, and says so."""
    text = drawn["filter"].text if "filter" in drawn else ""
    return all(name not in text or any(getattr(p, name) is not None for p in pairs) for name in ("country", "cloud"))


# ---- What is done, and what is asked

operations = st.one_of(
    st.tuples(st.just("append"), st.lists(numbers, min_size=3, max_size=9, unique=True)),
    st.tuples(st.just("delete"), filters(1)),
    st.tuples(st.just("compact"), st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 0.3]))),
    st.tuples(st.just("collect"), st.integers(1, 3)),
)
questions = st.tuples(filters(0), st.sampled_from(["s1", "s2"]), st.integers(1, 12), st.integers(0, 6))
_workspaces = itertools.count()


def scan(pairs, drawn, target, queries):
    """Answers of a scan in float64, rounded to float32, best first, equal scores by id."""
    there = [pair for pair in pairs if pair.has(target) and passes(drawn, pair, target)]
    found = []
    for query in queries.astype(np.float64):
        unit = (query / np.sqrt(np.square(query).sum())).astype(np.float32).astype(np.float64)
        scores = [(pair.id, float(np.float32((pair.vector(target).astype(np.float64) * unit).sum()))) for pair in there]
        found.append(sorted(scores, key=lambda hit: (-hit[1], hit[0])))
    return found


def ask(segments, drawn, target, queries, k, offset):
    reader = IndexReader(segments)
    which = filter_of(drawn)
    hits = reader.search(queries, target=target, k=k, offset=offset, filter=which)
    return [[(hit.pair_id, hit.score) for hit in one] for one in hits], reader.count(which, target)


@settings(max_examples=150, deadline=None)
@given(
    first=st.lists(numbers, min_size=4, max_size=12, unique=True),
    done=st.lists(operations, min_size=3, max_size=8),
    asked=st.lists(questions, min_size=2, max_size=4),
    seed=st.integers(0, 2**16),
)
def test_any_history_answers_as_a_scan_does(first, done, asked, seed):
    name = f"memory://lifecycle-{next(_workspaces)}"
    workspace, rebuilt = open_workspace(f"{name}/grown"), open_workspace(f"{name}/rebuilt")
    try:
        live = {number: Pair(number, 0) for number in first}
        begin(workspace, *table_of(list(live.values())))
        follower = open_current(workspace)
        for version, (what, how) in enumerate(done, 1):
            live = do(workspace, live, version, what, how)
            follower = open_current(workspace, follower)
            assert follower.refused is None
            assert read_generation(workspace).rows == len(live)
        pairs = sorted(live.values(), key=lambda pair: pair.id)
        fresh = open_current(workspace).segments
        anew = None
        if pairs:
            begin(rebuilt, *table_of(pairs))
            anew = open_current(rebuilt).segments
        rng = np.random.default_rng(seed)
        queries = np.stack([DIRECTIONS[seed % len(DIRECTIONS)], rng.standard_normal(DIMENSION).astype(np.float32)])
        for drawn, target, k, offset in asked:
            if not known(drawn, pairs):
                continue
            whole = scan(pairs, drawn, target, queries)
            wanted = ([hits[offset : offset + k] for hits in whole], len(whole[0]))
            for segments in (fresh, follower.segments, anew):
                if segments is not None:
                    assert ask(segments, drawn, target, queries, k, offset) == wanted
    finally:
        for used in (workspace, rebuilt):
            used.delete()


def do(workspace, live, version, what, how):
    """Do one thing to an index; what is in it then."""
    uri = workspace.uri
    if what == "append":
        new = {number: Pair(number, version) for number in how if number not in live}
        if new:
            append_segment(workspace, *table_of(list(new.values())))
        return live | new
    if what == "delete":
        if not known(how, live.values()):
            return live
        going = [number for number, pair in live.items() if passes(how, pair, None)]
        assert delete_pairs(workspace, filter_of(how), ignore_missing=True).rows == len(going)
        return {number: pair for number, pair in live.items() if number not in going}
    if what == "compact":
        compact_index(CompactConfig(workspace=uri, small=how[0], deleted=how[1]))
        return live
    collect_garbage(CollectConfig(workspace=uri, keep=how, min_age=0.0))
    return live
