"""Units of the labels in a file, by name, and what they are in eV and Å."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from ase import units

from equinet.quotes import quoted

# Values in eV and Å of ase.units, which are those of CODATA 2014 (Mohr et al., Rev. Mod. Phys. 88, 035009 (2016)).
ENERGIES: Mapping[str, float] = {
    "eV": 1.0,
    "meV": 1e-3,
    "Hartree": units.Hartree,
    "Ha": units.Hartree,
    "Ry": units.Rydberg,
    "kcal/mol": units.kcal / units.mol,
    "kJ/mol": units.kJ / units.mol,
}
LENGTHS: Mapping[str, float] = {
    "Ang": 1.0,
    "Å": 1.0,
    "A": 1.0,
    "Angstrom": 1.0,
    "Bohr": units.Bohr,
    "bohr": units.Bohr,
    "nm": units.nm,
}
FORCES: Mapping[str, float] = {
    f"{energy}/{length}": per_energy / per_length
    for energy, per_energy in ENERGIES.items()
    for length, per_length in LENGTHS.items()
}
PRESSURES: Mapping[str, float] = {
    "GPa": units.GPa,
    "MPa": 1e-3 * units.GPa,
    "kbar": 1e3 * units.bar,
    "kB": 1e3 * units.bar,
    "kBar": 1e3 * units.bar,
    "bar": units.bar,
    "Pa": units.Pascal,
    **{
        f"{energy}/{length}{cubed}": per_energy / per_length**3
        for energy, per_energy in ENERGIES.items()
        for length, per_length in LENGTHS.items()
        for cubed in ("^3", "**3", "³")
    },
}
KNOWN: Mapping[str, Mapping[str, float]] = {
    "energy": ENERGIES,
    "length": LENGTHS,
    "forces": FORCES,
    "stress": PRESSURES,
}
SHOWN = {
    "energy": ", ".join(ENERGIES),
    "length": ", ".join(LENGTHS),
    "forces": "ENERGY/LENGTH such as eV/Ang, Hartree/Bohr, kcal/mol/Ang",
    "stress": "GPa, MPa, kbar, kB, bar, Pa, and ENERGY/LENGTH^3 such as eV/Ang^3, Hartree/Bohr^3",
}


@dataclass(frozen=True)
class Units:
    """Units of positions, cells and labels in a file.

    Args:
        energy: Unit of energies and virials; by default eV.
        length: Unit of positions and cells; by default Å.
        forces: Unit of forces; by default that of energy divided by that of length.
        stress: Unit of the stress; by default that of energy divided by that of length to the third power.

    Raises:
        ValueError: If a unit is unknown; lists the known ones and the nearest.

    >>> round(Units(energy="Hartree", length="Bohr").factor("forces"), 4)
    51.4221
    >>> Units(forces="eV/Ang").factor("energy")
    1.0
    """

    energy: str | None = None
    length: str | None = None
    forces: str | None = None
    stress: str | None = None

    def __post_init__(self) -> None:
        for quantity, known in KNOWN.items():
            unit = getattr(self, quantity)
            if unit is not None and unit not in known:
                raise ValueError(
                    f"`units` has no {quantity} unit {quoted(unit)}{_nearest(str(unit), known)}; there are: {SHOWN[quantity]}"
                )

    @property
    def given(self) -> bool:
        """True if any unit was asked for; what has no units of its own can then be read."""
        return any(getattr(self, field.name) is not None for field in fields(self))

    def factor(self, name: str) -> float:
        """Number by which values in a file are multiplied.

        Args:
            name: ``"energy"`` (to eV), ``"length"`` (to Å), ``"forces"`` (to eV/Å), ``"stress"`` (to eV/Å³), or any other property, which
                files hold in the unit of the table of properties.
        """
        if name not in KNOWN:
            return 1.0
        if (unit := getattr(self, name)) is not None:
            return KNOWN[name][unit]
        powers = {"energy": (1, 0), "length": (0, 1), "forces": (1, -1), "stress": (1, -3)}
        in_energy, in_length = powers[name]
        energy = math.pow(ENERGIES[self.energy or "eV"], in_energy)
        return energy * math.pow(LENGTHS[self.length or "Ang"], in_length)


def units_from_text(text: str) -> Units:
    """Units from ``"energy=Hartree,length=Bohr"``, as typed on a command line.

    Raises:
        ValueError: If it does not read like that, or a unit is unknown.

    >>> units_from_text("energy=Hartree, stress=GPa")
    Units(energy='Hartree', length=None, forces=None, stress='GPa')
    """
    asked: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        quantity, _, unit = (each.strip() for each in part.partition("="))
        if quantity not in KNOWN or not unit:
            raise ValueError(
                f"`units` reads like energy=Hartree,length=Bohr and names {', '.join(KNOWN)}, got {quoted(text)}"
            )
        asked[quantity] = unit
    return Units(**asked)


def _nearest(unit: str, known: Mapping[str, float]) -> str:
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(unit.lower(), by_lower, n=1, cutoff=0.4)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""
