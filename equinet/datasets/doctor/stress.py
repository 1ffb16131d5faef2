"""Checks of stresses: unit, sign, virials under the name, sizes that no solid has."""

from __future__ import annotations

import numpy as np
from ase.units import GPa

from ..report.survey import Floats, Ints
from .base import Case, Finding, check
from .scales import DESCRIBES, STRAINED_NEAR, STRESS_UNITS, Scale, comparable, from_fit, from_pairs
from .units import LENGTHS, length_unit, verdict

# What pulls a solid apart: the ideal strength of diamond is 225 GPa along its softest direction (Telling et al., PRL 84, 5160), of
# tungsten and molybdenum 30; a set with one per cent of its frames beyond is not in eV/Å³.
TENSION = 1.4  # eV/Å³
COMPRESSION = 20.0  # eV/Å³, 3 TPa; the centre of the Earth has 0.36
# Stress that solids in training sets usually have; the unit that comes nearest to it is named where nothing else tells.
USUAL = 3 * GPa
FEWEST_FRAMES = 6  # that a fit compares


@check(
    stress_unit="stress is in kbar, GPa, bar, ...",
    stress_sign="stress counts compression positive",
    stress_is_virial="a virial under the name stress",
)
def check_proportion(case: Case) -> list[Finding]:
    """Compare stresses with energy differences of strained frames, with a pair potential fitted to the forces, and with any solid."""
    known = case.survey.counted & np.isfinite(case.survey.stress).all(axis=(1, 2)) & np.isfinite(case.survey.volume)
    if not known.any() or not case.cells_fit:
        return []
    found = by_stress(case)
    if found is not None:
        scale, virial, volume = found
        if scale.agrees:
            return []
        return _name_it(case, scale, virial, volume)
    return _too_large(case, known)


def by_stress(case: Case) -> tuple[Scale, Scale | None, float] | None:
    """Label over stress in eV/Å³, label over strain derivative in eV, and the volume; None if neither pairs nor a fit tell."""
    pairs, units = case.pairs, verdict(case)
    # Forces as they seem to be, in the units of the energies.
    work = pairs.forces * units.energy / units.forces
    near = pairs.strained & (pairs.displacement < STRAINED_NEAR)
    rest = (pairs.energy - work) / units.energy
    # The work of the forces is known to some per cent, and what is left then to twice as many.
    near &= np.abs(work / units.energy) < 2 * np.maximum(np.abs(rest), 1e-9)
    how = "what energy differences of strained frames say"
    scale = from_pairs(pairs.stress[near], rest[near], how)
    if scale is not None:
        volume = float(np.median(pairs.volume[near]))
        virial = from_pairs(pairs.stress[near] / pairs.volume[near], rest[near], how)
        return _in_angstrom(case, scale), _in_angstrom(case, virial), volume
    return _by_fit(case, 1 / units.forces)


def _by_fit(case: Case, forces: float) -> tuple[Scale, Scale | None, float] | None:
    """The same by a pair potential: by how stress changes within frames of one cell, or else by stresses as they are.

    How the energy depends on the density, forces do not tell; changes at one density do not need it.
    """
    survey, fit = case.survey, case.pair_potential
    if fit is None or fit.explained < DESCRIBES:
        return None
    volumes = survey.volume[fit.frames]
    virial = survey.stress[fit.frames]
    label, fitted = virial * volumes[:, None, None], fit.strain * forces
    known = np.asarray(np.isfinite(label).all(axis=(1, 2)))
    groups = [group[known[group]] for group in comparable(survey, fit)]
    groups = [group for group in groups if len(group) >= 3]
    if sum(map(len, groups)) < FEWEST_FRAMES:
        groups, centre = [np.flatnonzero(known)], False
    else:
        centre = True
    frames = np.concatenate(groups)
    if len(frames) < FEWEST_FRAMES:
        return None

    def flat(tensors: Floats) -> Floats:
        return np.concatenate(
            [(each - np.median(each, axis=0) * centre).ravel() for each in (tensors[g] for g in groups)]
        )

    how = "those of a pair potential fitted to the forces"
    scale = from_fit(flat(label), flat(fitted), len(frames), how, each=3)
    if scale is None:
        return None
    as_virial = from_fit(flat(virial), flat(fitted), len(frames), how, each=3)
    return _in_angstrom(case, scale), _in_angstrom(case, as_virial), float(np.median(volumes[frames]))


