"""Fixtures shared by all tests: one thread, one small potential, a few small structures, the real data where it is."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import shape_checks

os.environ.setdefault("OMP_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" not in os.environ:  # one cache for all processes of this run, and none of another day
    os.environ["EQUINET_CACHE"] = tempfile.mkdtemp(prefix="equinet-tests-")
    atexit.register(shutil.rmtree, os.environ["EQUINET_CACHE"], ignore_errors=True)
if not os.path.exists(
    "/dev/nvidiactl"
):  # kernels for GPUs are tested by Triton's interpreter, which it decides when imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

shape_checks.install("equinet")

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from e3nn import o3
from interpreting import prepare_once
from poison import poison
from torch import Tensor

from equinet.graph import AtomicGraph, collate, displacements, from_atoms
from equinet.models import MACE, MACEConfig
from equinet.nn import EnergyScale, GatedInteraction
from equinet.nn.linear import EquivariantLinear
from equinet.ops.codegen import tiles
from equinet.potential import Potential

torch.set_num_threads(1)

ELEMENTS = (1, 6, 8)
REFERENCE = (-13.6, -1029.5, -2041.8)
SHIFT = (-2.0, -5.0, -4.0)
BIAS = (0.3, -0.2, 0.5)
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


@pytest.fixture(scope="session", autouse=True)
def uninitialised_memory_shows() -> Iterator[None]:
    """NaN in every array that was not filled, so that a test sees what was never written."""
    with pytest.MonkeyPatch.context() as patch:
        poison(patch)
        yield


@pytest.fixture(scope="session")
def make_potential() -> Callable[..., Potential]:
    """A function that makes a small random potential for H, C and O: float64, eval mode, always the same weights.

    Keyword arguments override the fields of its :class:`MACEConfig`.
    """

    def make(*, seed: int = 0, **config_overrides: Any) -> Potential:
        config = MACEConfig(**{**SMALL, **config_overrides})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MACE(config, ELEMENTS, 8.0)
        scale = EnergyScale(REFERENCE, SCALE, SHIFT, exact_isolated_atoms=config.exact_isolated_atoms)
        potential = Potential(model, scale).double().eval()
        graph = collate([from_atoms(atoms, config.cutoff) for atoms in (an_ethanol(), a_crystal())])
        # By code for the CPU, also in a test of kernels for GPUs, which are interpreted here.
        with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiles, "_interpreted", False)
            torch.manual_seed(seed)
            give_every_part_unit_size(potential, graph)
        with torch.no_grad():
            model.bias.copy_(torch.tensor(BIAS))
        return potential

    return make


@torch.no_grad()
def give_every_part_unit_size(potential: Potential, graph: AtomicGraph) -> None:
    """Scale the weights so that densities, features and the energies of the layers have a mean square of one on ``graph``.

    A freshly drawn model gives about 1e-3 eV and next to nothing from its products of three and four densities; tests on
    it would see the shift and little else.
    """
    for interaction, product, readout in potential.model.layers:
        if isinstance(interaction, GatedInteraction):
            tell_species_apart(interaction)
        last_linear = interaction.linear_2 if isinstance(interaction, GatedInteraction) else interaction.linear
        for module in (last_linear, product.linear, *([] if readout is None else [readout.network])):
            found: list[Tensor] = []
            watch = interaction if module is last_linear else module
            hook = watch.register_forward_hook(lambda _, __, out, found=found: found.append(out))
            vectors = displacements(graph)
            potential.model(vectors, potential.species(graph.atomic_numbers), graph.edge_index)
            hook.remove()
            value = found[0][0] if isinstance(found[0], tuple) else found[0]
            last = module.parameters() if isinstance(module, EquivariantLinear) else [module.weights[-1]]
            for weight in last:
                weight.div_(value.square().mean().sqrt())


def tell_species_apart(interaction: GatedInteraction) -> None:
    """Weights of a layer that begins with all species alike, biases of zero and a density that does not count."""
    for parameter in (interaction.source, interaction.target):
        parameter.normal_()
    interaction.alpha.fill_(2.0)
    interaction.beta.fill_(0.7)
    for norm in (*interaction.radial.norms, *interaction.density.norms):
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.5, 0.5)


@pytest.fixture
def potential(make_potential: Callable[..., Potential]) -> Potential:
    """The small potential of :func:`make_potential` as it comes; a test may change it."""
    return make_potential()


@pytest.fixture
def ethanol() -> Atoms:
    """Ethanol, open, pushed a little off its symmetric geometry."""
    return an_ethanol()


@pytest.fixture
def triclinic() -> Atoms:
    """Six random atoms in a skewed periodic box, none closer to another than 1.1 Å."""
    return a_crystal()


@pytest.fixture
def pressed() -> Atoms:
    """The crystal of :func:`triclinic` with a carbon pressed upon an oxygen and upon a hydrogen, so that they repel."""
    atoms = a_crystal()
    atoms.positions[2] = atoms.positions[4] + [0.4, -0.3, 0.35]
    atoms.positions[0] = atoms.positions[2] + [0.1, -0.5, 0.1]
    return atoms


@pytest.fixture
def one_atom() -> Atoms:
    """One carbon in a skewed cell whose vectors are all shorter than the cutoff of 4 Å: it sees only its own images."""
    return Atoms("C", [[0.3, -0.2, 0.9]], cell=[[2.3, 0.0, 0.0], [0.4, 2.6, 0.0], [0.3, -0.5, 2.9]], pbc=True)


def an_ethanol() -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.positions += np.random.default_rng(1).normal(scale=0.05, size=(len(atoms), 3))
    return atoms


def a_crystal() -> Atoms:
    rng = np.random.default_rng(2)
    atoms = Atoms(cell=[[4.3, 0.0, 0.0], [1.1, 4.0, 0.0], [-0.8, 0.9, 4.2]], pbc=True)
    for symbol in ("H", "H", "C", "C", "O", "O"):
        while True:
            trial = atoms + Atoms(symbol, scaled_positions=rng.random((1, 3)), cell=atoms.cell)
            if len(atoms) == 0 or trial.get_distances(-1, range(len(atoms)), mic=True).min() > 1.1:
                break
        atoms = trial
    return atoms


@contextmanager
def double_by_default() -> Iterator[None]:
    """float64 as torch's default dtype, which some libraries take for what they build, and afterwards the old one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """A test without checks of annotated shapes, for what equinet itself refuses."""
    with shape_checks.unchecked():
        yield


