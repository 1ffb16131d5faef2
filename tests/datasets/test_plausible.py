"""Frames out of all proportion to the others: found, named, and let pass when accepted."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from equinet.datasets import Labels, measure, to_graphs, with_labels
from equinet.datasets.frames import SOURCE


def frames_of(count: int = 15) -> list[Atoms]:
    """Alloys of two elements with -1.8 and -3.7 eV an atom, 0.05 eV/atom about that."""
    rng = np.random.default_rng(0)
    frames = []
    for n in range(count):
        one, other = rng.integers(1, 6, size=2).tolist()
        atoms = Atoms(f"Li{one}Cu{other}", rng.uniform(0, 8, size=(one + other, 3)))
        energy = -1.8 * one - 3.7 * other + 0.05 * rng.normal() * len(atoms)
        frames.append(with_labels(atoms, Labels({"energy": energy, "forces": rng.normal(size=(len(atoms), 3))})))
        frames[-1].info[SOURCE] = f"a.xyz, frame {n}"
    return frames


def with_dimer(energy: float, weight: float = 1.0) -> list[Atoms]:
    dimer = Atoms("LiCu", [[0, 0, 0], [0, 0, 2.5]], info={SOURCE: "a.xyz, frame 15"})
    return [*frames_of(), with_labels(dimer, Labels({"energy": energy}, weight=weight))]


def test_one_failed_calculation_moves_neither_reference_energies_nor_shift() -> None:
    frames, spoilt = frames_of(), with_dimer(-558.0)
    before = measure(frames, [], to_graphs(frames, 4.0))
    after = measure(spoilt, [], to_graphs(spoilt, 4.0))
    np.testing.assert_allclose(after.reference, before.reference, rtol=0, atol=1e-9)
    np.testing.assert_allclose(after.shift, before.shift, rtol=0, atol=1e-9)
