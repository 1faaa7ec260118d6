"""The next batch made ready, on the device it is used on, while the one before is worked at."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sscm.archive.windows import Batch
from sscm.model.encoders import as_tensor

_WAIT_S = 0.1
"""How often a thread that waits for room looks whether anyone still wants its batches, seconds."""


class Ready(NamedTuple):
    """A batch on its device.

    Args:
        groups: band-group name → pixels [n, bands, height, width], native dtype.
        pair_ids: n ids.
        copied: where the copy to a GPU ends; what uses the pixels waits for it on the GPU, not on the host.
    """

    groups: dict[str, Tensor]
    pair_ids: list[str]
    copied: Any = None

    def wait(self) -> None:
        """Have the current stream of a GPU wait for the copy."""
        if self.copied is None:
            return
        stream = torch.cuda.current_stream()
        stream.wait_event(self.copied)
        for pixels in self.groups.values():
            pixels.record_stream(stream)


@contextlib.contextmanager
def prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Iterator[Ready]]:
    """Have a thread take batches from an iterator, gather them in pinned memory and start their copy to the device.

    One batch is ready beside the one that is worked at.

    Args:
        batches: what to take from; only that thread asks it.
        device: where pixels go; on the CPU they stay where they are.

    Yields:
        An iterator of the batches, which raises what ``batches`` raises.
    """
    ready: queue.Queue[Ready | BaseException | None] = queue.Queue(maxsize=1)
    ended = threading.Event()

    def put(item: Ready | BaseException | None) -> bool:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=_WAIT_S)
                return True
        return False

    def work() -> None:
        try:
            stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
            for batch in batches:
                if not put(_on(batch, device, stream)):
                    return
            put(None)
        except BaseException as error:  # whatever it is, who asks for the next batch is to have it
            put(error)

    def taken() -> Iterator[Ready]:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            item.wait()
            yield item

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        ended.set()
        thread.join(timeout=30)


def _on(batch: Batch, device: torch.device, stream: Any) -> Ready:
    ids = batch["pair_id"].tolist()
    pixels = {name: as_tensor(values) for name, values in batch.items() if name != "pair_id"}
    if stream is None:
        return Ready(pixels, ids)
    with torch.cuda.stream(stream):
        moved = {name: values.pin_memory().to(device, non_blocking=True) for name, values in pixels.items()}
        return Ready(moved, ids, stream.record_event())
