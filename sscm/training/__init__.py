"""Training on Ray Train: launch, what a worker does, and how progress reaches the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sscm.training.launch import train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: the actor that shows progress lives in this package, and needs no torch."""
    if name == "train":
        from sscm.training.launch import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
