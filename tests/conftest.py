"""Fixtures shared by all tests: one thread, one small potential, a few small structures, the real data where it is."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from e3nn import o3
from torch import Tensor

from equinet.models import MACE, MACEConfig
from equinet.nn import EnergyScale
from equinet.potential import Potential

torch.set_num_threads(1)

ELEMENTS = (1, 6, 8)
REFERENCE = (-13.6, -1029.5, -2041.8)
SHIFT = (-2.0, -5.0, -4.0)
# Each element has a scale of its own. A fresh model's output is of order one, and so are the energies in eV.
SCALE = (0.8, 1.1, 0.9)
SMALL: dict[str, Any] = {
    "channels": 8,
    "max_l": 1,
    "sh_degree": 2,
    "correlation": 2,
    "cutoff": 4.0,
    "radial_hidden": (16,),
    "readout_hidden": 8,
}


@pytest.fixture(scope="session")
def make_potential() -> Callable[..., Potential]:
    """A function that makes a small random potential for H, C and O: float64, eval mode, always the same weights.

    Keyword arguments override the fields of its :class:`MACEConfig`; ``seed``, ``convolution`` and ``many_body`` (method
    objects) are handed on.
    """

    def make(
        *, seed: int = 0, convolution: Any = None, many_body: Any = None, **config_overrides: Any
    ) -> Potential:
        config = MACEConfig(**{**SMALL, **config_overrides})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MACE(config, len(ELEMENTS), 8.0, convolution=convolution, many_body=many_body)
        scale = EnergyScale(REFERENCE, SCALE, SHIFT, exact_isolated_atoms=config.exact_isolated_atoms)
        return Potential(model, scale, ELEMENTS).double().eval()

    return make


@pytest.fixture
def potential(make_potential: Callable[..., Potential]) -> Potential:
    """The small potential of :func:`make_potential` as it comes; a test may change it."""
    return make_potential()


@pytest.fixture
def ethanol() -> Atoms:
    """Ethanol, open, pushed a little off its symmetric geometry."""
    atoms = molecule("CH3CH2OH")
    atoms.positions += np.random.default_rng(1).normal(scale=0.05, size=(len(atoms), 3))
    return atoms


@pytest.fixture
def triclinic() -> Atoms:
    """Six random atoms in a skewed periodic box, none closer to another than 1.3 Å."""
    return random_crystal(["H", "H", "C", "C", "O", "O"], [[5.2, 0.0, 0.0], [1.3, 4.8, 0.0], [-0.9, 1.1, 5.0]], seed=2)


@pytest.fixture
def one_atom() -> Atoms:
    """One carbon in a skewed cell whose vectors are all shorter than the cutoff of 4 Å: it sees only its own images."""
    return Atoms("C", [[0.3, -0.2, 0.9]], cell=[[2.3, 0.0, 0.0], [0.4, 2.6, 0.0], [0.3, -0.5, 2.9]], pbc=True)


def random_crystal(symbols: list[str], cell: Any, seed: int, closest: float = 1.3) -> Atoms:
    """Atoms at random places of a periodic cell with a smallest distance between any two images."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(cell=cell, pbc=True)
    for symbol in symbols:
        for _ in range(1000):
            trial = atoms + Atoms(symbol, scaled_positions=rng.random((1, 3)), cell=cell, pbc=True)
            if len(atoms) == 0 or trial.get_distances(-1, range(len(atoms)), mic=True).min() > closest:
                atoms = trial
                break
        else:
            raise RuntimeError(f"no room for another {symbol}")
    return atoms


@pytest.fixture(scope="session")
def representation() -> Callable[[o3.Irreps | str, Tensor], Tensor]:
    """A function: the matrix by which a 3 x 3 orthogonal matrix acts on one copy of each irrep, in float64.

    e3nn makes its generators in the default dtype, so that in float32 they are good to seven digits only.
    """

    def matrix_of(irreps: o3.Irreps | str, matrix: Tensor) -> Tensor:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return o3.Irreps([(1, ir) for _, ir in o3.Irreps(irreps)]).D_from_matrix(matrix)
        finally:
            torch.set_default_dtype(before)

    return matrix_of


@pytest.fixture(params=["rotation", "inversion", "improper rotation"])
def orthogonal(request: pytest.FixtureRequest) -> Tensor:
    """A 3 x 3 orthogonal matrix of each kind, float64."""
    torch.manual_seed(11)
    rotation = o3.rand_matrix(dtype=torch.float64)
    return {"rotation": rotation, "inversion": -torch.eye(3).double(), "improper rotation": -rotation}[request.param]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: ``EQUINET_DATA``, or ``../shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EQUINET_DATA", default))
    if not folder.is_dir():
        pytest.skip("the real data sets are not here; set EQUINET_DATA to their folder")
    return folder
