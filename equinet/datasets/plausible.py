"""Frames that no calculation gives which is of any use: out of proportion to the other frames, or to the reference energies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from .bounds import too_large
from .composition import SPREADS, composition, deviations, weighted_median
from .frames import source, weight_of
from .properties import PROPERTIES

# A force of a training set is an outlier if it is this many times the median over the frames of their root mean square, and above
# FORCE_OF_COLLISIONS. Sets of relaxed structures have a tiny median beside which an ordinary force is large; nothing below a collision of
# atoms is refused. Hot and compressed frames stay within 100 times the median.
OUTLIER = 1e3
FORCE_OF_COLLISIONS = 100.0  # eV/Å

# An energy is an outlier beyond SPREADS and one of these, in eV/atom from the fit to the compositions: no matter is bound by more than the
# first against free atoms (tungsten 8.9, C. Kittel, Introduction to Solid State Physics), and atoms at half a bond length have the second.
MOST_BOUND, MOST_SQUEEZED = 12.0, 50.0
# Bounds of the energy of half of a set against free atoms, in eV/atom. Some codes give free atoms without spin the energy zero, which adds up
# to 5 eV to the binding; a set squeezed to 1 TPa stays below the upper one.
LOWEST_INTERACTION, HIGHEST_INTERACTION = -20.0, 10.0

FORCE_OUTLIER, ENERGY_OUTLIER, ABSURD_E0S = "force-outlier", "energy-outlier", "absurd-e0s"

# Statistics of so few numbers are taken as they are: they have no tail to speak of.
FEWEST = 100
# How far beyond all but one per cent of the numbers the rest may lie; a normal distribution ends at 2.
TAIL = 10.0


@dataclass(frozen=True)
class Implausible:
    """A frame that cannot be right.

    Attributes:
        name: Kind of fault, ``"force-outlier"`` or ``"energy-outlier"``; a word by which a user accepts it.
        atoms: The frame.
        reason: What is wrong with it, with numbers and remedy.
    """

    name: str
    atoms: Atoms
    reason: str


def implausible(frames: Sequence[Atoms]) -> list[Implausible]:
    """Frames whose forces or energy are out of all proportion to those of the others.

    Args:
        frames: Frames of one set, without isolated atoms, whose labels are raw results of their calculators. Frames of weight 0 are left out.
    """
    return [*_force_outliers(frames), *_energy_outliers(frames)]


def require_plausible(frames: Sequence[Atoms], accept: Collection[str] = ()) -> list[Implausible]:
    """Refuse sets with frames that are out of all proportion to the others.

    Args:
        frames: As for :func:`implausible`.
        accept: Kinds of faults to let pass.

    Returns:
        The faults that were let pass.

    Raises:
        ValueError: Names the frame, the number, the spread of the others and the remedy; and how many more there are.
    """
    found = implausible(frames)
    refused = [each for each in found if each.name not in accept]
    if refused:
        more = f" ({len(refused) - 1} more such frames)" if len(refused) > 1 else ""
        raise ValueError(f"{source(refused[0].atoms)}: {refused[0].reason}{more}")
    return found


def _force_outliers(frames: Sequence[Atoms]) -> list[Implausible]:
    """Frames with a force out of all proportion; one such force decides the scale of a model, which never recovers."""
    with_forces = [
        (atoms, atoms.calc.results["forces"])
        for atoms in frames
        if len(atoms) and "forces" in atoms.calc.results and weight_of(atoms, "forces") > 0
    ]
    if not with_forces:
        return []
    median = float(np.median([np.sqrt(np.mean(forces**2)) for _, forces in with_forces]))
    bound = max(OUTLIER * median, FORCE_OF_COLLISIONS)
    such = (
        f"in half of the {len(with_forces)} frames they are below {median:.3g} eV/Å (root mean square), and those of more "
        f"than {bound:.4g} eV/Å"
    )
    return [
        Implausible(FORCE_OUTLIER, atoms, f"`forces` {too_large(PROPERTIES['forces'], np.abs(forces), such)}")
        for atoms, forces in with_forces
        if np.abs(forces).max() > bound
    ]


def _energy_outliers(frames: Sequence[Atoms]) -> list[Implausible]:
    with_energy = [atoms for atoms in frames if "energy" in atoms.calc.results and weight_of(atoms, "energy") > 0]
    if not with_energy:
        return []
    elements = sorted({int(z) for atoms in with_energy for z in atoms.numbers})
    energies = np.array([atoms.calc.results["energy"] for atoms in with_energy])
    weights = np.array([weight_of(atoms, "energy") for atoms in with_energy])
    away, spread = deviations(composition(with_energy, elements), energies, weights)
    far = np.where(away < 0, -away / MOST_BOUND, away / MOST_SQUEEZED)
    return [
        Implausible(ENERGY_OUTLIER, atoms, _out_of_line(energy / len(atoms), gap, spread, len(with_energy)))
        for atoms, energy, gap, times in zip(with_energy, energies.tolist(), away.tolist(), far.tolist())
        if times > 1 and abs(gap) > SPREADS * spread
    ]


def _out_of_line(energy: float, gap: float, spread: float, count: int) -> str:
    times = f", {abs(gap) / spread:.3g} times their spread" if spread > 0 else ""
    return (
        f"`energy` is {energy:.6g} eV/atom, {abs(gap):.4g} eV/atom {'below' if gap < 0 else 'above'} what its composition has in the other "
        f"{count - 1} frames{times} ({spread:.3g} eV/atom); no matter is bound or squeezed so much, so the calculation went wrong. "
        "Remove the frame, compute it again, or give it weight 0"
    )


def absurd_references(interaction: NDArray[np.float64], weights: NDArray[np.float64], origin: str) -> str | None:
    """Reason why reference energies and labels cannot be of the same calculations; None if they can.

    Args:
        interaction: Energy per atom less reference energies of each frame, in eV/atom.
        weights: Weights of the frames.
        origin: Where the reference energies come from, in words.
    """
    median = weighted_median(interaction, weights)
    if not (median < LOWEST_INTERACTION or median > HIGHEST_INTERACTION):
        return None
    side = "above" if median > 0 else "below"
    return (
        f"half of the training frames lie {abs(median):.3f} eV/atom or more {side} the reference energies ({origin}), where matter is between "
        f"{LOWEST_INTERACTION:g} and {HIGHEST_INTERACTION:+g} eV/atom: E0s and labels are of different codes, functionals or units. Take isolated atoms of the "
        'same calculations, or set `data.e0s = "least_squares"`'
    )


def without_tail(values: NDArray[np.float64], centre: float = 0.0) -> NDArray[np.float64]:
    """The same numbers, with those that lie far beyond nearly all others moved to :data:`TAIL` times where these end.

    A mean or mean square of the result is that of the numbers as they are unless a few of them are far out, which then count little.

    Args:
        values: Any numbers.
        centre: Number about which they lie.
    """
    if len(values) < FEWEST:
        return values
    away = values - centre
    limit = TAIL * float(np.quantile(np.abs(away), 0.99, method="lower"))
    return centre + np.clip(away, -limit, limit) if limit > 0 else values