def _in_angstrom(case: Case, scale: Scale | None) -> Scale:
    """The ratio, if positions and cells have another unit than Å: the volume has it to the third power."""
    if scale is None:
        return Scale(np.nan, 1.0, "")
    length = LENGTHS.get(length_unit(case), 1.0)
    return Scale(scale.ratio * length**3, scale.accuracy, scale.how, scale.error * length**3)


def _name_it(case: Case, scale: Scale, virial: Scale | None, volume: float) -> list[Finding]:
    """The finding that fits a ratio best: a unit, a sign, both, or a virial."""
    number = f"stresses are {scale.said()}"
    misses = {unit: abs(np.log(abs(scale.ratio) * size)) for unit, size in STRESS_UNITS.items()}
    misses[""] = abs(np.log(abs(scale.ratio)))
    if virial is not None and np.isfinite(virial.ratio):
        misses["virial"] = abs(np.log(abs(virial.ratio)))
    best = min(misses, key=misses.__getitem__)
    sign = "compression positive" if scale.ratio < 0 else ""
    if best == "":
        looks = f"looks like {sign}: factor -1" if sign else "looks like no unit that is known"
        name = "stress-sign" if sign else "stress-unit"
        remedy = 'Set `data.stress_sign = "compression"`' if sign else "Convert it to eV/Å³"
        return case.find(name, "refuse" if sign else "warn", number, looks, remedy)
    if best == "virial":
        looks = f"looks like a virial in eV: with a volume of {volume:.4g} Å³ the factor is {-1 / volume:.3g}"
        if virial is not None and virial.ratio > 0:
            looks += " with its sign reversed"
        return case.find(
            "stress-is-virial",
            "refuse",
            number,
            looks + _doubt(misses, best),
            'Set `data.virial_key = "stress"` and `data.stress_key = ""`' + _minus(virial),
        )
    return _unit(case, number, best, bool(sign), _doubt(misses, best))


def _minus(virial: Scale | None) -> str:
    if virial is not None and virial.ratio > 0:
        return ', and `data.stress_sign = "compression"`'
    return ""


def _doubt(misses: dict[str, float], best: str) -> str:
    near = [name for name, miss in misses.items() if name not in (best, "") and miss < misses[best] + np.log(1.6)]
    return f", or like {' or '.join(near)}" if near else ""


def _unit(case: Case, number: str, unit: str, sign: bool, doubt: str = "") -> list[Finding]:
    looks = f"looks like {unit}: factor 1/{1 / STRESS_UNITS[unit]:.6g}{' and the sign' if sign else ''}{doubt}"
    remedy = f'Set `[data.units] stress = "{unit}"`{_compression(sign)}'
    return case.find("stress-unit", "refuse", number, looks, remedy)


def _compression(sign: bool) -> str:
    return ' and `data.stress_sign = "compression"`' if sign else ""