@pytest.fixture
def double_default() -> Iterator[None]:
    """A test under another default dtype than the usual one."""
    with double_by_default():
        yield


@pytest.fixture(scope="session")
def in_double() -> Callable[[], AbstractContextManager[None]]:
    """For a part of a test under another default dtype: ``with in_double(): ...``."""
    return double_by_default


@pytest.fixture(scope="session")
def representation() -> Callable[[o3.Irreps | str, Tensor], Tensor]:
    """A function: the matrix by which a 3 x 3 orthogonal matrix acts on one copy of each irrep, in float64.

    e3nn makes its generators in the default dtype, so that in float32 they are good to seven digits only.
    """

    def matrix_of(irreps: o3.Irreps | str, matrix: Tensor) -> Tensor:
        with double_by_default():
            return o3.Irreps([(1, ir) for _, ir in o3.Irreps(irreps)]).D_from_matrix(matrix)

    return matrix_of


@pytest.fixture(params=["rotation", "inversion", "improper rotation"])
def orthogonal(request: pytest.FixtureRequest) -> Tensor:
    """A 3 x 3 orthogonal matrix of each kind, float64."""
    torch.manual_seed(11)
    rotation = o3.rand_matrix(dtype=torch.float64)
    return {"rotation": rotation, "inversion": -torch.eye(3).double(), "improper rotation": -rotation}[request.param]


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """The device that kernels for GPUs run on in a test: a GPU if there is one, else the CPU, by Triton's interpreter."""
    triton = pytest.importorskip("triton", reason="kernels for GPUs are written in Triton: pip install triton")
    if torch.cuda.is_available():
        yield torch.device("cuda")
        return
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    if version < (3, 7) and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("Triton's interpreter before 3.7 cannot run loops over loaded bounds with numpy 2.4 or newer")
    with tiles.interpreted(), pytest.MonkeyPatch.context() as patch:
        prepare_once(patch)
        yield torch.device("cpu")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: ``EQUINET_DATA``, or ``../shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EQUINET_DATA", default))
    if not folder.is_dir():
        pytest.skip("the real data sets are not here; set EQUINET_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def force_loss() -> Callable[[Potential, AtomicGraph], Tensor]:
    """A loss in which energy, forces and stress all have a say."""

    def loss(potential: Potential, graph: AtomicGraph) -> Tensor:
        result = potential(graph, stress=True)
        target = torch.linspace(-1, 1, graph.num_nodes * 3, dtype=torch.float64).reshape(-1, 3)
        return (
            (result["forces"] - target).square().sum()
            + (result["energy"] + 6000).square().sum() * 1e-6
            + 100 * result["stress"].square().sum()
        )

    return loss
