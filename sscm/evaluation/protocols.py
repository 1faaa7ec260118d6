"""What a figure measures: direction, metric, and the protocol that says which images ask and which may answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sscm.errors import ConfigError, EvaluationError

RECALL_KS = (1, 5, 10)
"""Answers looked at for partner recall."""
LABEL_KS = (5, 10)
"""Answers looked at by label and cover metrics: k = 5 is X-JEPA's and CR-JEPA's, k = 10 CSMAE's."""
MUELLER_KS = (8, 16, 32, 64, 128, 256, 512, 1000)
"""Ranks of Müller's protocol."""
OWN_SPLIT = "test"
"""Split of queries and of the archive where neither a flag nor a protocol says otherwise."""


@dataclass(frozen=True)
class Direction:
    """Which modality asks and which answers.

    Args:
        query: modality of the queries.
        target: modality of the answers.
    """

    query: str
    target: str

    @property
    def crosses(self) -> bool:
        """Whether query and answer are of different modalities."""
        return self.query != self.target

    def __str__(self) -> str:
        return f"{self.query}→{self.target}"


def directions(modalities: Sequence[str]) -> tuple[Direction, ...]:
    """All directions of some modalities: first those within one, then all ordered pairs.

    Args:
        modalities: their names.
    """
    within = [Direction(name, name) for name in modalities]
    across = [Direction(first, second) for first in modalities for second in modalities if first != second]
    return tuple(within + across)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Args:
        name: as in the JSON.
        short: column head in a terminal.
        higher_is_better: which way is good.
        needs_k: whether it is about the first k answers, or the k-th, and nothing without a k.
        goal: whether the best value is worth marking; alignment is won by a constant encoder, uniformity by chance.
        text: what it is, in a line.
    """

    name: str
    short: str
    higher_is_better: bool
    needs_k: bool = False
    goal: bool = True
    text: str


METRICS = (
    Metric(
        name="partner_recall",
        short="R",
        higher_is_better=True,
        text="share of queries whose own partner in the other modality is among the first k",
    ),
    Metric(
        name="median_rank",
        short="rank",
        higher_is_better=False,
        text="median rank of the queries' own partner, 1 is first; ties take their mean place",
    ),
    Metric(
        name="f1_of_means",
        short="F1m",
        higher_is_better=True,
        needs_k=True,
        text="harmonic mean of mean label precision and mean label recall over all first k answers (CSMAE)",
    ),
    Metric(
        name="mean_pair_f1",
        short="F1p",
        higher_is_better=True,
        needs_k=True,
        text="mean over all first k answers of each pair's own label F1 (X-JEPA, CR-JEPA)",
    ),
    Metric(
        name="f1_at_rank",
        short="F1r",
        higher_is_better=True,
        needs_k=True,
        text="mean over queries of the label F1 with the k-th answer alone, those before it not looked at (Müller)",
    ),
    Metric(
        name="precision",
        short="P",
        higher_is_better=True,
        needs_k=True,
        text="share of the first k answers that share at least one label with their query",
    ),
    Metric(
        name="mean_average_precision",
        short="mAP",
        higher_is_better=True,
        text="mean over queries of the mean precision at the ranks of relevant images, those that share at least one "
        "label; without k over the full ranking, with k over the relevant among the first k, 0 where there is none",
    ),
    Metric(
        name="cover_distance",
        short="cover",
        higher_is_better=False,
        needs_k=True,
        text="mean over the first k answers of half the L1 distance between class fractions, 0 same to 1 disjoint",
    ),
    Metric(
        name="modality_gap",
        short="gap",
        higher_is_better=False,
        text="distance between the mean embedding of the queries and that of the archive, 0 to 2",
    ),
    Metric(
        name="alignment",
        short="align",
        higher_is_better=False,
        goal=False,
        text="mean squared distance between the two embeddings of a pair of the query split, 0 to 4; 0 also where all "
        "embeddings are the same, so read it beside uniformity",
    ),
    Metric(
        name="uniformity",
        short="unif",
        higher_is_better=False,
        goal=False,
        text="log of the mean of exp(-2 d²) over distances d of all pairs of archive images of one modality; 0 where "
        "all embeddings are the same, the lower the more evenly they fill the sphere",
    ),
)
"""Every metric, in the order of the table."""
FIRST_K = ("f1_of_means", "mean_pair_f1", "precision", "mean_average_precision", "cover_distance")
"""Metrics of the first k answers that are measured where a protocol does not choose."""
RANKS_EXACTLY = ("f1_at_rank", "mean_average_precision")
"""Those of Müller's protocol."""


