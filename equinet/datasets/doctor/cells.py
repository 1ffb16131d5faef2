"""Fit of cells to the positions in them: fractional coordinates, and cells in another unit."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.units import Bohr

from ..report.survey import MOST_NEIGHBOURS, Ints, Survey, pairs_within, radius_of

# Nearest atoms of crystals, liquids and molecules are within this range times the sum of covalent radii.
CONTACT = (0.56, 1.4)
# Factors by which cells are too small or too large, and the unit that they or the positions then have.
SCALES = {
    1 / Bohr: "positions in Bohr or cells divided by it",
    10.0: "cells in nm",
    Bohr: "cells in Bohr",
    0.1: "positions in nm",
}
SAMPLE = 12  # frames that are looked at for what concerns all frames of a set


def contacts(atoms: Atoms) -> tuple[float, float]:
    """Smallest distance over covalent radii of a periodic frame, and of the three axes the largest of that across the border."""
    reach = 2 * CONTACT[1] * float(covalent_radii[atoms.numbers].max())
    i, j, vectors = pairs_within(atoms, min(reach, radius_of(MOST_NEIGHBOURS, atoms)))
    ratios = np.linalg.norm(vectors, axis=1) / (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])
    steps = np.round((vectors - atoms.positions[j] + atoms.positions[i]) @ np.linalg.inv(atoms.cell[:]))
    across = [ratios[steps[:, axis] != 0].min(initial=np.inf) for axis in range(3)]
    return float(ratios.min(initial=np.inf)), max(across)


def fits(atoms: Atoms) -> bool:
    """True if atoms touch their periodic images in all three directions, and none overlap."""
    inner, across = contacts(atoms)
    return CONTACT[0] < inner and across < CONTACT[1]


def fractional_frames(survey: Survey) -> Ints:
    """Frames whose positions all lie in the unit cube while their cell is larger, and are bonded if they are multiplied by the cell."""
    periodic = survey.pbc.all(axis=1) & np.isfinite(survey.volume) & (survey.sizes > 1)
    lows = np.full((len(survey.sizes), 3), np.inf)
    highs = np.full((len(survey.sizes), 3), -np.inf)
    np.minimum.at(lows, survey.frame_of, survey.positions)
    np.maximum.at(highs, survey.frame_of, survey.positions)
    inside = (
        (lows > -0.1).all(axis=1) & (highs < 1.1).all(axis=1) & (np.linalg.norm(survey.cell, axis=2).min(axis=1) > 1.5)
    )
    frames = np.flatnonzero(periodic & inside & (survey.ratio_of_frame < CONTACT[0]))
    bonded = []
    for n in _sample(frames):
        atoms = survey.frames[n].copy()
        atoms.positions = atoms.positions @ atoms.cell[:]
        bonded.append(CONTACT[0] < contacts(atoms)[0] < CONTACT[1])
    return frames if bonded and np.mean(bonded) > 0.5 else frames[:0]


def cell_scale(survey: Survey) -> float:
    """Factor that makes the cells fit the positions, of those between units; 0 if cells fit as they are, or no factor helps."""
    frames = _sample(
        np.flatnonzero(survey.pbc.all(axis=1) & np.isfinite(survey.volume) & survey.counted & (survey.sizes > 1))
    )
    if not len(frames):
        return 0.0
    now = [contacts(survey.frames[n]) for n in frames]
    if np.mean([CONTACT[0] < inner and across < CONTACT[1] for inner, across in now]) > 0.2:
        return 0.0
    overlapping = np.median([inner for inner, _ in now]) < CONTACT[0]
    for factor in SCALES:
        if (factor > 1) == overlapping and np.mean([fits(_scaled(survey.frames[n], factor)) for n in frames]) >= 0.8:
            return factor
    return 0.0


def _scaled(atoms: Atoms, factor: float) -> Atoms:
    copy = atoms.copy()
    copy.cell = copy.cell[:] * factor
    return copy


def _sample(frames: Ints) -> Ints:
    return frames[:: max(1, len(frames) // SAMPLE)][:SAMPLE]


def lost_periodicity(survey: Survey) -> Ints:
    """Frames without periodic directions that have a cell in which their atoms would touch their images."""
    cells = np.abs(np.linalg.det(survey.cell)) > 1.0
    frames = np.flatnonzero(~survey.pbc.any(axis=1) & survey.counted & (survey.sizes > 1) & cells)
    filled = []
    for n in _sample(frames):
        atoms = survey.frames[n].copy()
        atoms.pbc = True
        filled.append(fits(atoms))
    return frames if filled and np.mean(filled) >= 0.8 else frames[:0]
