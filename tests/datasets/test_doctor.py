"""The doctor: silent on right sets, and of a spoilt one it names fault, frame, factor and remedy."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from doctored import changed, copper, ethanol, relabelled, with_one

from equinet.datasets import Labels, with_labels
from equinet.datasets.doctor import CHECKS, NAMES, Finding, diagnose, require_names, require_sound
from equinet.datasets.doctor.blocks import blocks
from equinet.datasets.doctor.pairs import near_pairs
from equinet.datasets.doctor.surrogate import fit_pair_potential
from equinet.datasets.doctor.units import all_electron_energies
from equinet.datasets.frames import find_labels
from equinet.datasets.report import survey
from equinet.tables import as_text

GPA, KCAL = units.GPa, units.kcal / units.mol


@pytest.fixture(scope="module")
def metal() -> list[Atoms]:
    return copper(24)


@pytest.fixture(scope="module")
def molecules() -> list[Atoms]:
    return ethanol(40)


def found(frames: list[Atoms], **parts: list[Atoms]) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose({"train": frames, **parts})}


def test_right_sets_are_not_remarked_on(metal: list[Atoms], molecules: list[Atoms]) -> None:
    assert found(metal) == {}
    assert found(molecules) == {}


def test_energies_differ_by_the_work_of_forces_and_stress(metal: list[Atoms]) -> None:
    """The trapezoidal rule along a pair, against EMT's own energies; the error is of third order in the steps."""

    def error(size: float) -> float:
        pairs = near_pairs(survey({"a": copper(8, strain=size, shake=2 * size)}))
        miss = np.abs(pairs.energy - pairs.forces - pairs.stress).max()
        return float(miss / np.abs(pairs.energy).max())

    assert error(0.004) < 0.03
    assert error(0.001) < error(0.004) / 2


def test_a_turned_molecule_has_the_same_work_of_forces(molecules: list[Atoms]) -> None:
    straight = near_pairs(survey({"a": molecules[:4]}))
    turned = []
    for n, atoms in enumerate(molecules[:4]):
        copy = atoms.copy()
        labels = find_labels(atoms)
        copy.rotate(40.0 * n, (1, 2, 3))
        matrix = np.linalg.lstsq(
            atoms.positions - atoms.positions.mean(0), copy.positions - copy.positions.mean(0), rcond=None
        )[0]
        turned.append(with_labels(copy, Labels({"energy": labels["energy"], "forces": labels["forces"] @ matrix})))
    np.testing.assert_allclose(near_pairs(survey({"a": turned})).forces, straight.forces, atol=1e-9)


def test_a_pair_potential_is_recovered_from_its_forces(molecules: list[Atoms]) -> None:
    fit = fit_pair_potential(survey({"a": molecules}))
    assert fit is not None
    assert fit.explained > 0.8
    energies = np.array([find_labels(molecules[n])["energy"] for n in fit.frames])
    assert np.corrcoef(energies, fit.energy)[0, 1] > 0.8


def test_energies_of_atoms_are_those_of_density_functionals() -> None:
    energies = all_electron_energies(np.array([6.0, 7.0, 8.0, 9.0]))
    np.testing.assert_allclose(energies, [-1029.5, -1485.0, -2042.0, -2713.0], rtol=0.02)


@pytest.mark.parametrize(
    ("factors", "name", "words"),
    [
        ({"forces": -1}, "forces-sign", "gradients"),
        ({"forces": units.Bohr / units.Hartree}, "forces-unit", "Hartree/Bohr"),
        ({"forces": 1 / KCAL}, "forces-unit", "kcal/mol/Ang"),
        ({"length": 1 / units.Bohr}, "length-unit", '[data.units] length = "Bohr"'),
        ({"length": 0.1}, "length-unit", '[data.units] length = "nm"'),
        ({"cell": 1 / units.Bohr}, "cell-unit", "Bohr"),
        ({"stress": -1}, "stress-sign", 'data.stress_sign = "compression"'),
        ({"stress": -10 / GPA}, "stress-unit", 'stress = "kbar"` and `data.stress_sign = "compression"'),
        ({"stress": 10 / GPA}, "stress-unit", "factor 1/1602.18"),
        ({"stress": 1 / GPA}, "stress-unit", "factor 1/160.218"),
        ({"stress": 1e4 / GPA}, "stress-unit", 'stress = "bar"'),
    ],
)
def test_units_and_signs_of_a_metal(metal: list[Atoms], factors: dict[str, float], name: str, words: str) -> None:
    finding = found(changed(metal, **factors))[name]
    assert finding.severity == "refuse"
    assert words in finding.sentence()


def test_only_the_stress_is_refused_where_only_the_stress_is_wrong(metal: list[Atoms]) -> None:
    assert list(found(changed(metal, stress=10 / GPA))) == ["stress-unit"]


def test_a_virial_under_the_name_of_stress(metal: list[Atoms]) -> None:
    frames = [relabelled(atoms, stress=-atoms.get_volume() * find_labels(atoms)["stress"]) for atoms in metal]
    finding = found(frames)["stress-is-virial"]
    assert 'data.virial_key = "stress"' in finding.remedy
    assert "stress_sign" not in finding.remedy


