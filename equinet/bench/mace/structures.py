"""Structures for the comparison: a molecule, a bulk with a cell smaller than the cutoff, a slab."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell, molecule
from ase.data import covalent_radii

from equinet.bench.models.problems import find_problem, rattled, silicon

MOST_ELEMENTS = 4  # of a model with many


def structures() -> dict[str, Atoms]:
    """Return structures of H, C, O and Si with every atom displaced from its symmetric position."""
    slab = Atoms(
        "SiO2",
        [[0, 0, 0], [1.2, 1.0, 0.3], [0.2, 1.4, 1.1]],
        cell=[[3, 0.2, 0], [0, 3.3, 0], [0, 0, 12]],
        pbc=[True, True, False],
    )
    # Far from zincblende: where forces cancel there is nothing to hold an error against.
    carbide = bulk("SiC", crystalstructure="zincblende", a=4.36)
    carbide.set_cell(carbide.cell[:] @ [[1.1, 0.05, 0], [0, 0.95, 0.1], [0.05, 0, 1]], scale_atoms=True)
    carbide.positions[1] += [0.2, -0.1, 0.15]
    found = {"molecule": molecule("CH3CH2OH"), "bulk": carbide, "slab": slab}
    return {name: rattled(atoms, n) for n, (name, atoms) in enumerate(found.items())}


def read_structures(paths: Sequence[Path]) -> dict[str, Atoms]:
    """Structures of files, under their names and numbers.

    Raises:
        ValueError: If a file cannot be read, or holds single atoms only.
    """
    found: dict[str, Atoms] = {}
    for path in paths:
        frames = find_problem(str(path)).frames
        found |= {path.name if len(frames) == 1 else f"{path.name} {n}": atoms for n, atoms in enumerate(frames)}
    return found


def timed() -> Atoms:
    """Return the structure to time: 64 atoms of silicon."""
    return silicon(2).frames[0]


def structures_of(elements: Sequence[int]) -> tuple[dict[str, Atoms], Atoms]:
    """Return structures of given elements: a cluster, a bulk and a slab of some of them, and 64 atoms to time.

    Rock salt, with elements dealt out over the sites and bonds 1.1 times as long as covalent radii suggest.
    """
    known = [
        elements[n] for n in np.linspace(0, len(elements) - 1, min(MOST_ELEMENTS, len(elements))).round().astype(int)
    ]
    bond = 1.1 * 2 * float(np.mean([covalent_radii[z] for z in known]))
    crystal = bulk("NaCl", crystalstructure="rocksalt", a=2 * bond)
    small, large = make_supercell(crystal, 2 * np.eye(3)), bulk("NaCl", "rocksalt", a=2 * bond, cubic=True).repeat(2)
    for atoms in (small, large):
        atoms.numbers[:] = np.random.default_rng(0).permutation(np.resize(known, len(atoms)))
    cluster, slab = small.copy(), small.copy()
    cluster.set_pbc(False)
    cluster.set_cell(None)
    slab.set_pbc([True, True, False])
    slab.center(vacuum=6.0, axis=2)
    found = {"cluster": cluster, "bulk": small, "slab": slab}
    return {name: rattled(atoms, n) for n, (name, atoms) in enumerate(found.items())}, rattled(large, 9)
