"""Ratio of labels to what other labels of the same frames say they must be: its sign and its size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.units import Bohr, GPa, Hartree, kcal, kJ, mol
from numpy.typing import NDArray

from ..report.survey import Floats, Survey
from .pairs import Pairs
from .surrogate import PairPotential

# Two frames are near if their atoms are less than this apart (root mean square): anharmonic bonds then add a few per cent.
NEAR = 0.3  # Å
SAME = 1e-3  # Å, below which two frames are one, and energies differ by how they were rounded
STRAINED_NEAR = 0.15  # Å, for pairs whose cells differ too
FEWEST_PAIRS = 6
# Pairs judge if half of them follow the proportion to within this part of a typical difference.
FAITHFUL = 0.35
# A pair potential judges a sign from this rank correlation on, beyond four standard errors, and if it describes so much of the forces.
CORRELATED, ERRORS, DESCRIBES = 0.3, 4.0, 0.4
# Sizes that it gives are right within a factor of 3, as those of 30 sets of metals, salts, water and molecules are (0.6 to 2.8).
ROUGH = 5.0
SHARP = 1.5  # of pairs: nothing that people confuse differs by less

# Bonds of hydrogen to carbon, nitrogen and oxygen pull back with 24 to 47 eV/Å² in every molecule and liquid, Badger's rule.
STIFFNESS, STIFFNESS_WITHIN = 35.0, 2.0
ENERGY_UNITS = {"Hartree": Hartree, "Ry": Hartree / 2, "kcal/mol": kcal / mol, "kJ/mol": kJ / mol}  # in eV
FORCE_UNITS = {  # in eV/Å
    "Hartree/Bohr": Hartree / Bohr,
    "Hartree/Ang": Hartree,
    "Ry/Bohr": Hartree / 2 / Bohr,
    "eV/Bohr": 1 / Bohr,
    "kcal/mol/Ang": kcal / mol,
    "kcal/mol/Bohr": kcal / mol / Bohr,
    "kJ/mol/Ang": kJ / mol,
    "kJ/mol/nm": kJ / mol / 10,
}
STRESS_UNITS = {
    "GPa": GPa,
    "kbar": GPa / 10,
    "bar": GPa / 1e4,
    "Pa": GPa / 1e9,
    "Hartree/Bohr^3": Hartree / Bohr**3,
}  # in eV/Å³


@dataclass(frozen=True)
class Scale:
    """Ratio of a label to its value by other labels.

    Attributes:
        ratio: With its sign; 1 if they agree.
        accuracy: Factor within which it is right.
        how: Words for its origin.
        error: Standard error of the ratio of pairs; 0 where there is none.
    """

    ratio: float
    accuracy: float
    how: str
    error: float = 0.0

    @property
    def agrees(self) -> bool:
        """True if the ratio may be 1."""
        return 1 / self.accuracy < self.ratio < self.accuracy

    def said(self) -> str:
        """The ratio in words."""
        return f"{self.ratio:.3g}{f' ± {self.error:.1g}' if self.error else ''} times {self.how}"


def from_pairs(label: Floats, work: Floats, how: str) -> Scale | None:
    """Ratio of differences by the median of the quotients, weighted by the work; None if they are not proportional.

    Args:
        label: ``(pairs,)``, differences of labels.
        work: ``(pairs,)``, the same by other labels.
        how: Words for the origin of ``work``.
    """
    kept = np.isfinite(label) & np.isfinite(work)
    label, work = label[kept], work[kept]
    large = np.abs(work) > 0.3 * np.median(np.abs(work)) if len(work) else np.zeros(0, dtype=bool)
    label, work = label[large], work[large]
    if len(work) < FEWEST_PAIRS or not np.abs(work).max() > 0:
        return None
    quotients = label / work
    order = np.argsort(quotients)
    weights = np.cumsum(np.abs(work[order]))
    ratio = float(quotients[order][np.searchsorted(weights, weights[-1] / 2)])
    misfit = np.abs(label - ratio * work)
    if not ratio or np.median(misfit) > FAITHFUL * np.median(np.abs(label)):
        return None
    error = 1.4826 * float(np.median(np.abs(quotients - ratio))) / np.sqrt(len(work))
    if error > 0.2 * abs(ratio):
        return None
    return Scale(ratio, SHARP, f"{how} along {len(work)} pairs of near frames", error)


def from_fit(label: Floats, fitted: Floats, frames: int, how: str, *, each: int = 1) -> Scale | None:
    """Sign from the rank correlation with what a fit says, size from the robust spreads; None if they are not related.

    Args:
        label: Labels, their means over comparable frames taken away.
        fitted: The same by the fit.
        frames: Number of frames that they come from.
        how: Words for the fit.
        each: Number of independent values of a frame.
    """
    if frames < 6 or not np.isfinite(label).all():
        return None
    correlation = float(np.corrcoef(_ranks(label), _ranks(fitted))[0, 1])
    spreads = [float(np.median(np.abs(each - np.median(each)))) for each in (label, fitted)]
    # Student's t of a correlation r of n values is r sqrt((n - 2) / (1 - r^2)).
    if not abs(correlation) > max(CORRELATED, ERRORS / np.sqrt(frames * each - 2 + ERRORS**2)) or min(spreads) <= 0:
        return None
    return Scale(float(np.sign(correlation)) * spreads[0] / spreads[1], ROUGH, f"{how} of {frames} frames")


def _ranks(values: Floats) -> Floats:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64)


def energy_by_forces(survey: Survey, pairs: Pairs, fit: PairPotential | None) -> Scale | None:
    """Ratio of energy differences to the work of the forces; None if no frames are near and no fit describes the forces."""
    near = (pairs.displacement < NEAR) & (pairs.displacement > SAME) & ~pairs.strained
    scale = from_pairs(pairs.energy[near], pairs.forces[near], "the work of the forces")
    if scale or fit is None or fit.explained < DESCRIBES:
        return scale
    label, fitted = survey.energy[fit.frames], fit.energy
    groups = [group[np.isfinite(label[group])] for group in comparable(survey, fit)]
    groups = [group for group in groups if len(group) >= 3]
    if not groups:
        return None
    return from_fit(
        np.concatenate([label[group] - np.median(label[group]) for group in groups]),
        np.concatenate([fitted[group] - np.median(fitted[group]) for group in groups]),
        sum(map(len, groups)),
        "those of a pair potential fitted to the forces",
    )


def comparable(survey: Survey, fit: PairPotential) -> list[NDArray[np.int64]]:
    """Samples with the same atoms in the same cell, three or more; how a pair potential depends on density, forces do not tell."""
    groups: dict[bytes, list[int]] = {}
    for n, frame in enumerate(fit.frames):
        key = survey.composition[frame].tobytes() + np.round(survey.cell[frame], 4).tobytes()
        groups.setdefault(key, []).append(n)
    return [np.array(group) for group in groups.values() if len(group) >= 3]


def energy_by_stress(pairs: Pairs) -> Scale | None:
    """Ratio of energy differences to the work of the stress, along pairs of strained frames in which forces do hardly any work."""
    near = pairs.strained & (np.abs(pairs.forces) < 0.1 * np.abs(pairs.stress)) & (pairs.displacement < STRAINED_NEAR)
    return from_pairs(pairs.energy[near], pairs.stress[near], "the work of the stress")


def nearest_unit(factor: float, units: dict[str, float]) -> tuple[str, float]:
    """Unit whose numbers are ``factor`` times those in eV and Å, and by what factor it misses, 1 or more."""
    misses = {name: abs(np.log(abs(factor) * size)) for name, size in units.items()}
    name = min(misses, key=misses.__getitem__)
    return name, float(np.exp(misses[name]))


def forces_by_hydrogen(survey: Survey, length: float = 1.0) -> Scale | None:
    """Ratio of forces to those in eV/Å, by the stiffness of bonds of hydrogen; None if no such bonds vibrate.

    Args:
        survey: Frames.
        length: Unit of the positions in Å.
    """
    counted = survey.counted[survey.frame_of] & np.isfinite(survey.forces).all(axis=1) & (survey.partner >= 0)
    found: list[tuple[int, float]] = []
    for heavy in (6, 7, 8):
        atoms = np.flatnonzero(counted & (survey.numbers == 1) & (survey.numbers[survey.partner] == heavy))
        stretch = survey.nearest[atoms] * length
        atoms, stretch = atoms[(stretch > 0.8) & (stretch < 1.35)], stretch[(stretch > 0.8) & (stretch < 1.35)]
        if len(atoms) < 20:
            continue
        stretch = stretch - np.median(stretch)
        pull = np.einsum("ai,ai->a", survey.forces[atoms], survey.direction[atoms])
        kept = np.abs(stretch) < 0.15
        stretch, pull = stretch[kept], pull[kept]
        if np.std(stretch) > 0.015 and abs(np.corrcoef(stretch, pull)[0, 1]) > 0.8:
            found.append((len(atoms), float(stretch @ pull / (stretch @ stretch))))
    if not found:
        return None
    stiffness = max(found)[1]
    return Scale(stiffness / STIFFNESS, STIFFNESS_WITHIN, f"those of hydrogen's bonds, {STIFFNESS:g} eV/Å²")
