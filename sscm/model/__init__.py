"""Encoders, the joint objective they are trained by, and the bundle they are kept in."""

from sscm.model.bundle import Bundle, load_bundle, save_bundle, untrained
from sscm.model.encoders import Encoder
from sscm.model.objective import Losses, joint_loss

__all__ = ["Bundle", "Encoder", "Losses", "joint_loss", "load_bundle", "save_bundle", "untrained"]
