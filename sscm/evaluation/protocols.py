"""What a figure measures: direction, metric, and the protocol that says which images ask and which may answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sscm.errors import EvaluationError

RECALL_KS = (1, 5, 10)
"""Answers looked at for partner recall."""
LABEL_KS = (5, 10)
"""Answers looked at by label and cover metrics: k = 5 is X-JEPA's and CR-JEPA's, k = 10 CSMAE's."""


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
        ks: the numbers of answers it is measured at; empty where it has none.
        text: what it is, in a line.
    """

    name: str
    short: str
    higher_is_better: bool
    ks: tuple[int, ...] = ()
    text: str

    @property
    def places(self) -> tuple[int | None, ...]:
        """Each k that it is measured at, or None alone."""
        return self.ks or (None,)


METRICS = (
    Metric(
        name="partner_recall",
        short="R",
        higher_is_better=True,
        ks=RECALL_KS,
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
        ks=LABEL_KS,
        text="harmonic mean of mean label precision and mean label recall over all first k answers (CSMAE)",
    ),
    Metric(
        name="mean_pair_f1",
        short="F1p",
        higher_is_better=True,
        ks=LABEL_KS,
        text="mean over all first k answers of each pair's own label F1 (X-JEPA, CR-JEPA)",
    ),
    Metric(
        name="precision",
        short="P",
        higher_is_better=True,
        ks=LABEL_KS,
        text="share of the first k answers that share at least one label with their query",
    ),
    Metric(
        name="mean_average_precision",
        short="mAP",
        higher_is_better=True,
        text="mean average precision over the full ranking; relevant is what shares at least one label",
    ),
    Metric(
        name="cover_distance",
        short="cover",
        higher_is_better=False,
        ks=LABEL_KS,
        text="mean over the first k answers of half the L1 distance between class fractions, 0 same to 1 disjoint",
    ),
    Metric(
        name="modality_gap",
        short="gap",
        higher_is_better=False,
        text="distance between the mean embedding of the queries and that of the archive, 0 to 2",
    ),
)
"""Every metric, in the order of the table."""


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
    """Which images ask, which may answer, and whether a pair may answer its own query.

    Args:
        query_split: split of the queries.
        archive_split: split of the images searched.
        exclude_self: for label and cover metrics across modalities, leave out the query's own pair, which shares all
            its labels. Within one modality it is always left out; partner recall always keeps it, being about it.
    """

    query_split: str
    archive_split: str
    exclude_self: bool = True

    @property
    def same_split(self) -> bool:
        """Whether a query's own pair is in the archive at all."""
        return self.query_split == self.archive_split

    def excludes_own_pair(self, direction: Direction) -> bool:
        """Whether label metrics of a direction leave the query's own pair out of the answers."""
        return self.same_split and (self.exclude_self or not direction.crosses)

    @property
    def text(self) -> str:
        """The protocol in a sentence, naming the published one it agrees with."""
        sentence = f"queries from split {self.query_split}, archive from split {self.archive_split}"
        if self.same_split:
            own = "left out" if self.exclude_self else "kept in across modalities and left out within one"
            sentence += f"; for label and cover metrics a query's own pair is {own}"
        published = {
            ("validation", "test"): "these splits and f1_of_means@10 are CSMAE's protocol",
            ("test", "test"): "these splits and mean_pair_f1@5 are X-JEPA's and CR-JEPA's protocol",
        }.get((self.query_split, self.archive_split))
        if published and (self.exclude_self or not self.same_split):
            sentence += f"; {published}"
        return sentence
