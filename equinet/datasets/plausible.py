"""Frames that no calculation gives which is of any use: out of proportion to the other frames, or to the reference energies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from .bounds import too_large
from .composition import weighted_median
from .frames import weight_of
from .properties import PROPERTIES

# A force of a training set is an outlier if it is this many times the median over the frames of their root mean square, and above
# FORCE_OF_COLLISIONS. Sets of relaxed structures have a tiny median beside which an ordinary force is large; nothing below a collision of
# atoms is refused. Hot and compressed frames stay within 100 times the median.
OUTLIER = 1e3
FORCE_OF_COLLISIONS = 100.0  # eV/Å

# Bounds of the energy of half of a set against free atoms, in eV/atom. Some codes give free atoms without spin the energy zero, which adds up
# to 5 eV to the binding; a set squeezed to 1 TPa stays below the upper one.
LOWEST_INTERACTION, HIGHEST_INTERACTION = -20.0, 10.0

# Names of the findings of the doctor (:mod:`equinet.datasets.doctor`) by which a user accepts them.
FORCE_OUTLIER, ABSURD_E0S = "forces-outlier", "e0s"

# Statistics of so few numbers are taken as they are: they have no tail to speak of.
FEWEST = 100
# How far beyond all but one per cent of the numbers the rest may lie; a normal distribution ends at 2.
TAIL = 10.0


def force_outlier(frames: Sequence[Atoms]) -> tuple[Atoms, str] | None:
    """The first frame with a force out of all proportion to the others, and what is wrong with it; None if there is none.

    One such force decides the scale of a model, which never recovers.

    Args:
        frames: Frames of one set, without isolated atoms, whose labels are raw results of their calculators. Frames of weight 0 are left out.
    """
    with_forces = [
        (atoms, atoms.calc.results["forces"])
        for atoms in frames
        if len(atoms) and "forces" in atoms.calc.results and weight_of(atoms, "forces") > 0
    ]
    if not with_forces:
        return None
    median = float(np.median([np.sqrt(np.mean(forces**2)) for _, forces in with_forces]))
    bound = max(OUTLIER * median, FORCE_OF_COLLISIONS)
    for atoms, forces in with_forces:
        if np.abs(forces).max() > bound:
            such = (
                f"in half of the {len(with_forces)} frames they are below {median:.3g} eV/Å (root mean square), and those of more "
                f"than {bound:.4g} eV/Å"
            )
            return atoms, f"`forces` {too_large(PROPERTIES['forces'], np.abs(forces), such)}"
    return None


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
