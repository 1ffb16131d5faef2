"""Judgement of a data set before it is trained on: what cannot be right is refused, what may be meant is told."""

from . import units, forces, stress, energies, geometry, labels  # isort: skip  # in the order in which findings are shown
from .base import CHECKS, NAMES, Case, Finding, diagnose, require_names, require_sound

__all__ = [
    "CHECKS",
    "NAMES",
    "Case",
    "Finding",
    "diagnose",
    "energies",
    "forces",
    "geometry",
    "labels",
    "require_names",
    "require_sound",
    "stress",
    "units",
]
