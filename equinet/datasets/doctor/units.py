"""Checks of units: lengths by bonds, energies by what atoms have, energies against forces."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ase.units import Bohr, Hartree

from ..report.survey import Floats
from .base import Case, Finding, check
from .scales import (
    ENERGY_UNITS,
    FORCE_UNITS,
    NEAR,
    ROUGH,
    Scale,
    energy_by_forces,
    energy_by_stress,
    forces_by_hydrogen,
    nearest_unit,
)

# Bonds and contacts of nearest neighbours are 0.6 (uranyl, Cr2) to 1.3 times the sum of covalent radii, half of them 0.8 to 1.1, in
# metals, salts and molecules alike; atoms of noble gases have none. So half of a set outside of this is in another unit:
BONDED = (0.62, 1.45)
NOBLE = (2, 10, 18, 36, 54, 86)
LENGTHS = {"Bohr": Bohr, "nm": 10.0, "pm": 0.01}  # in Å
# Elements whose valence electrons have so much less energy than all that no pseudopotential is taken for another unit of energy.
LIGHT = (1, 5, 6, 7, 8, 9)


def bond_scale(case: Case) -> float:
    """Median distance to the nearest neighbour over the sum of covalent radii; NaN without neighbours."""
    survey = case.survey
    usable = np.isfinite(survey.ratio) & ~np.isin(survey.numbers, NOBLE) & survey.counted[survey.frame_of]
    return float(np.median(survey.ratio[usable])) if usable.any() else np.nan


def length_unit(case: Case) -> str:
    """Unit that lengths seem to have: Å, Bohr, nm or pm; empty if none fits."""
    scale = bond_scale(case)
    if not case.cells_fit or not np.isfinite(scale) or BONDED[0] <= scale <= BONDED[1]:
        return "Å"
    survey = case.survey
    shortest = np.quantile(survey.ratio[np.isfinite(survey.ratio)], 0.05)
    if scale > BONDED[1] and shortest < BONDED[1] * 0.9:  # dissociation curves: some atoms are bonded
        return "Å"
    misses = {name: abs(np.log(scale * size / 0.97)) for name, size in LENGTHS.items()}
    name = min(misses, key=misses.__getitem__)
    return name if misses[name] < np.log(1.4) else ""


@check(length_unit="positions and cells are in Bohr, nm or pm")
def check_lengths(case: Case) -> list[Finding]:
    """Compare distances of nearest neighbours with bond lengths."""
    unit = length_unit(case)
    if unit == "Å":
        return []
    number = f"half of all nearest neighbours are {bond_scale(case):.3g} times the sum of their covalent radii apart"
    if not unit:
        looks = "no bond of any substance is; positions may be in another unit, or the file may hold something else"
        return case.find("length-unit", "refuse", number, looks, "Convert positions and cells to Å")
    remedy = (
        f'Set `[data.units] length = "{unit}"`' if unit != "pm" else "Divide positions and cells by 100, pm is not read"
    )
    looks = f"looks like {unit}: with 1 {unit} = {LENGTHS[unit]:.4g} Å it is {bond_scale(case) * LENGTHS[unit]:.2f}"
    return case.find("length-unit", "refuse", number, looks, remedy)


def all_electron_energies(numbers: Floats) -> Floats:
    r"""Energies of neutral atoms with all their electrons, in eV, a few per cent off.

    .. math:: E = -0.768745 Z^{7/3} + Z^2/2 - 0.269900 Z^{5/3} \quad\text{Hartree}

    Source:
        Thomas-Fermi with the corrections of Scott and of Schwinger; Englert and Schwinger, Phys. Rev. A 32, 26 (1985).
    """
    return Hartree * (-0.768745 * numbers ** (7 / 3) + numbers**2 / 2 - 0.2699 * numbers ** (5 / 3))


def energy_over_all_electrons(case: Case) -> float:
    """Median ratio of energies to those of free atoms with all electrons; NaN if other elements than the light ones matter."""
    survey = case.survey
    usable = survey.counted & np.isfinite(survey.energy)
    if not usable.any() or not np.isin(survey.elements, LIGHT).all() or (survey.elements <= 1).all():
        return np.nan
    expected = survey.composition @ all_electron_energies(survey.elements.astype(np.float64))
    return float(np.median(survey.energy[usable] / expected[usable]))


@dataclass(frozen=True)
class Verdict:
    """Units of energies and forces, as far as the data tell.

    Attributes:
        energy: Energies in the file over those in eV.
        forces: Forces in the file over those in eV/Å, with their sign.
        energy_unit: Its name; empty for eV.
        force_unit: Its name; empty for eV/Å.
        per_atom: True if energies seem to be divided by the number of atoms.
        scale: Ratio of energy differences to the work of the forces; None if it is not known.
        by_hydrogen: Ratio of forces to those in eV/Å by bonds of hydrogen; None if it is not known.
        absolute: True if the energy unit follows from the energies themselves.
        doubt: Another unit that fits as well; empty if none does.
    """

    energy: float = 1.0
    forces: float = 1.0
    energy_unit: str = ""
    force_unit: str = ""
    per_atom: bool = False
    scale: Scale | None = None
    by_hydrogen: Scale | None = None
    absolute: bool = False
    doubt: str = ""


def verdict(case: Case) -> Verdict:
    """Decide units of energies and forces from both; found once for a case."""
    if "verdict" not in case.notes:
        case.notes["verdict"] = _verdict(case)
    found = case.notes["verdict"]
    assert isinstance(found, Verdict)
    return found


def _verdict(case: Case) -> Verdict:
    if not case.cells_fit:  # then distances mean nothing
        return Verdict()
    length = LENGTHS.get(length_unit(case), 1.0)
    scale = energy_by_forces(case.survey, case.pairs, case.pair_potential)
    if scale is not None:  # energies change by F dx, and dx has its unit, too
        scale = Scale(scale.ratio / length, scale.accuracy, scale.how, scale.error / length)
    forces = forces_by_hydrogen(case.survey, length)
    unit = _absolute_unit(case, scale, forces)
    if unit:
        energy = 1 / ENERGY_UNITS[unit]
        return _with_forces(Verdict(energy, energy_unit=unit, scale=scale, by_hydrogen=forces, absolute=True))
    if _is_per_atom(case):
        sizes = float(np.median(case.survey.sizes[case.survey.counted]))
        found = Verdict(1 / sizes, per_atom=True, scale=scale, by_hydrogen=forces)
        return found if forces is None else _with_forces(found)
    if forces is not None and not forces.agrees and abs(forces.ratio) > 0:
        return _by_forces(scale, forces)
    if scale is None:
        return Verdict(by_hydrogen=forces)
    return _by_ratio(case, scale, forces)


def _absolute_unit(case: Case, scale: Scale | None, forces: Scale | None) -> str:
    """Unit other than eV that energies have by themselves; empty if there is none, or the forces contradict it.

    Codes with valence electrons only have a few hundredths of an energy with all electrons, which may look like another unit.
    """
    absolute = energy_over_all_electrons(case)
    if not np.isfinite(absolute) or absolute <= 0:
        return ""
    units = {name: ENERGY_UNITS[name] for name in ("Hartree", "kcal/mol", "kJ/mol")}
    unit, miss = nearest_unit(absolute, units)
    if scale is not None and forces is not None:
        energy = abs(scale.ratio * forces.ratio)  # over eV
        accuracy = scale.accuracy * forces.accuracy
        return unit if miss < 1.1 and 1 / accuracy < energy * units[unit] < accuracy else ""
    return unit if miss < 1.03 else ""


def _by_forces(scale: Scale | None, forces: Scale) -> Verdict:
    """The verdict where bonds tell that the forces are in another unit or of the other sign, and energies follow by the ratio."""
    size, unit = 1.0, ""
    ratio = abs(forces.ratio)
    if not 1 / forces.accuracy < ratio < forces.accuracy:
        if scale is not None and scale.accuracy < 2:  # energies have some unit, so the ratio to them tells more sharply
            known = [1.0, *ENERGY_UNITS.values()]
            ratio = 1 / min(known, key=lambda value: abs(np.log(ratio * abs(scale.ratio) * value))) / abs(scale.ratio)
        unit, _ = nearest_unit(ratio, FORCE_UNITS)
        size = 1 / FORCE_UNITS[unit]
    found = Verdict(forces=float(np.sign(forces.ratio)) * size, force_unit=unit, scale=scale, by_hydrogen=forces)
    if scale is None or 1 / scale.accuracy < abs(scale.ratio) * size < scale.accuracy:
        return found
    energy_unit, _ = nearest_unit(abs(scale.ratio) * size, ENERGY_UNITS)
    return replace(found, energy=1 / ENERGY_UNITS[energy_unit], energy_unit=energy_unit)


def _with_forces(found: Verdict) -> Verdict:
    """The verdict with the forces in the unit that follows from that of the energies."""
    scale = found.scale
    if scale is None:
        return found
    factor = found.energy / scale.ratio
    unit, size = "", 1.0
    if not 1 / scale.accuracy < abs(factor) < scale.accuracy:
        unit, _ = nearest_unit(factor, FORCE_UNITS)
        size = 1 / FORCE_UNITS[unit]
    return replace(found, forces=(-1.0 if factor < 0 else 1.0) * size, force_unit=unit)


def _by_ratio(case: Case, scale: Scale, forces: Scale | None) -> Verdict:
    """The unit of energies or of forces that explains their ratio best; one of the two is taken to be right.

    Where cells are strained, stress tells which: it goes with the forces if energies are wrong, and with energies if forces are.
    """
    sign = -1.0 if scale.ratio < 0 else 1.0
    size, accuracy = abs(scale.ratio), scale.accuracy
    known = Verdict(forces=sign, scale=scale, by_hydrogen=forces)
    if scale.accuracy > size > 1 / scale.accuracy:
        return known
    stress = energy_by_stress(case.pairs)
    by_energy, by_forces = True, forces is None  # forces are right where bonds of hydrogen say so
    if stress is not None and stress.agrees:
        by_energy, by_forces = False, True
    elif stress is not None and 1 / ROUGH < abs(stress.ratio) / size < ROUGH:
        by_forces, size, accuracy = False, abs(stress.ratio), stress.accuracy
    options: list[tuple[float, Verdict]] = []
    if by_energy:
        near = case.pairs.sizes[case.pairs.displacement < NEAR]
        atoms = float(np.median(near if len(near) else case.survey.sizes[case.survey.counted]))
        options.append((abs(np.log(size * atoms)), replace(known, energy=1 / atoms, per_atom=True)))
        for unit, value in ENERGY_UNITS.items():
            options.append((abs(np.log(size * value)), replace(known, energy=1 / value, energy_unit=unit)))
    if by_forces:
        for unit, value in FORCE_UNITS.items():
            options.append((abs(np.log(size / value)), replace(known, forces=sign / value, force_unit=unit)))
    options.sort(key=lambda option: option[0])
    within = options[0][0] + np.log(1.3 if accuracy < 2 else 2.5)
    doubt = " or ".join(_named(other) for miss, other in options[1:] if miss < within)
    return replace(options[0][1], doubt=doubt)


def _named(found: Verdict) -> str:
    if found.per_atom:
        return "energies per atom"
    return f"energies in {found.energy_unit}" if found.energy_unit else f"forces in {found.force_unit}"


def _is_per_atom(case: Case) -> bool:
    """True if energies of frames with the same composition do not grow with the number of atoms."""
    survey = case.survey
    usable = np.flatnonzero(survey.counted & np.isfinite(survey.energy))
    sizes = survey.sizes[usable]
    if len(usable) < 5 or len(np.unique(sizes)) < 2 or sizes.max() < 1.5 * sizes.min():
        return False
    shares = survey.composition[usable] / sizes[:, None]
    total, mean = survey.energy[usable] / sizes, survey.energy[usable]
    spreads = [_spread_beside_composition(shares, values) for values in (total, mean)]
    # Of a size that varies by half or more, the wrong one of the two spreads as much as it does.
    return bool(spreads[1] * 4 < spreads[0])


def _spread_beside_composition(shares: Floats, values: Floats) -> float:
    """Robust spread beside the best linear function of composition, in units of the typical size."""
    weights = np.ones(len(values))
    residual = values
    for _ in range(15):
        root = np.sqrt(weights)
        residual = values - shares @ np.linalg.lstsq(shares * root[:, None], values * root, rcond=1e-8)[0]
        weights = 1 / np.maximum(np.abs(residual), 1e-3 * np.median(np.abs(values)) + 1e-12)
    return float(np.median(np.abs(residual)) / max(np.median(np.abs(values)), 1e-12))


@check(energy_unit="energies are in Hartree, kcal/mol, ...", energy_per_atom="energies are those per atom")
def check_energies(case: Case) -> list[Finding]:
    """Compare energies with those of free atoms, and their differences with the work of the forces."""
    found = verdict(case)
    if found.per_atom:
        number = (
            f"energy differences are {found.scale.said()}"
            if found.scale is not None
            else "energies of the same composition do not grow with the number of atoms"
        )
        looks = "looks like energies per atom, where those of the whole frame are meant" + _or(found.doubt)
        return case.find("energy-per-atom", "refuse", number, looks, "Multiply them by the number of atoms")
    if not found.energy_unit:
        return []
    unit = found.energy_unit
    if found.absolute:
        number = f"energies are {energy_over_all_electrons(case):.4g} times those of the free atoms with all electrons"
    else:
        assert found.scale is not None
        number = f"energy differences are {found.scale.said()}"
    looks = f"looks like {unit}: factor {1 / ENERGY_UNITS[unit]:.5g}{_or(found.doubt)}"
    forces = found.force_unit or "eV/Ang"
    return case.find(
        "energy-unit", "refuse", number, looks, f'Set `[data.units] energy = "{unit}"` and `forces = "{forces}"`'
    )


def _or(doubt: str) -> str:
    return f", or like {doubt}" if doubt else ""


@check(
    forces_sign="forces are gradients, without the minus", forces_unit="forces are in Hartree/Bohr, kcal/mol/Ang, ..."
)
def check_forces(case: Case) -> list[Finding]:
    """Compare the work of the forces with energy differences, and the stiffness of hydrogen's bonds with what it is."""
    found = verdict(case)
    scale, bonds = found.scale, found.by_hydrogen
    if scale is None and bonds is None:
        return []
    findings = []
    said = [f"energy differences are {scale.said()}"] if scale is not None else []
    said += [f"forces are {bonds.said()}"] if bonds is not None and not bonds.agrees else []
    number = ", ".join(said)
    if found.forces < 0:
        looks = "looks like gradients, which are minus the forces" + _other_unit(found)
        findings += case.find(
            "forces-sign", "refuse", number, looks, "Change the sign of the forces in the file, F = -dE/dx"
        )
    if found.force_unit:
        unit = found.force_unit
        looks = (
            f"looks like {unit}: factor {1 / FORCE_UNITS[unit]:.5g}{_other_unit(found, sign=True)}{_or(found.doubt)}"
        )
        findings += case.find("forces-unit", "refuse", number, looks, f'Set `[data.units] forces = "{unit}"`')
    return findings


def _other_unit(found: Verdict, *, sign: bool = False) -> str:
    if sign:
        return " and the sign" if found.forces < 0 else ""
    return f", in {found.force_unit}" if found.force_unit else ""