def _too_large(case: Case, known: np.ndarray) -> list[Finding]:
    """A finding if more than one per cent of the frames have a stress that no solid has."""
    survey = case.survey
    frames = np.flatnonzero(known)
    principal = np.linalg.eigvalsh(survey.stress[frames])
    beyond = (principal[:, 2] > TENSION) | (principal[:, 0] < -COMPRESSION)
    if beyond.mean() <= 0.01 or (len(frames) > 20 and beyond.sum() < 2):
        return []
    sizes = np.abs(principal).max(axis=1)
    worst = frames[beyond][np.argsort(-sizes[beyond])]
    typical = float(np.median(sizes))
    number = f"{sizes.max():.4g} eV/Å³, which is {sizes.max() / GPa:.3g} GPa; half of the frames have more than {typical:.3g} eV/Å³"
    volumes = survey.volume[frames]
    misses = {unit: abs(np.log(typical * size / USUAL)) for unit, size in STRESS_UNITS.items()}
    if typical / np.median(volumes) > 1e-4 and len(frames) > 10 and np.ptp(volumes) > 0.5 * np.median(volumes):
        growth = np.corrcoef(np.log(np.maximum(sizes, 1e-12)), np.log(volumes))[0, 1]
        if growth > 0.5:
            misses["virial"] = -1.0
    best = min(misses, key=misses.__getitem__)
    if best == "virial":
        looks = "it grows with the volume as a virial does, which is an energy"
        remedy = 'Set `data.virial_key = "stress"` and `data.stress_key = ""`'
        return case.find("stress-is-virial", "refuse", number, looks, remedy, worst)
    sign = _sign_by_volume(case, frames)
    others = [unit for unit in misses if unit != best and misses[unit] < misses[best] + np.log(3)]
    if sign < 0:
        others.append("a virial, -volume times stress")
    doubt = f", or like {' or '.join(others)}" if others else ""
    words = {-1: " and the sign", 0: ", and perhaps the sign", 1: ""}[sign]
    looks = f"beyond any solid; looks like {best}: factor 1/{1 / STRESS_UNITS[best]:.6g}{words}{doubt}"
    compression = {-1: ' and `data.stress_sign = "compression"`', 1: ""}.get(
        sign, ', and `data.stress_sign = "compression"` if it comes from VASP'
    )
    return case.find(
        "stress-unit", "refuse", number, looks, f'Set `[data.units] stress = "{best}"`{compression}', worst
    )


def _sign_by_volume(case: Case, frames: Ints) -> int:
    """Sign of a stress by the bulk modulus, which is positive: 1 if it grows with the volume, -1 if it falls, 0 if that is not known."""
    survey = case.survey
    per_atom = np.log(survey.volume[frames] / survey.sizes[frames])
    mean = np.trace(survey.stress[frames], axis1=1, axis2=2) / 3
    shares = np.round(survey.composition[frames] / survey.sizes[frames, None], 6)
    _, of, counts = np.unique(shares, axis=0, return_inverse=True, return_counts=True)
    own = of.ravel() == counts.argmax()
    if own.sum() < 5 or np.std(per_atom[own]) < 0.01:
        return 0
    correlation = np.corrcoef(per_atom[own], mean[own])[0, 1]
    return 0 if abs(correlation) < 0.8 else int(np.sign(correlation))


@check(stress_outlier="single stresses beyond any solid")
def check_outliers(case: Case) -> list[Finding]:
    """Find stresses of single frames that no solid has."""
    survey = case.survey
    frames = np.flatnonzero(survey.counted & np.isfinite(survey.stress).all(axis=(1, 2)))
    if not len(frames):
        return []
    sizes = np.abs(np.linalg.eigvalsh(survey.stress[frames]))
    largest = sizes.max(axis=1)
    usual = float(np.median(largest))
    wrong = (largest > TENSION) & (largest > 30 * usual) & (survey.ratio_of_frame[frames] > 0.55)
    if not wrong.any() or wrong.mean() > 0.05:
        return []
    worst = frames[wrong][np.argsort(-largest[wrong])]
    number = f"{largest.max():.4g} eV/Å³, {largest.max() / GPa:.3g} GPa, while half of the frames have less than {usual:.2g} eV/Å³"
    return case.find(
        "stress-outlier",
        "refuse",
        number,
        "a calculation went wrong, or a number was damaged",
        "Remove the frames or compute them again",
        worst,
    )
