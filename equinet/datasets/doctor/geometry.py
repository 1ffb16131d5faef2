"""Checks of positions and cells: atoms on top of each other, fractional coordinates, cells of another unit, missing periodicity."""

from __future__ import annotations

import numpy as np

from .base import Case, Finding, check
from .cells import SCALES, lost_periodicity
from .units import length_unit

# Nuclei at half the sum of covalent radii: shorter than any bond (uranyl and Cr2 have 0.6); they repel with tens of eV/Å.
TOO_CLOSE = 0.5
REPULSION = 10.0  # eV/Å


@check(close_atoms="atoms on top of each other")
def check_close(case: Case) -> list[Finding]:
    """Find atoms that are closer than any bond, with forces that do not push them apart."""
    survey = case.survey
    if length_unit(case) != "Å" or not case.cells_fit:
        return []
    pushing = -np.einsum("ai,ai->a", np.nan_to_num(survey.forces), survey.direction)
    counted = survey.counted[survey.frame_of]
    close = np.flatnonzero(counted & (survey.ratio < TOO_CLOSE))
    if not len(close):
        return []
    weak = close[pushing[close] < REPULSION]
    chosen, severity = (weak, "refuse") if len(weak) else (close, "warn")
    worst = int(chosen[survey.ratio[chosen].argmin()])
    frame = int(survey.frame_of[worst])
    frames = np.array(list(dict.fromkeys([frame, *survey.frame_of[chosen].tolist()])))
    atoms = [int(each - survey.first[frame]) for each in (worst, survey.partner[worst])]
    number = (
        f"atoms {atoms[0]} and {atoms[1]} are {survey.nearest[worst]:.3g} Å apart, {survey.ratio[worst]:.2f} of the sum of their "
        "covalent radii"
    )
    looks = (
        "no force pushes them apart: positions are wrong, or a cell or periodic direction is"
        if len(weak)
        else "strong forces push them apart, so it may be a collision that is meant"
    )
    return case.find("close-atoms", severity, number, looks, "Correct or remove the frames", frames)  # type: ignore[arg-type]


@check(fractional_positions="positions are fractions of the cell")
def check_fractional(case: Case) -> list[Finding]:
    """Find fractional coordinates under the name of positions."""
    frames = case.fractional
    if not len(frames):
        return []
    number = f"all positions lie between 0 and 1 and atoms {case.survey.nearest[case.survey.first[frames[0]]]:.2g} Å apart, in larger cells"
    looks = "looks like fractional coordinates: multiplied by the cell the atoms are at bond lengths"
    return case.find("fractional-positions", "refuse", number, looks, "Write Cartesian positions in Å", frames)


@check(cell_unit="cells are in another unit than positions")
def check_cell(case: Case) -> list[Finding]:
    """Find cells that are larger or smaller than the positions in them by the factor between two units."""
    factor = case.cell_scale
    if not factor:
        return []
    images = "overlap with" if factor > 1 else "do not reach"
    number = f"atoms {images} their periodic images, and would touch them in cells of {factor:.4g} times the size"
    remedy = "Write positions and cells in the same unit, Å"
    return case.find("cell-unit", "refuse", number, f"looks like {SCALES[factor]}", remedy)


@check(pbc_missing="frames are not periodic although they fill a cell")
def check_periodicity(case: Case) -> list[Finding]:
    """Find cells whose atoms would touch their images, in frames without periodic directions."""
    frames = lost_periodicity(case.survey)
    if not len(frames):
        return []
    number = f"{len(frames)} frames have a cell and no periodic direction, and would be packed like a crystal or liquid with them"
    looks = 'looks like a periodic structure whose `pbc="T T T"` was lost'
    return case.find(
        "pbc-missing", "warn", number, looks, 'Add `pbc="T T T"` to the frames if they are periodic', frames
    )
