"""Make the sample data set that ships in ``equinet/datasets/sample``: ethanol labelled with GFN2-xTB.

Three files are written, ``ethanol_train.xyz`` (the isolated H, C and O atoms, then 400 frames), ``ethanol_valid.xyz``
(100 frames) and ``ethanol_test.xyz`` (200 frames), each half from 300 K and half from 600 K Langevin dynamics. No two
files share a trajectory, so no test frame is a neighbour in time of a training frame.

    pip install ase tblite
    python scripts/make_sample.py [--out DIR]

It takes about three minutes on one core. The seeds are fixed and one thread is used, so one machine gives the same
files each time; another build of tblite or of its linear algebra rounds differently, and the trajectories, being
chaotic, then part.
"""

import os

# Before anything loads OpenMP: with several threads the order of sums, and so the chaotic trajectory, would vary.
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from tblite.ase import TBLite

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "equinet" / "datasets" / "sample"

METHOD = "GFN2-xTB"
# tblite's default, 1.0, leaves errors of up to 1e-4 eV/Å in the forces, coarser than the decimals we write.
LABEL_ACCURACY = 0.01

TIMESTEP = 0.5 * units.fs
FRICTION = 0.02 / units.fs
EQUILIBRATION_STEPS = 2000  # 1 ps
STEPS_BETWEEN_FRAMES = 40  # 20 fs

MULTIPLICITIES = {"H": 2, "C": 3, "O": 3}  # the ground terms: doublet S, triplet P, triplet P

TEMPERATURES = (300, 600)  # K
FRAMES_PER_TRAJECTORY = 25
# Several short trajectories sample the hydroxyl's slow rotation more evenly than one long one of as many frames.
TRAJECTORIES_PER_TEMPERATURE = {"train": 8, "valid": 2, "test": 4}


def run(temperature: int, seed: list[int]) -> Iterator[Atoms]:
    """Yield the frames of one trajectory, not labelled yet, as they will be written.

    The molecule starts at rest; the equilibration is twenty times the thermostat's relaxation time, 1 / friction. The
    centre of mass is left free, because ASE's ``fixcm`` does not quite sample the canonical distribution of so small a
    molecule; its drift is taken out of the frames instead.

    Args:
        temperature: Temperature of the thermostat, in K.
        seed: Seed of the thermostat's noise.
    """
    atoms = molecule("CH3CH2OH")
    atoms.calc = TBLite(method=METHOD, verbosity=0)
    rng = np.random.default_rng(seed)
    dynamics = Langevin(atoms, TIMESTEP, temperature_K=temperature, friction=FRICTION, fixcm=False, rng=rng)
    dynamics.run(EQUILIBRATION_STEPS)
    for _ in range(FRAMES_PER_TRAJECTORY):
        dynamics.run(STEPS_BETWEEN_FRAMES)
        positions = atoms.positions - atoms.get_center_of_mass()
        yield Atoms(atoms.get_chemical_symbols(), positions.round(6))


def label(atoms: Atoms, multiplicity: int = 1) -> tuple[float, np.ndarray]:
    """Energy in eV and forces in eV/Å, from a fresh calculator so that they depend on the positions alone."""
    atoms.calc = TBLite(method=METHOD, multiplicity=multiplicity, accuracy=LABEL_ACCURACY, verbosity=0)
    return atoms.get_potential_energy(), atoms.get_forces()


def isolated_atom_text(symbol: str) -> str:
    """One free atom as extended XYZ; it has an energy (eV) and no forces column."""
    energy, _ = label(Atoms(symbol), MULTIPLICITIES[symbol])
    header = f'Properties=species:S:1:pos:R:3 energy={energy:.8f} config_type=IsolatedAtom pbc="F F F"'
    return f"1\n{header}\n{symbol:2}{0:11.6f}{0:11.6f}{0:11.6f}\n"


def frame_text(atoms: Atoms, config_type: str) -> str:
    """One frame as extended XYZ; the label is of the rounded positions, so only energy and forces carry rounding."""
    energy, forces = label(atoms)
    header = f'Properties=species:S:1:pos:R:3:forces:R:3 energy={energy:.8f} config_type={config_type} pbc="F F F"'
    lines = [str(len(atoms)), header]
    for symbol, row in zip(atoms.get_chemical_symbols(), np.hstack([atoms.positions, forces]), strict=True):
        lines.append(f"{symbol:2}" + "".join(f"{number:11.6f}" for number in row))
    return "\n".join(lines) + "\n"


def split_texts(split: str) -> Iterator[str]:
    """The frames of a split, its trajectories in turn, so that any first few frames are a fair sample of it."""
    split_number = list(TRAJECTORIES_PER_TEMPERATURE).index(split)
    keys = [(number, kelvin) for number in range(TRAJECTORIES_PER_TEMPERATURE[split]) for kelvin in TEMPERATURES]
    trajectories = [run(kelvin, seed=[split_number, number, kelvin]) for number, kelvin in keys]
    for frames in zip(*trajectories, strict=True):
        for (_, kelvin), atoms in zip(keys, frames, strict=True):
            yield frame_text(atoms, f"md_{kelvin}K")


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description="Make the ethanol sample data set (needs tblite).")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help="folder to write into")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for split in TRAJECTORIES_PER_TEMPERATURE:
        texts = list(split_texts(split))
        if split == "train":
            texts = [isolated_atom_text(symbol) for symbol in MULTIPLICITIES] + texts
        path = out / f"ethanol_{split}.xyz"
        path.write_text("".join(texts), encoding="utf-8", newline="\n")
        print(f"{path.name}: {len(texts)} configurations, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
