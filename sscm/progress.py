"""Progress of long work: a bar with rate and time left in a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LOG_EVERY_S = 10.0
"""Seconds between lines where the output is not a terminal."""

Advance = Callable[[int], None]


class _Rate(ProgressColumn):
    """Units done per second, over the last half minute."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Text of one bar."""
        return Text(f"{task.speed or 0:,.0f} {self.unit}/s")


@contextlib.contextmanager
def progress(title: str, total: int, unit: str = "pairs") -> Iterator[Advance]:
    """Show how far some work has come.

    Args:
        title: what is being done.
        total: units of work in all.
        unit: plural noun of what is counted.

    Yields:
        A function to call with the number of units done since the last call.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(unit),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total)
            yield lambda units: bar.advance(task, units)
        return
    start = last = time.monotonic()
    done = 0

    def advance(units: int) -> None:
        nonlocal done, last
        done += units
        now = time.monotonic()
        if now - last >= LOG_EVERY_S:
            last = now
            print(_line(title, done, total, unit, now - start), file=sys.stderr, flush=True)

    yield advance
    print(_line(title, done, total, unit, time.monotonic() - start), file=sys.stderr, flush=True)


def _line(title: str, done: int, total: int, unit: str, seconds: float) -> str:
    if not done:
        return f"{title}: 0 of {total:,} {unit}, starting"
    rate = done / max(seconds, 1e-9)
    return f"{title}: {done:,} of {total:,} {unit}, {rate:,.0f} {unit}/s, {(total - done) / rate:,.0f} s left"
