"""Frames with everything that a file can hold, and stores of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from equinet.datasets.frames import labelled
from equinet.datasets.store import write_store


def random_frames(count: int, seed: int = 0) -> list[Atoms]:
    """Labelled frames of 2 to 9 atoms of H, C and O; every third is open, and the energy tells them apart."""
    rng, frames = np.random.default_rng(seed), []
    grid = np.array([[x, y, z] for x in range(3) for y in range(3) for z in range(3)]) * 1.7
    for n in range(count):
        size = int(rng.integers(2, 10))
        positions = grid[rng.permutation(27)[:size]] + rng.normal(0, 0.1, (size, 3))
        open_ = n % 3 == 0
        atoms = Atoms(
            rng.choice([1, 6, 8], size),
            positions,
            cell=None if open_ else np.eye(3) * 6 + rng.normal(0, 0.1, (3, 3)),
            pbc=not open_,
        )
        atoms.calc = SinglePointCalculator(atoms)
        atoms.calc.results = {"energy": n + float(rng.uniform()), "forces": rng.normal(0, 1, (size, 3))}
        if not open_:
            atoms.calc.results["stress"] = rng.normal(0, 0.01, 6)
        frames.append(atoms)
    return frames


def rich_frame() -> Atoms:
    """A frame with constraints, masses, tags, momenta, further arrays, and entries of many kinds."""
    atoms = random_frames(2, seed=5)[1]
    size, rng = len(atoms), np.random.default_rng(1)
    atoms.pbc = (True, False, True)
    atoms.set_masses(rng.uniform(1, 3, size))
    atoms.set_tags(range(size))
    atoms.set_momenta(rng.normal(size=(size, 3)))
    atoms.arrays["bader"] = rng.normal(size=size)
    atoms.arrays["site"] = np.array([f"s{n}" for n in range(size)])
    atoms.arrays["moves"] = rng.normal(size=size) > 0
    atoms.set_constraint(FixAtoms([0]))
    atoms.info |= {
        "config_type": "slab a", "weight": 0.25, "count": 3, "tiny": 5e-324, "third": 1 / 3, "good": True,
        "vector": np.array([0.1, 0.2, 0.3]), "words": "two words", "run": "7b",
    }  # fmt: skip
    return atoms


def require_same(before: Atoms, after: Atoms) -> None:
    """Every number the same to the last bit, every entry the same."""
    assert before.arrays.keys() == after.arrays.keys()
    for name, value in before.arrays.items():
        np.testing.assert_array_equal(after.arrays[name], value, strict=value.dtype.kind == "f")
    assert (before.cell[:] == after.cell[:]).all()
    assert (before.pbc == after.pbc).all()
    assert [each.todict() for each in before.constraints] == [each.todict() for each in after.constraints]
    assert before.calc.results.keys() == after.calc.results.keys()
    for name, value in before.calc.results.items():
        np.testing.assert_array_equal(after.calc.results[name], value)
    ours = ("equinet_source", "weight")
    assert {k: v for k, v in before.info.items() if k not in ours}.keys() == {k for k in after.info if k not in ours}
    for name, value in before.info.items():
        if name != "equinet_source":
            np.testing.assert_array_equal(after.info[name], value)


@pytest.fixture(scope="session")
def frames() -> list[Atoms]:
    return [labelled(atoms) for atoms in random_frames(60)]


@pytest.fixture(scope="session")
def store(frames: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frames in two files of a folder."""
    folder = tmp_path_factory.mktemp("store")
    write_store(folder / "a.aselmdb", frames[:23])
    write_store(folder / "b.aselmdb", frames[23:])
    return folder
