"""Asking all nodes at once, each with a deadline: one that is silent is told of, and holds up nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sscm.cluster import collective, devices, inspector, probe, survey
from sscm.cluster.inspector import Inspector
from sscm.cluster.nodes import Node

THREADS = 8
"""Questions that a node works on at a time, those that hang included."""

Question = Callable[[Any], Any]
"""From the handle of an inspector to the reference of its answer."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a question.

    Args:
        value: the answer; None where there is none.
        error: what went wrong, None where nothing did.
        silent: whether what went wrong is that none came in time.
    """

    value: Any = None
    error: str | None = None
    silent: bool = False


class Crew:
    """An inspector on each of some nodes.

    Args:
        inspectors: node's name → handle.
        seconds: that a question may take.
    """

    def __init__(self, inspectors: Mapping[str, Any], seconds: float) -> None:
        self.inspectors = dict(inspectors)
        self.seconds = seconds

    @property
    def names(self) -> list[str]:
        """Names of those that are asked."""
        return list(self.inspectors)

    def of(self, names: Iterable[str]) -> Crew:
        """Those of some names only."""
        return Crew({name: self.inspectors[name] for name in names}, self.seconds)

    def ask(self, question: Question) -> dict[str, Answer]:
        """Ask all the same; see :meth:`ask_each`."""
        return self.ask_each(dict.fromkeys(self.inspectors, question))

    def ask_each(self, questions: Mapping[str, Question], grace: float | None = None) -> dict[str, Answer]:
        """Ask each its own question, all at a time.

        Args:
            questions: node's name → question.
            grace: seconds that others have once one has failed, where they wait for each other.

        Returns:
            By name, in the order of the questions; after the deadline at the latest.
        """
        began = time.monotonic()
        end = began + self.seconds
        asked = {question(self.inspectors[name]): name for name, question in questions.items()}
        waiting, answers = list(asked), {}
        while waiting and (left := end - time.monotonic()) > 0:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=left)
            for reference in done:
                answer = answers[asked[reference]] = _answer(reference)
                if answer.error is not None and grace is not None:
                    end = min(end, time.monotonic() + grace)
        silent = Answer(error=f"no answer within {end - began:.3g} s", silent=True)
        return {name: answers.get(name, silent) for name in questions}


@contextlib.contextmanager
def crew(nodes: Sequence[Node], seconds: float, gpus: int = 0) -> Iterator[Crew]:
    """Have an inspector on every node for the length of a block; none is left at the end.

    Args:
        nodes: one for each inspector; several may be on the same node.
        seconds: that a question may take.
        gpus: GPUs that each inspector claims.
    """
    for module in (inspector, survey, devices, collective, probe):
        ray.cloudpickle.register_pickle_by_value(module)
    kind = ray.remote(num_cpus=0, num_gpus=gpus, max_restarts=0, max_concurrency=THREADS)(Inspector)
    started = {}
    try:
        for number, node in enumerate(nodes):
            name = f"{node.name} GPU {number}" if gpus else node.name
            strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
            started[name] = kind.options(scheduling_strategy=strategy).remote()
        yield Crew(started, seconds)
    finally:
        for handle in started.values():
            ray.kill(handle)


def _answer(reference: Any) -> Answer:
    try:
        return Answer(value=ray.get(reference, timeout=1))
    except Exception as error:  # Ray's, or what the node raised
        return Answer(error=_told(error))


def _told(error: Exception) -> str:
    """The last line of what Ray wrapped, which is the cause."""
    if isinstance(error, ray.exceptions.ActorDiedError | ray.exceptions.ActorUnschedulableError):
        return "the check's process there is gone: the node was lost, or killed it for want of memory"
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException) and str(cause).strip():
        return f"{type(cause).__name__}: {' '.join(str(cause).split())}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
