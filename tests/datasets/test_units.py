"""Units of labels, against numbers that are known from elsewhere."""

from __future__ import annotations

import pytest

from equinet.datasets import LabelKeys, Units, units_from_text

# CODATA 2014: 1 Hartree = 27.21138602 eV, 1 Bohr = 0.52917721067 Å; 1 eV/Å³ = 160.21766208 GPa; 1 kcal/mol = 4.184 kJ/mol.
HARTREE, BOHR, GPA = 27.21138602, 0.52917721067, 1 / 160.21766208


@pytest.mark.parametrize(
    ("units", "quantity", "expected"),
    [
        ({}, "energy", 1.0),
        ({"energy": "Hartree"}, "energy", HARTREE),
        ({"energy": "Ry"}, "energy", HARTREE / 2),
        ({"energy": "meV"}, "energy", 1e-3),
        ({"energy": "kcal/mol"}, "energy", 0.0433641),
        ({"energy": "kJ/mol"}, "energy", 0.0433641 / 4.184),
        ({"length": "Bohr"}, "length", BOHR),
        ({"length": "nm"}, "length", 10.0),
        ({"energy": "Ha", "length": "Bohr"}, "forces", HARTREE / BOHR),
        ({"energy": "kcal/mol"}, "forces", 0.0433641),
        ({"energy": "Hartree", "forces": "kcal/mol/Ang"}, "forces", 0.0433641),
        ({"energy": "Hartree", "length": "Bohr"}, "stress", HARTREE / BOHR**3),
        ({"stress": "GPa"}, "stress", GPA),
        ({"stress": "kB"}, "stress", GPA / 10),
        ({"stress": "bar"}, "stress", GPA / 10_000),
        ({"energy": "Hartree", "stress": "eV/A^3"}, "stress", 1.0),
        ({"stress": "meV/Å³"}, "stress", 1e-3),
        ({"energy": "Hartree"}, "dipole", 1.0),
    ],
)
def test_a_unit_is_what_the_tables_of_constants_say(units: dict[str, str], quantity: str, expected: float) -> None:
    assert Units(**units).factor(quantity) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"energy": "hartree"}, r"`units` has no energy unit 'hartree'; did you mean 'Hartree'\?; there are: eV, meV, Hartree"),
        ({"length": "Angstroem"}, r"no length unit 'Angstroem'; did you mean 'Angstrom'\?; there are: Ang, Å"),
        ({"forces": "eV"}, r"no forces unit 'eV'.*; there are: ENERGY/LENGTH such as eV/Ang"),
        ({"stress": "gpa"}, r"no stress unit 'gpa'; did you mean 'GPa'\?; there are: GPa, MPa, kbar"),
    ],
)  # fmt: skip
def test_an_unknown_unit_is_refused_with_the_nearest_and_the_known_ones(units: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Units(**units)


def test_units_that_somebody_asked_for_can_be_told_from_those_that_nobody_did() -> None:
    assert not LabelKeys().units.given
    assert Units(energy="eV").given


def test_units_are_typed_on_a_command_line() -> None:
    assert units_from_text("") == Units()
    assert units_from_text("energy=kcal/mol,forces=kcal/mol/Ang") == Units(energy="kcal/mol", forces="kcal/mol/Ang")
    for text in ("Hartree", "energie=eV", "energy="):
        with pytest.raises(ValueError, match=r"`units` reads like energy=Hartree,length=Bohr and names energy, length"):
            units_from_text(text)
