"""Checks of energies: single ones out of proportion, E0s of another code, equal ones, two levels of theory."""

from __future__ import annotations

import numpy as np
from ase.data import chemical_symbols

from ..report.spreads import composition_residuals, spread
from ..report.survey import Floats, Ints
from .base import Case, Finding, check
from .units import verdict

# The strongest solid has 8.9 eV per atom (tungsten), the strongest molecule 5.6 (CO); semilocal functionals overbind by one or two.
BINDING = 12.0  # eV/atom
SPREADS = 30.0  # robust standard deviations; the largest of 10^6 normally distributed numbers has 5
SMALLEST_SPREAD = 0.01  # eV/atom, so that a set of relaxed structures may have other frames beside them
JUMP = 1.0  # eV/atom within frames of the same atoms at the same density with similar forces
# Two groups of frames of the same atoms at one density: a melt is at most 0.6 eV/atom above its crystal (silicon).
LEVELS = 1.0  # eV/atom


@check(energy_outlier="single energies out of all proportion")
def check_outliers(case: Case) -> list[Finding]:
    """Find energies that nothing in the structure explains."""
    survey = case.survey
    residual = composition_residuals(survey, survey.energy / verdict(case).energy)
    known = np.flatnonzero(np.isfinite(residual))
    if len(known) < 5:
        return []
    away = residual - np.median(residual[known])
    far = np.abs(away) > SPREADS * max(spread(residual[known]), SMALLEST_SPREAD)
    squeezed = (survey.ratio_of_frame < 0.6) & (away > 0)
    beyond = np.flatnonzero(far & (np.abs(away) > BINDING) & ~squeezed)
    jumps = _jumps(case, residual)
    wrong = np.union1d(beyond, jumps)
    if not len(wrong) or len(wrong) > 0.1 * len(known) + 1:
        return []
    worst = wrong[np.argsort(-np.abs(away[wrong]))]
    number = (
        f"energy {survey.energy[worst[0]] / survey.sizes[worst[0]]:.6g} eV/atom, {away[worst[0]]:+.4g} eV/atom beside the rest, "
        f"whose robust spread is {spread(residual[known]):.2g}"
    )
    return case.find(
        "energy-outlier",
        "refuse",
        number,
        "a calculation that failed, another state, or a damaged number",
        "Remove the frames or compute them again",
        worst,
    )


def _jumps(case: Case, residual: Floats) -> Ints:
    """Frames whose energy is far from those of the same composition, density and size of forces."""
    survey = case.survey
    found = []
    for group in _same_composition(case):
        group = group[np.isfinite(residual[group])]
        if len(group) < 10:
            continue
        ratio, rms = survey.ratio_of_frame[group], survey.rms_force[group]
        density = np.nan_to_num(survey.volume[group]) / survey.sizes[group]
        alike = np.abs(ratio / np.median(ratio) - 1) < 0.2
        alike &= np.abs(density - np.median(density)) <= 0.1 * np.median(density)
        alike &= np.isnan(rms) | (rms < 3 * np.median(rms))
        values = np.sort(residual[group[alike]])
        few = len(values) // 20 + 1
        if len(values) < 8:
            continue
        others = values[few:-few]
        width = max(float(np.ptp(others)), SMALLEST_SPREAD)
        off = np.maximum(others[0] - residual[group], residual[group] - others[-1])
        far = alike & (off > max(JUMP, 3 * width))
        found.extend(group[far].tolist())
    return np.array(found, dtype=np.int64)


def _same_composition(case: Case) -> list[Ints]:
    """Frames with the same shares of elements and the same periodic directions."""
    survey = case.survey
    groups: dict[bytes, list[int]] = {}
    shares = np.round(survey.composition / np.maximum(survey.sizes, 1)[:, None], 6)
    for n in np.flatnonzero(survey.counted):
        groups.setdefault(shares[n].tobytes() + survey.pbc[n].tobytes(), []).append(int(n))
    return [np.array(group) for group in groups.values()]