def test_a_stress_that_no_solid_has_is_refused_without_anything_to_compare_with() -> None:
    frames = [atoms for n, atoms in enumerate(copper(12)) if n % 2][:5]
    frames = [with_labels(a, Labels({"stress": find_labels(a)["stress"] * 1602})) for a in frames]
    assert "beyond any solid" in found(frames)["stress-unit"].looks_like


@pytest.mark.parametrize(
    ("factors", "names", "words"),
    [
        ({"forces": -1}, ["forces-sign"], "gradients"),
        ({"forces": 1 / KCAL}, ["forces-unit"], "kcal/mol/Ang"),
        ({"energy": 1 / units.Hartree}, ["energy-unit"], 'energy = "Hartree"` and `forces = "eV/Ang"'),
        (
            {"energy": 1 / KCAL, "forces": 1 / KCAL},
            ["energy-unit", "forces-unit"],
            'energy = "kcal/mol"` and `forces = "kcal/mol/Ang"',
        ),
        ({"energy": 1 / units.Hartree, "forces": 1 / units.Hartree}, ["energy-unit", "forces-unit"], "Hartree/Ang"),
    ],
)
def test_units_and_signs_of_molecules(
    molecules: list[Atoms], factors: dict[str, float], names: list[str], words: str
) -> None:
    """All labels in one other unit agree with each other; energies of atoms and stiffness of bonds tell."""
    findings = found(changed(molecules, **factors))
    assert list(findings) == names
    assert words in findings[names[0]].sentence()


def test_energies_per_atom(molecules: list[Atoms]) -> None:
    larger = []
    for atoms in molecules[:10]:
        twice = atoms + atoms
        twice.positions[len(atoms) :] += 12.0
        forces = np.concatenate([find_labels(atoms)["forces"]] * 2)
        larger.append(with_labels(twice, Labels({"energy": 2 * find_labels(atoms)["energy"], "forces": forces})))
    both = [*molecules[10:], *larger]
    assert found(both) == {}
    wrong = [relabelled(atoms, energy=find_labels(atoms)["energy"] / len(atoms)) for atoms in both]
    assert "energy-per-atom" in found(wrong)


def test_one_wrong_energy_is_named_by_its_frame(metal: list[Atoms]) -> None:
    frames = with_one(metal, 7, lambda a: relabelled(a, energy=find_labels(a)["energy"] - 558.0))
    finding = found(frames)["energy-outlier"]
    assert finding.frames == ("a.xyz, frame 7",)
    assert finding.count == 1


def test_one_wrong_force_is_named_by_its_frame(metal: list[Atoms]) -> None:
    def spoil(atoms: Atoms) -> Atoms:
        forces = find_labels(atoms)["forces"].copy()
        forces[3, 1] += 80.0
        return relabelled(atoms, forces=forces)

    findings = found(with_one(metal, 5, spoil))
    assert findings["forces-outlier"].frames == findings["net-force"].frames == ("a.xyz, frame 5",)
    assert "on atom 3" in findings["forces-outlier"].number


def test_atoms_on_top_of_each_other(metal: list[Atoms]) -> None:
    def spoil(atoms: Atoms) -> Atoms:
        moved = atoms.copy()
        moved.positions[2] = moved.positions[9] + 0.4
        return with_labels(moved, find_labels(atoms))

    finding = found(with_one(metal, 3, spoil))["close-atoms"]
    assert finding.frames == ("a.xyz, frame 3",)
    assert "atoms 2 and 9" in finding.number or "atoms 9 and 2" in finding.number


def test_a_force_of_zero_on_fixed_atoms_is_found_and_one_by_symmetry_is_not(metal: list[Atoms]) -> None:
    def spoil(atoms: Atoms) -> Atoms:
        forces = find_labels(atoms)["forces"].copy()
        forces[:4] = 0
        return relabelled(atoms, forces=forces)

    shaken = metal[::2]
    assert "constrained-forces" in found([spoil(atoms) for atoms in shaken])
    linear = []
    for stretch in (0.02, 0.05, 0.08, 0.1):  # the carbon of CO2 has no force by symmetry
        atoms = Atoms("OCO", [[-1.16 - stretch, 0, 0], [0, 0, 0], [1.16 + stretch, 0, 0]])
        linear.append(with_labels(atoms, Labels({"forces": [[stretch, 0, 0], [0, 0, 0], [-stretch, 0, 0]]})))
    assert "constrained-forces" not in found(linear)


def test_positions_that_are_fractions(metal: list[Atoms]) -> None:
    frames = []
    for atoms in metal:
        copy = atoms.copy()
        copy.positions = copy.get_scaled_positions()
        frames.append(with_labels(copy, find_labels(atoms)))
    findings = found(frames)
    assert list(findings) == ["fractional-positions"]
    assert findings["fractional-positions"].count == len(frames)


