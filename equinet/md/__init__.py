"""Molecular dynamics and whatever else moves atoms, with a potential as ASE calculator."""

if __name__ != "equinet.md":
    raise ImportError("import this folder as `equinet.md`")

from .calculator import CoarseProducts, EquinetCalculator
from .plots import plot_run
from .progress import run_with_progress
from .record import Observation, Summary
from .restart import read_run
from .simulate import Exploded, Interrupted, simulate

__all__ = [
    "CoarseProducts",
    "EquinetCalculator",
    "Exploded",
    "Interrupted",
    "Observation",
    "Summary",
    "plot_run",
    "read_run",
    "run_with_progress",
    "simulate",
]
