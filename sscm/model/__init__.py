"""Encoders, the joint objective they are trained by, and the bundle they are kept in.

What needs torch is imported when it is first asked for: a gateway reads what a model says of itself, and no more.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sscm.model.bundle import Bundle, load_bundle, save_bundle, untrained
    from sscm.model.encoders import Encoder
    from sscm.model.objective import Losses, joint_loss

__all__ = ["Bundle", "Encoder", "Losses", "joint_loss", "load_bundle", "save_bundle", "untrained"]

_HOMES = {"Encoder": "encoders", "Losses": "objective", "joint_loss": "objective"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'bundle')}"), name)
