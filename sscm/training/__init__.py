"""Training on Ray Train: launch, what a worker does, and how progress reaches the terminal."""

from sscm.training.launch import train

__all__ = ["train"]
