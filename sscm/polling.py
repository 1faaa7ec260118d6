"""Watch something from the driver while a block of long work runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import ray


@contextlib.contextmanager
def polling(look: Callable[[], None], seconds: float = 1.0) -> Iterator[None]:
    """Call a function now and then until the block ends, and once more then.

    Args:
        look: what to call, from a thread of its own; that an actor it asks is gone is passed over.
        seconds: pause between calls.
    """
    ended = threading.Event()

    def try_to_look() -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            look()

    def watch() -> None:
        while not ended.wait(seconds):
            try_to_look()

    thread = threading.Thread(target=watch, name="polling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10)
        try_to_look()
