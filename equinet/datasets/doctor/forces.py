"""Checks of forces that need no other frames: sums, constrained atoms, copies, single ones out of proportion."""

from __future__ import annotations

import numpy as np

from ..report.survey import Ints
from .base import Case, Finding, check

# The forces of a frame sum to nothing. Grids and ignored parts of a density leave some per cent of their size (0.02 in a set of water).
NET = 0.1
NET_ALONE = 30.0  # times the usual net force, of a single frame
# Forces this many times the usual size are of colliding atoms, or wrong; ordinary hot and compressed frames stay below.
OUTLIER = 20.0
COLLISION = 0.85  # of the sum of covalent radii; nearer atoms may have any force that pushes them apart
FORCE_OF_A_BOND = 13.3  # eV/Å, the most that N2 pulls with, by its Morse curve D a / 2 with D = 9.9 eV and a = 2.69 / Å

UNRELATED = 0.3  # of the squares of the forces that a pair potential describes


def net_forces(case: Case) -> np.ndarray:
    """Size of the sum of a frame's forces over what as many forces in random directions would sum to, ``(frames,)``."""
    survey = case.survey
    expected = np.sqrt(3 * survey.sizes) * survey.rms_force
    return np.linalg.norm(survey.by_frame(survey.forces), axis=1) / np.where(expected > 0, expected, np.inf)


@check(net_force="forces of a frame do not sum to zero")
def check_net(case: Case) -> list[Finding]:
    """Look at sums of forces: whole sets with a net force, and single frames."""
    survey = case.survey
    net = np.where(survey.counted & (survey.sizes > 1), net_forces(case), np.nan)
    known = np.flatnonzero(np.isfinite(net))
    if not len(known):
        return []
    usual = float(np.median(net[known]))
    if usual > NET:
        number = f"the forces of a frame sum to {usual:.2f} times what random ones would, in half of the frames"
        looks = "forces of some atoms are missing or constrained, or a field acts from outside"
        remedy = "Take the forces without constraints from the calculation; if a field is meant, ignore this"
        return case.find("net-force", "warn", number, looks, remedy)
    wrong = known[(net[known] > NET) & (net[known] > NET_ALONE * usual)]
    if not len(wrong) or len(wrong) > 0.2 * len(known):
        return []
    worst = wrong[np.argsort(-net[wrong])]
    number = f"the forces sum to {net[worst[0]]:.2g} times what random ones would, in other frames to {usual:.1g} times"
    return case.find(
        "net-force",
        "refuse",
        number,
        "a force of such a frame is wrong, or missing",
        "Remove or correct the frames",
        worst,
    )


@check(forces_outlier="single forces out of all proportion")
def check_outliers(case: Case) -> list[Finding]:
    """Find forces far beyond all others on atoms that touch nothing."""
    survey = case.survey
    known = np.isfinite(survey.forces).all(axis=1) & survey.counted[survey.frame_of]
    frames = survey.rms_force[survey.counted & np.isfinite(survey.rms_force)]
    if len(frames) < 3:
        return []
    usual = float(np.median(frames))
    sizes = np.where(known, np.linalg.norm(np.nan_to_num(survey.forces), axis=1), 0.0)
    away = -np.einsum("ai,ai->a", np.nan_to_num(survey.forces), survey.direction)
    pushed = (survey.ratio < COLLISION) & (away > 0.9 * sizes)
    wrong = (sizes > OUTLIER * usual) & (sizes > 3 * FORCE_OF_A_BOND) & ~pushed
    if not wrong.any() or wrong.sum() > 0.05 * known.sum():
        return []
    worst = np.flatnonzero(wrong)[np.argsort(-sizes[wrong])]
    atom = int(worst[0] - survey.first[survey.frame_of[worst[0]]])
    number = f"{sizes[worst[0]]:.4g} eV/Å on atom {atom}, {sizes[worst[0]] / usual:.0f} times the usual force; no near atom pushes it"
    return case.find(
        "forces-outlier",
        "refuse",
        number,
        "a calculation went wrong, or a number was damaged",
        "Remove the frames or compute them again",
        _first_of_each(survey.frame_of[worst]),
    )


def _first_of_each(frames: Ints) -> Ints:
    return np.array(list(dict.fromkeys(frames.tolist())))


@check(constrained_forces="forces of fixed atoms are zero")
def check_constrained(case: Case) -> list[Finding]:
    """Find forces that are exactly zero although no symmetry asks for it.

    A force vanishes by symmetry on a site that some rotation leaves in place, and then the others come in groups of one size. Where the
    other forces all differ in size there is no such symmetry.
    """
    survey = case.survey
    sizes = np.linalg.norm(survey.forces, axis=1)
    zeros = survey.by_frame(np.where(np.isnan(sizes), np.nan, sizes == 0))
    wrong: list[int] = []
    for frame in np.flatnonzero(survey.counted & (zeros > 0) & (zeros < survey.sizes - 1)):
        own = sizes[survey.first[frame] : survey.first[frame + 1]]
        moving = np.sort(own[own > 0])
        if len(moving) >= 3 and moving[0] > 1e-3 * moving[-1]:
            steps = np.diff(moving) > 1e-5 * moving[-1]
            if steps.mean() > 0.9:
                wrong.append(int(frame))
    if not wrong:
        return []
    number = (
        f"{int(zeros[wrong[0]])} of {survey.sizes[wrong[0]]} atoms have a force of exactly zero, all others have one"
    )
    looks = "forces of fixed atoms (selective dynamics, FixAtoms) that a program set to zero"
    remedy = "Take the forces without constraints from the calculation's output, or remove the frames"
    return case.find("constrained-forces", "refuse", number, looks, remedy, wrong)


@check(forces_copied="forces are positions or velocities under another name")
def check_copied(case: Case) -> list[Finding]:
    """Find forces that are the same numbers as another array of the atoms."""
    survey = case.survey
    seen: dict[str, list[int]] = {}
    for n in np.flatnonzero(survey.counted & (survey.rms_force > 0)):
        forces = survey.forces[survey.first[n] : survey.first[n + 1]]
        for name, array in survey.frames[n].arrays.items():
            other = name.lower().startswith(("pos", "vel", "mom")) and np.shape(array) == forces.shape
            if other and np.allclose(array, forces, rtol=1e-6, atol=0):
                seen.setdefault(name, []).append(int(n))
    return [
        finding
        for name, frames in seen.items()
        for finding in case.find(
            "forces-copied",
            "refuse",
            f"`forces` are the numbers of `{name}`",
            "looks like columns that were taken for others",
            "Correct `data.forces_key`, or the columns of the file",
            frames,
        )
    ]


@check(forces_unrelated="forces that do not follow from the structures")
def check_related(case: Case) -> list[Finding]:
    """Find sets whose forces no pair potential describes at all, as if they were those of other frames."""
    fit = case.pair_potential
    if fit is None or not fit.own or fit.explained > UNRELATED or len(fit.frames) < 10 or not case.cells_fit:
        return []
    number = f"a pair potential fitted to the forces describes {100 * max(fit.explained, 0):.0f} % of their squares, and 70 to 99 % elsewhere"
    looks = "forces of other frames or in another order of the atoms, or noise"
    remedy = "Compare positions and forces of one frame with its calculation"
    return case.find("forces-unrelated", "warn", number, looks, remedy)
