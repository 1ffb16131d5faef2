"""Molecular dynamics and whatever else moves atoms, with a potential as ASE calculator."""

if __name__ != "equinet.md":
    raise ImportError("import this folder as `equinet.md`")

from equinet.md.dynamics.ensembles import Ensemble
from equinet.md.dynamics.plots import plot_run
from equinet.md.dynamics.record import Observation, Summary
from equinet.md.dynamics.restart import read_run
from equinet.md.dynamics.simulate import Exploded, Interrupted, simulate

from .calculator import CoarseProducts, EquinetCalculator

__all__ = [
    "CoarseProducts",
    "Ensemble",
    "EquinetCalculator",
    "Exploded",
    "Interrupted",
    "Observation",
    "Summary",
    "plot_run",
    "read_run",
    "simulate",
]
