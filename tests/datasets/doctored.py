"""Small sets with exact labels, and ways to spoil them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from equinet.datasets import Labels, with_labels
from equinet.datasets.frames import SOURCE, find_labels


def labelled(atoms: Atoms, calculator: Calculator, number: int) -> Atoms:
    """A frame with the energy, forces and, if it is periodic, stress of a calculator."""
    copy = atoms.copy()
    copy.calc = calculator
    labels = {"energy": copy.get_potential_energy(), "forces": copy.get_forces()}
    if atoms.pbc.any():
        labels["stress"] = copy.get_stress(voigt=False)
    atoms.info[SOURCE] = f"a.xyz, frame {number}"
    return with_labels(atoms, Labels(labels))


def copper(count: int = 16, *, seed: int = 0, strain: float = 0.015, shake: float = 0.03) -> list[Atoms]:
    """Shaken and strained crystals of copper and gold, labels of EMT, in steps of pure strain and of pure displacement."""
    random = np.random.default_rng(seed)
    frames = []
    for n in range(count):
        atoms = bulk("Cu", cubic=True).repeat((2, 2, 1))
        atoms.numbers[[1, 6, 11]] = 79
        atoms.set_cell(atoms.cell[:] * 1.03, scale_atoms=True)
        if n % 2:
            atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain * random.normal(size=(3, 3))), scale_atoms=True)
        else:
            atoms.rattle(shake, rng=random)
        frames.append(labelled(atoms, EMT(), n))
    return frames


def ethanol(count: int = 24, *, seed: int = 0) -> list[Atoms]:
    """Ethanol with vibrating bonds; labels of springs at the stiffness of bonds, about the energy of all electrons in eV."""
    random = np.random.default_rng(seed)
    rest = molecule("CH3CH2OH")
    frames = []
    for n in range(count):
        atoms = rest.copy()
        atoms.rattle(0.04, rng=random)
        frames.append(labelled(atoms, Springs(rest), n))
    return frames


class Springs(Calculator):
    """Harmonic bonds and angles (as distances of second neighbours) of one molecule, and the energy of its atoms."""

    implemented_properties = ("energy", "forces")

    def __init__(self, rest: Atoms) -> None:
        super().__init__()
        distances = rest.get_all_distances()
        self.i, self.j = np.where(np.triu(distances < 2.8, 1))
        self.rest = distances[self.i, self.j]
        self.stiffness = np.where(self.rest < 1.6, 33.0, 4.0)
        atoms = {1: -13.6, 6: -1029.5, 8: -2042.0}
        self.zero = sum(atoms[int(z)] for z in rest.numbers)

    def calculate(self, atoms: Atoms, properties: Sequence[str], changes: Sequence[str]) -> None:  # type: ignore[override]
        super().calculate(atoms, properties, changes)
        vectors = atoms.positions[self.j] - atoms.positions[self.i]
        lengths = np.linalg.norm(vectors, axis=1)
        stretch = lengths - self.rest
        pulls = (self.stiffness * stretch / lengths)[:, None] * vectors
        forces = np.zeros_like(atoms.positions)
        np.add.at(forces, self.i, pulls)
        np.add.at(forces, self.j, -pulls)
        self.results = {"energy": self.zero + 0.5 * float(self.stiffness @ stretch**2), "forces": forces}


def changed(
    frames: Sequence[Atoms],
    *,
    energy: float = 1,
    forces: float = 1,
    stress: float = 1,
    length: float = 1,
    cell: float = 1,
) -> list[Atoms]:
    """The same frames with labels, lengths or cells multiplied by factors."""
    result = []
    for atoms in frames:
        factors = {"energy": energy, "forces": forces, "stress": stress}
        labels = {name: factors[name] * value for name, value in find_labels(atoms).items()}
        copy = atoms.copy()
        copy.positions *= length
        copy.set_cell(copy.cell[:] * length * cell)
        result.append(with_labels(copy, Labels(labels)))
    return result


def with_one(frames: Sequence[Atoms], number: int, change: Callable[[Atoms], Atoms]) -> list[Atoms]:
    """The same frames, one of them changed."""
    return [change(atoms) if n == number else atoms for n, atoms in enumerate(frames)]


def relabelled(atoms: Atoms, **labels: object) -> Atoms:
    """A frame with other labels."""
    return with_labels(atoms, Labels({**find_labels(atoms), **labels}))