def metric(name: str) -> Metric:
    """A metric by name.

    Raises:
        EvaluationError: there is none; all names are given.
    """
    for candidate in METRICS:
        if candidate.name == name:
            return candidate
    raise EvaluationError(f"unknown metric {name!r}; there are {[m.name for m in METRICS]}")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which images ask, which may answer, whether a pair may answer its own query, and what is looked at.

    Args:
        query_split: split of the queries.
        archive_split: split of the images searched.
        exclude_self: for label and cover metrics across modalities, leave out the query's own pair, which shares all
            its labels. Within one modality it is always left out; partner recall always keeps it, being about it.
        name: of the published protocol, or None.
        source: whose it is; empty without a name.
        ks: numbers of answers that label and cover metrics are measured at, ascending.
        at_ks: names of the metrics measured at each of ``ks``.
        headline: the metric that stands for all.
        headline_k: its k, or None.
    """

    query_split: str
    archive_split: str
    exclude_self: bool = True
    name: str | None = None
    source: str = ""
    ks: tuple[int, ...] = LABEL_KS
    at_ks: tuple[str, ...] = field(default=FIRST_K)
    headline: str = "partner_recall"
    headline_k: int | None = 10

    @property
    def same_split(self) -> bool:
        """Whether a query's own pair is in the archive at all."""
        return self.query_split == self.archive_split

    def excludes_own_pair(self, direction: Direction) -> bool:
        """Whether label metrics of a direction leave the query's own pair out of the answers."""
        return self.same_split and (self.exclude_self or not direction.crosses)

    def places(self, name: str) -> tuple[int | None, ...]:
        """Each k that a metric is measured at, None for no k; nothing where it is not measured."""
        if name == "partner_recall":
            return RECALL_KS
        at: tuple[int | None, ...] = self.ks if name in self.at_ks else ()
        return at if metric(name).needs_k else (None, *at)

    def to_json(self) -> dict[str, Any]:
        """A JSON object of all fields, and the text."""
        about = dataclasses.asdict(self)
        return {**about, "ks": list(self.ks), "at_ks": list(self.at_ks), "text": self.text}

    @property
    def text(self) -> str:
        """The protocol in a sentence: its name, or the published one it agrees with."""
        sentence = f"queries from split {self.query_split}, archive from split {self.archive_split}"
        if self.same_split:
            own = "left out" if self.exclude_self else "kept in across modalities and left out within one"
            sentence += f"; for label and cover metrics a query's own pair is {own}"
        ks = f"k = {', '.join(map(str, self.ks))}"
        if self.name is not None:
            return f"protocol {self.name} ({self.source}): {sentence}; {ks}, headline {self.headline}"
        sentence += f"; {ks}"
        for known in PROTOCOLS.values():
            same = (known.query_split, known.archive_split) == (self.query_split, self.archive_split)
            if same and known.headline in self.at_ks and known.headline_k in self.ks:
                if known.exclude_self == self.exclude_self or not self.same_split:
                    sentence += f"; {known.headline}@{known.headline_k} is as in {known.source}"
        return sentence


PROTOCOLS: Mapping[str, Protocol] = {
    known.name or "": known
    for known in (
        Protocol(
            name="csmae",
            source="CSMAE",
            query_split="validation",
            archive_split="test",
            ks=(10,),
            headline="f1_of_means",
            headline_k=10,
        ),
        Protocol(
            name="jepa",
            source="X-JEPA, CR-JEPA",
            query_split="test",
            archive_split="test",
            ks=(5,),
            headline="mean_pair_f1",
            headline_k=5,
        ),
        Protocol(
            name="mueller",
            source="Müller",
            query_split="train",
            archive_split="test",
            ks=MUELLER_KS,
            at_ks=RANKS_EXACTLY,
            headline="f1_at_rank",
            headline_k=MUELLER_KS[0],
        ),
    )
}
"""The published protocols, by name."""


def choose_protocol(name: str | None, query_split: str | None = None, archive_split: str | None = None) -> Protocol:
    """A published protocol by name, or without a name that of two splits.

    Args:
        name: of a published protocol, or None.
        query_split: split of the queries; None for the protocol's own, :data:`OWN_SPLIT` without one.
        archive_split: split of the images searched; None likewise.

    Raises:
        ConfigError: no protocol has that name, or it has other splits than those given.
    """
    if name is None:
        return Protocol(query_split=query_split or OWN_SPLIT, archive_split=archive_split or OWN_SPLIT)
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol = {name!r}; expected one of {sorted(PROTOCOLS)}")
    known = PROTOCOLS[name]
    for flag, given, fixed in (
        ("query_split", query_split, known.query_split),
        ("archive_split", archive_split, known.archive_split),
    ):
        if given not in (None, fixed):
            raise ConfigError(
                f"{flag} = {given!r} with protocol {name!r}, whose {flag} is {fixed!r}; leave one of the two out"
            )
    return known