@check(e0s="energies of isolated atoms are of another code than the others")
def check_e0s(case: Case) -> list[Finding]:
    """Compare interaction energies with what atoms can be bound by."""
    survey = case.survey
    e0s = dict(case.e0s or {})
    if not e0s:
        for n in np.flatnonzero(survey.isolated & np.isfinite(survey.energy) & (survey.weight > 0)):
            e0s.setdefault(int(survey.numbers[survey.first[n]]), float(survey.energy[n]))
    table = np.array([e0s.get(int(z), np.nan) for z in survey.elements])
    known = np.flatnonzero(survey.counted & np.isfinite(survey.energy) & (survey.sizes > 0))
    if not len(known) or not np.isfinite(table).any():
        return []
    sums = np.where(survey.composition[known] > 0, survey.composition[known] * table, 0.0).sum(axis=1)
    interaction = (survey.energy[known] - sums) / survey.sizes[known]
    covered = np.isfinite(interaction)
    if not covered.any():
        return []
    median = float(np.median(interaction[covered]))
    if abs(median) <= BINDING:
        return []
    atoms = ", ".join(
        f"{chemical_symbols[z]} {e:.4g}" for z, e in zip(survey.elements.tolist(), table) if np.isfinite(e)
    )
    number = (
        f"with E0s of {atoms} eV the median interaction energy is {median:.4g} eV/atom; no bond has above {BINDING:g}"
    )
    looks = "E0s and frames come from different codes, functionals, pseudopotentials or units"
    remedy = 'Compute the isolated atoms as the frames were, or set `data.e0s = "least_squares"` and remove them'
    return case.find("e0s", "refuse", number, looks, remedy, np.flatnonzero(survey.isolated))


@check(energies_equal="all energies are the same")
def check_equal(case: Case) -> list[Finding]:
    """Find sets whose energy does not change although the structure does."""
    survey = case.survey
    wrong: list[int] = []
    for group in survey.same_atoms:
        group = group[survey.counted[group] & np.isfinite(survey.energy[group])]
        if len(group) < 4:
            continue
        values, counts = np.unique(survey.energy[group], return_counts=True)
        distinct = len(np.unique(np.round(survey.fingerprint[group], 4), axis=0))
        common = group[survey.energy[group] == values[counts.argmax()]]
        shaken = np.nan_to_num(survey.rms_force[common]) > 0.01
        if counts.max() > 0.5 * len(group) and distinct > 0.5 * len(group) and shaken.mean() > 0.5:
            wrong.extend(common.tolist())
    if not wrong:
        return []
    number = f"the energy is {survey.energy[wrong[0]]:.8g} eV in each of {len(wrong)} frames with different structures and forces"
    return case.find(
        "energies-equal",
        "refuse",
        number,
        "one energy was written into all frames of a trajectory",
        "Write each frame with its own energy",
        wrong,
    )


@check(levels_of_theory="energies of two levels of theory")
def check_levels(case: Case) -> list[Finding]:
    """Find frames of the same atoms at the same density whose energies fall into two groups far apart."""
    survey = case.survey
    factor = verdict(case).energy
    for group in survey.same_atoms:
        group = group[survey.counted[group] & np.isfinite(survey.energy[group])]
        if len(group) < 8:
            continue
        density = np.nan_to_num(survey.volume[group])
        near = np.abs(density - np.median(density)) <= 0.1 * np.median(density)
        ratio = survey.ratio_of_frame[group]
        group = group[near & (np.abs(ratio / np.median(ratio) - 1) < 0.2)]
        values = np.sort(survey.energy[group] / survey.sizes[group] / factor)
        if len(values) < 8:
            continue
        cut = int(np.argmax(np.diff(values))) + 1
        gap, sides = values[cut] - values[cut - 1], (values[:cut], values[cut:])
        widths = max(np.ptp(side) for side in sides)
        if min(map(len, sides)) < max(3, 0.05 * len(values)) or gap < LEVELS or gap < 3 * widths:
            continue
        upper = group[survey.energy[group] / survey.sizes[group] / factor >= values[cut]]
        kinds = sorted({survey.kind[n] for n in upper if survey.kind[n]})
        number = (
            f"{len(upper)} of {len(group)} frames of the same atoms and density lie {gap:.3g} eV/atom above the others"
            + (f" (config_type {', '.join(kinds[:3])})" if kinds else "")
        )
        looks = "labels of two functionals, codes or settings in one set"
        return case.find(
            "levels-of-theory", "warn", number, looks, "Train on one of them, or compute the others again", upper
        )
    return []
