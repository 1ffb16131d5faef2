"""Errors of results against mace-torch, and their limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

QUANTITIES = ("energy", "forces", "virial", "atomic energies")

# Largest relative error against mace-torch in float64.
LIMITS = {"float64": 1e-9, "float32": 1e-5}
# In float32 mace-torch itself may be further off, or the formulas computed term by term; then equinet may be by so many times
# as much. Random models have forces and virials that are small sums of large parts, and no kernel can round better than that.
OWN = 2.0


@dataclass(frozen=True)
class Outcome:
    """Results of a model for one structure, in float64 and without the energies of isolated atoms.

    Attributes:
        energy: eV.
        atomic_energies: ``(nodes,)`` eV.
        forces: ``(nodes, 3)`` eV/Å.
        virial: ``(3, 3)`` eV, -V times the stress; None for a structure without a periodic direction.
    """

    energy: float
    atomic_energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray | None


def errors_of(found: Outcome, truth: Outcome) -> dict[str, float]:
    """Relative errors by quantity: the largest difference of all components over the largest component of the truth.

    The energy is held against the interaction energies of the atoms, their magnitudes added: reference energies of hundreds
    of eV hide nothing, and cancellation between atoms does not inflate the error. So is a virial, its derivative by strain, that is smaller.
    What is not finite is infinitely wrong.

    >>> one = Outcome(-3.0, np.array([-1.0, -2.0]), np.eye(2, 3), None)
    >>> errors_of(Outcome(-3.75, np.array([-1.0, -2.0]), 2 * np.eye(2, 3), None), one)
    {'energy': 0.25, 'forces': 1.0, 'atomic energies': 0.0}
    """
    size = float(np.abs(truth.atomic_energies).sum())
    errors = {"energy": _relative(np.array(found.energy), np.array(truth.energy), size)}
    errors["forces"] = _relative(found.forces, truth.forces)
    if truth.virial is not None:
        errors["virial"] = (
            np.inf
            if found.virial is None
            else _relative(found.virial, truth.virial, max(size, np.abs(truth.virial).max()))
        )
    errors["atomic energies"] = _relative(found.atomic_energies, truth.atomic_energies)
    return errors


def _relative(found: np.ndarray, truth: np.ndarray, size: float | None = None) -> float:
    size = float(np.abs(truth).max()) if size is None else size
    difference = float(np.abs(found - truth).max())
    if not np.isfinite(difference):
        return np.inf
    return round(difference / size, 20) if size > 0 else np.inf


def allowed(dtype: str, of_mace: float | None = None) -> float:
    """The largest relative error in this precision, given mace-torch's own error in it."""
    return LIMITS[dtype] if of_mace is None else max(LIMITS[dtype], OWN * of_mace)


@dataclass(frozen=True)
class Errors:
    """Relative errors of one structure and one head against mace-torch in float64, by quantity.

    Attributes:
        structure: Name of the structure.
        head: Name of the head.
        double: Errors of equinet in float64.
        single: Errors of equinet in float32.
        of_mace: Errors of mace-torch itself in float32.
        of_formulas: Errors of equinet's reference form in float32, where ``single`` is beyond its limit; None elsewhere.
        double_counts: True if the float64 errors are judged; the weights of a float32 file are not, as they are rounded
            differently in two computations.
    """

    structure: str
    head: str
    double: Mapping[str, float]
    single: Mapping[str, float]
    of_mace: Mapping[str, float]
    double_counts: bool = True
    of_formulas: Mapping[str, float] | None = None

    def excesses(self, of_mace: Mapping[str, float]) -> list[str]:
        """Describe each error that exceeds its limit; empty if none does.

        Args:
            of_mace: mace-torch's own largest error in float32 by quantity, of all structures and heads.
        """
        place = f"{self.structure}, head {self.head}"
        lines = []
        for name, error in self.double.items():
            if self.double_counts and not error <= allowed("float64"):
                lines.append(f"{name} in float64: {error:.1e}, more than {allowed('float64'):.0e} ({place})")
        for name, error in self.single.items():
            limit = allowed("float32", max(of_mace[name], (self.of_formulas or {}).get(name, 0.0)))
            if not error <= limit:
                own = f"mace-torch's own is {of_mace[name]:.0e}"
                lines.append(f"{name} in float32: {error:.1e}, more than {limit:.0e}; {own} ({place})")
        return lines