def test_periodicity_that_was_lost_is_told_and_a_molecule_in_a_box_is_not(
    metal: list[Atoms], molecules: list[Atoms]
) -> None:
    def box(atoms: Atoms, periodic: bool) -> Atoms:
        copy = atoms.copy()
        copy.pbc = periodic
        if not copy.cell.rank:
            copy.center(vacuum=4.0)
        return with_labels(copy, Labels({k: v for k, v in find_labels(atoms).items() if k != "stress"}))

    assert found([box(atoms, False) for atoms in metal])["pbc-missing"].severity == "warn"
    assert found([box(atoms, False) for atoms in molecules]) == {}
    assert found([box(atoms, True) for atoms in molecules]) == {}


def test_reference_energies_of_another_code(metal: list[Atoms]) -> None:
    isolated = [
        with_labels(Atoms(s, info={"config_type": "IsolatedAtom"}), Labels({"energy": e}))
        for s, e in (("Cu", -1000), ("Au", -9))
    ]
    assert "e0s" in found([*isolated, *metal])
    assert "e0s" in {f.name for f in diagnose({"train": metal}, e0s={29: 500.0, 79: 500.0})}
    assert diagnose({"train": metal}, e0s={29: -3.0, 79: -3.0}) == []


def test_calculations_that_did_not_converge(metal: list[Atoms]) -> None:
    def mark(atoms: Atoms) -> Atoms:
        copy = with_labels(atoms, find_labels(atoms))
        copy.info["equinet_unconverged"] = True
        return copy

    assert found(with_one(metal, 11, mark))["unconverged"].frames == ("a.xyz, frame 11",)


def test_repeats_contradictions_and_overlap(metal: list[Atoms]) -> None:
    moved = metal[0].copy()
    order = np.random.default_rng(0).permutation(len(moved))
    moved = moved[order]
    moved.positions += [0.3, 1.0, -2.0]  # shifted and in another order it is the same structure
    labels = find_labels(metal[0])
    again = with_labels(moved, Labels({**labels, "forces": labels["forces"][order]}))
    assert list(found([*metal, again])) == ["duplicates"]
    assert list(found(metal, valid=[again])) == ["overlap"]
    other = relabelled(again, energy=labels["energy"] + 3.0)
    assert "contradiction" in found([*metal, other])
    neighbour = relabelled(metal[2], forces=labels["forces"])
    assert "repeated-labels" in found(with_one(metal, 2, lambda a: neighbour))


def test_frames_that_repeat_say_nothing_of_units(molecules: list[Atoms]) -> None:
    """Their energies differ by how they were rounded, and so does the work along them."""
    again = [relabelled(a, energy=find_labels(a)["energy"] + 1e-9 * (-1) ** n) for n, a in enumerate(molecules[:12])]
    for n, atoms in enumerate(again):
        atoms.positions[n % len(atoms)] += 1e-9
    assert list(found(molecules[:12], test=again)) == ["overlap"]


def test_find_labels_a_whole_set_that_are_one(molecules: list[Atoms]) -> None:
    energy = find_labels(molecules[0])["energy"]
    assert "energies-equal" in found([relabelled(atoms, energy=energy) for atoms in molecules])
    copied = [relabelled(atoms, forces=atoms.positions.copy()) for atoms in molecules]
    assert "forces-copied" in found(copied)
    shifted = [relabelled(a, forces=find_labels(b)["forces"]) for a, b in zip(molecules, molecules[3:] + molecules[:3])]
    assert "forces-unrelated" in found(shifted)


def test_two_levels_of_theory(molecules: list[Atoms]) -> None:
    frames = [relabelled(a, energy=find_labels(a)["energy"] + 40.0 * (n % 3 == 0)) for n, a in enumerate(molecules)]
    assert found(frames)["levels-of-theory"].severity == "warn"


def test_a_frame_of_weight_zero_is_not_judged(metal: list[Atoms]) -> None:
    def spoil(atoms: Atoms) -> Atoms:
        return with_labels(atoms, Labels({**find_labels(atoms), "energy": -5000.0}, weight=0.0))

    assert found(with_one(metal, 4, spoil)) == {}


def test_a_finding_refuses_unless_it_is_accepted(metal: list[Atoms]) -> None:
    findings = diagnose({"train": changed(metal, forces=-1)})
    with pytest.raises(
        ValueError, match=r"cannot be right:\n- forces-sign: .*gradients.*\n.*`data.accept = \[\"forces-sign\"\]`"
    ):
        require_sound(findings)
    require_sound(findings, ["forces-sign"])
    text = as_text(blocks(findings, len(metal)), 80)
    assert "wrong: forces-sign" in text
    assert 'data.accept = ["forces-sign"]' in text
    assert "accepted: forces-sign" in as_text(blocks(findings, len(metal), ["forces-sign"]), 80)
    assert "nothing found" in as_text(blocks([], 3), 80)


def test_names_are_those_of_findings(metal: list[Atoms]) -> None:
    require_names(list(NAMES))
    assert len(CHECKS) >= 20
    with pytest.raises(ValueError, match=r"no finding 'force-sign'; did you mean 'forces-sign'\?"):
        require_names(["force-sign"])
    with pytest.raises(ValueError, match="there are no frames"):
        diagnose({"train": []})
