"""Every error that sscm raises on purpose, as one tree.

::

    SscmError
    ├── ConfigError               a setting that cannot work
    ├── WorkspaceError            storage: not found, not writable, full, unreachable
    │   ├── IntegrityError        a file is not what its manifest says
    │   └── ConflictError         somebody else wrote first, or keeps writers off
    ├── ArchiveError              an archive, or the source of one
    │   ├── ManifestError         no manifest, or one that cannot be read
    │   ├── PairError             one pair is unusable (ingest counts these and goes on)
    │   └── TooManyBadPairsError  more unusable pairs than --max-bad allows
    ├── BundleError               a model bundle that cannot be loaded
    │   └── BandMismatchError     bands given and bands known differ
    ├── TrainingError             a training run that cannot go on
    │   └── NonFiniteLossError    a loss became NaN or infinite
    ├── GenerationError           an index generation that cannot be read or written
    ├── QueryError                a query that cannot be answered: wrong dimension, NaN, k < 1
    ├── EvaluationError           nothing to evaluate, or not comparable
    │   └── RefreshError          what is new does worse than what is indexed; the index stayed
    └── ServiceError              the HTTP service answered with an error, or not at all

A message says what was wrong, what was seen, and what would be right.
"""

from __future__ import annotations

from collections.abc import Iterable


class SscmError(Exception):
    """Base of all errors that sscm raises on purpose."""


class ConfigError(SscmError):
    """A setting, or a combination of settings, that cannot work."""


class WorkspaceError(SscmError):
    """Storage failed: not found, not writable, full or unreachable."""


class IntegrityError(WorkspaceError):
    """A file differs from what its manifest says: truncated, altered or of another format."""


class ConflictError(WorkspaceError):
    """Another writer committed first, or a collector keeps writers off; nothing of either was lost."""


class ArchiveError(SscmError):
    """An archive or its source cannot be used."""


class ManifestError(ArchiveError):
    """The archive has no manifest, or one that cannot be read."""


class PairError(ArchiveError):
    """One pair cannot be used.

    Args:
        where: file or row the trouble is in.
        seen: what was found there.
        expected: what would be right.
        pair_id: the pair, where its id is known.
    """

    def __init__(self, where: str, seen: str, expected: str, *, pair_id: str | None = None) -> None:
        super().__init__(where, seen, expected, pair_id)  # all of it in args: survives pickling
        self.where = where
        self.seen = seen
        self.expected = expected
        self.pair_id = pair_id

    def __reduce__(self) -> tuple[object, ...]:
        return (_pair_error, (self.where, self.seen, self.expected, self.pair_id))

    def __str__(self) -> str:
        return f"{self.where}: {self.seen}; expected {self.expected}"


def _pair_error(where: str, seen: str, expected: str, pair_id: str | None) -> PairError:
    return PairError(where, seen, expected, pair_id=pair_id)


class TooManyBadPairsError(ArchiveError):
    """More pairs were unusable than ``max_bad`` allows; no manifest was written."""


class BundleError(SscmError):
    """A model bundle is missing, incomplete or of an unknown format."""


class BandMismatchError(BundleError):
    """The bands given are not the bands known; both are named.

    Args:
        given: band or band-group names that were handed in.
        known: band or band-group names that would be right.
        where: what was being read.
    """

    def __init__(self, given: Iterable[str], known: Iterable[str], where: str) -> None:
        self.given = tuple(given)
        self.known = tuple(known)
        self.where = where
        super().__init__(f"{where}: given bands {list(self.given)}; known bands, in this order, {list(self.known)}")

    def __reduce__(self) -> tuple[object, ...]:
        return (BandMismatchError, (self.given, self.known, self.where))


class TrainingError(SscmError):
    """A training run cannot start or go on."""


class NonFiniteLossError(TrainingError):
    """A loss, or the weights by its gradient, became NaN or infinite.

    Args:
        step: the step it happened in, from 0.
        pair_ids: pairs of that step's global batch.
    """

    def __init__(self, step: int, pair_ids: Iterable[str]) -> None:
        self.step = step
        self.pair_ids = tuple(pair_ids)
        shown = ", ".join(self.pair_ids[:3]) + (", …" if len(self.pair_ids) > 3 else "")
        super().__init__(
            f"step {step}: the loss or its gradient is not finite, over {len(self.pair_ids)} pairs ({shown}); "
            "choose a smaller learning rate, or look at these pairs"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (NonFiniteLossError, (self.step, self.pair_ids))


class GenerationError(SscmError):
    """An index generation cannot be read or written."""


class QueryError(SscmError):
    """A query cannot be answered: wrong dimension, not finite, zero norm, k < 1."""


class EvaluationError(SscmError):
    """There is nothing to evaluate, or it cannot be compared."""


class RefreshError(EvaluationError):
    """What is new does worse than what is indexed; the index stayed as it was."""


class ServiceError(SscmError):
    """The HTTP service answered with an error, or did not answer."""
