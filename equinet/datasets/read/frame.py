"""Frames as they stand in a file, before anything is made of their labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.data import atomic_masses
from ase.io.extxyz import per_config_properties
from numpy.typing import NDArray

from .places import Place

RESULTS = frozenset(all_properties)
OF_STRUCTURES = frozenset(per_config_properties)


class Frame:
    """A frame as it stands in a file: nothing converted, renamed or left out.

    Arrays are parts of larger ones, which hold all frames that were read at once; keep copies, or :meth:`atoms`.

    Attributes:
        numbers: Atomic numbers, (atoms,).
        positions: Positions, (atoms, 3), in the file's unit.
        cell: Lattice vectors as rows, (3, 3); zeros if there is none. Read only, since frames may share it.
        pbc: Periodic directions.
        info: All items of the comment, by name in the file.
        arrays: All other columns, by name in the file: (atoms,) or (atoms, width).
        path: The file.
        number: Number of the frame in it, from 0.
        line: Number of its first line, from 1.
    """

    __slots__ = ("arrays", "cell", "info", "line", "number", "numbers", "path", "pbc", "positions")

    def __init__(
        self,
        numbers: NDArray[np.int64],
        positions: NDArray[np.float64],
        cell: NDArray[np.float64],
        pbc: tuple[bool, bool, bool],
        info: dict[str, Any],
        arrays: dict[str, NDArray[Any]],
        path: Path,
        number: int,
        line: int,
    ) -> None:
        self.numbers, self.positions, self.cell, self.pbc = numbers, positions, cell, pbc
        self.info, self.arrays = info, arrays
        self.path, self.number, self.line = path, number, line

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def place(self) -> Place:
        """File, frame and line, for messages."""
        return Place(self.path, self.number, self.line)

    def atoms(self) -> Atoms:
        """The frame as a structure of ASE: names that ASE has for results are results of a calculator, ``move_mask`` are constraints.

        Raises:
            ValueError: If constraints are neither one nor three columns.
        """
        arrays = dict(self.arrays)
        made = Atoms(
            numbers=self.numbers,
            positions=self.positions,
            cell=self.cell,
            pbc=self.pbc,
            charges=arrays.pop("initial_charges", None),
        )
        if (mask := arrays.pop("move_mask", None)) is not None:
            made.set_constraint(_constraints(mask.astype(bool), self.place))
        # Copies, as those of a frame are parts of what was read at once with it.
        results: dict[str, Any] = {name: np.array(array) for name, array in arrays.items() if name in RESULTS}
        for name, array in arrays.items():
            if name not in RESULTS:
                made.arrays[name] = np.array(array)
        for key, value in self.info.items():
            place = results if key in OF_STRUCTURES else made.info
            place[key] = np.array(value) if isinstance(value, np.ndarray) else value
        attach(made, results)
        return made


def attach(atoms: Atoms, results: Mapping[str, Any]) -> None:
    """Give a structure raw results, if there are any; no shape is looked at and no constraint applied."""
    if results:
        atoms.calc = SinglePointCalculator(atoms)
        atoms.calc.results.update(results)


def with_isotopes(arrays: dict[str, NDArray[Any]], numbers: NDArray[np.int64]) -> None:
    """Make masses (amu) of the isotopes that symbols named, unless the file has masses of its own."""
    isotopes = arrays.pop("isotopes", None)
    if isotopes is not None and "masses" not in arrays:
        arrays["masses"] = np.where(np.isnan(isotopes), atomic_masses[numbers], isotopes)


def _constraints(mask: NDArray[np.bool_], place: Place) -> list[Any] | FixAtoms:
    if mask.ndim == 1:
        return FixAtoms(mask=~mask)
    if mask.shape[1] != 3:
        raise place.error(f"`move_mask` must have one or three columns, got {mask.shape[1]}")
    return [FixCartesian(atom, mask=~row) for atom, row in enumerate(mask)]
