"""Structures that need no data files, and architectures, each found by a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read

from equinet.checkpoint import read_header
from equinet.datasets import split_isolated
from equinet.graph.elements import SYMBOLS
from equinet.models import MACEConfig, ModelConfig
from equinet.train import read_config

RATTLE = 0.05  # Å: standard deviation of each coordinate about its place, about that of a vibrating solid
SEED = 20_261_122
SILICON = 5.431  # Å, lattice constant

# Enol form of acetylacetone, C5H8O2, typed in from ideal bond lengths and angles: a geometry to compute with, no minimum.
ACETYLACETONE = """
O -1.30 -0.74  0.00    C -1.21  0.55  0.00    C  0.00  1.24  0.00    C  1.21  0.55  0.00    O  1.27 -0.70  0.00
C -2.50  1.34  0.00    C  2.50  1.34  0.00    H -0.37 -1.08  0.00    H  0.00  2.32  0.00    H -3.35  0.66  0.00
H -2.55  1.98  0.88    H -2.55  1.98 -0.88    H  3.35  0.66  0.00    H  2.55  1.98  0.88    H  2.55  1.98 -0.88
"""

DEGREES = ("0e", "0e+1o", "0e+1o+2e", "0e+1o+2e+3o")


def of_size(name: str) -> MACEConfig | None:
    """The model with such features passed between atoms, as ``128x0e+1o``; None if that is no such name.

    Everything else is the default: sh_degree 3, correlation 3, 2 layers, 5 Å.
    """
    channels, _, degrees = name.partition("x")
    if not channels.isdigit() or not int(channels) or degrees not in DEGREES:
        return None
    return MACEConfig.model_validate({"channels": int(channels), "max_l": DEGREES.index(degrees)})


MODELS = {name: config for name in ("64x0e", "64x0e+1o", "128x0e+1o+2e") if (config := of_size(name))}


@dataclass(frozen=True)
class Structures:
    """Structures that are computed together, as one batch.

    Attributes:
        name: Short, for tables.
        frames: Structures; energies and forces of all are computed at once, molecular dynamics follows the first.
    """

    name: str
    frames: tuple[Atoms, ...]

    @property
    def atoms(self) -> int:
        """Number of atoms in the batch."""
        return sum(len(frame) for frame in self.frames)

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        return tuple(sorted({int(z) for frame in self.frames for z in frame.numbers}))


@dataclass(frozen=True)
class Architecture:
    """An architecture to measure, and the trained weights if it has any.

    Attributes:
        name: Short, for tables.
        config: Sizes.
        path: Model file (``*.eqn``), or None for random weights.
    """

    name: str
    config: ModelConfig
    path: Path | None = None


def as_mace(config: ModelConfig) -> MACEConfig:
    """The configuration of a MACE, which is all that mace-torch has a form for.

    Raises:
        ValueError: If it is one of another architecture.
    """
    if not isinstance(config, MACEConfig):
        raise ValueError(f"mace-torch has MACE alone, and this model is a {config.architecture!r}; leave out `against`")
    return config


def molecules(count: int = 10) -> Structures:
    """Acetylacetone (15 atoms: C, H, O), each molecule pushed off its place in its own way."""
    table = [line.split() for line in ACETYLACETONE.replace("    ", "\n").split("\n") if line.strip()]
    ideal = Atoms([row[0] for row in table], [[float(x) for x in row[1:]] for row in table])
    return Structures(f"{count} x C5H8O2", tuple(rattled(ideal, seed) for seed in range(count)))


def silicon(cells: int) -> Structures:
    """Diamond silicon of ``cells``³ cubic cells of 8 atoms, periodic."""
    atoms = rattled(bulk("Si", a=SILICON, cubic=True).repeat(cells), 0)
    return Structures(f"silicon {len(atoms):,}", (atoms,))


PROBLEMS = {"molecules": molecules, "si64": lambda: silicon(2), "si512": lambda: silicon(4)}


def rattled(atoms: Atoms, seed: int) -> Atoms:
    """A copy with every atom pushed off its place, always the same for a seed."""
    copy = atoms.copy()
    copy.positions += np.random.default_rng([SEED, seed]).normal(scale=RATTLE, size=copy.positions.shape)
    return copy


def find_problem(name: str) -> Structures:
    """The problem of a name, or the structures of a file.

    Raises:
        ValueError: If it is neither, or the file cannot be read.
    """
    if name in PROBLEMS:
        return PROBLEMS[name]()
    if name[:2] == "si" and name[2:].isdigit() and (cells := round((int(name[2:]) / 8) ** (1 / 3))):
        if 8 * cells**3 != int(name[2:]):
            raise ValueError(f"`{name}` is no whole number of cells; the nearest is si{8 * cells**3}")
        return silicon(cells)
    path = Path(name)
    if not path.is_file():
        raise ValueError(
            f"`{name}` is no file and none of the built-in structures: {', '.join(PROBLEMS)}, siN (N = 8 n³)"
        )
    try:
        frames: list[Atoms] = read(path, index=":")  # type: ignore[assignment]  # a list, for that index
    except Exception as error:  # ASE's readers raise anything, and the file is what the user must look at
        raise ValueError(f"{path} cannot be read as structures: {type(error).__name__}: {error}") from error
    bonded, _ = split_isolated(frames)
    if not bonded:
        raise ValueError(f"{path} holds no structure with two atoms or more")
    return Structures(path.name, tuple(bonded))


def find_architecture(name: str) -> Architecture:
    """The architecture of a name, of a training configuration (``*.toml``) or of a model file (``*.eqn``).

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If it is none of these, or the file cannot be read.
    """
    if config := of_size(name):
        return Architecture(name, config)
    path = Path(name)
    if path.suffix == ".toml":
        return Architecture(path.stem, read_config(path).model)
    if path.suffix == ".eqn":
        return Architecture(path.stem, read_header(path).config, path)
    raise ValueError(
        f"`{name}` is no model: give one of {', '.join(MODELS)} or of any such size, a training configuration (*.toml) or a trained model (*.eqn)"
    )


def require_elements(path: Path, problems: Sequence[Structures]) -> None:
    """Refuse structures with elements that a trained model does not know.

    Raises:
        ValueError: Naming the elements.
    """
    known = set(read_header(path).elements)
    for problem in problems:
        unknown = [SYMBOLS[z] for z in problem.elements if SYMBOLS[z] not in known]
        if unknown:
            raise ValueError(
                f"{path} does not know {', '.join(unknown)} of `{problem.name}`; it knows {', '.join(sorted(known))}. "
                "Give `atoms` of these elements"
            )
