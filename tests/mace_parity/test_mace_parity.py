"""Against mace-torch itself: same weights, same energies, forces and stress."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from equinet.graph import collate, from_atoms
from equinet.models import MACE, MACEConfig
from equinet.nn import EnergyScale
from equinet.potential import Potential

pytest.importorskip(
    "mace.modules", reason="mace-torch is not installed; CONTRIBUTING.md says how to put it beside equinet"
)

pytestmark = pytest.mark.usefixtures("double_default")  # mace-torch has no argument for its precision

ELEMENTS = [1, 6, 8, 14]
CUTOFF = 4.0

# (first block, other blocks, residual_first, density_normalization)
BLOCKS = {
    "residual": ("RealAgnosticResidualInteractionBlock", "RealAgnosticResidualInteractionBlock", True, False),
    "plain first": ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock", False, False),
    "density": ("RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock", False, True),
}


def structures() -> list[Atoms]:
    rng = np.random.default_rng(0)
    ethanol = molecule("CH3CH2OH")
    silicon = bulk("Si", cubic=True)
    silicon.set_cell(silicon.cell[:] + rng.normal(scale=0.1, size=(3, 3)), scale_atoms=True)
    slab = Atoms(
        "SiO2",
        [[0, 0, 0], [1.2, 1.0, 0.3], [0.2, 1.4, 1.1]],
        cell=[[3, 0.2, 0], [0, 3.3, 0], [0, 0, 12]],
        pbc=[1, 1, 0],
    )
    for atoms in (ethanol, silicon, slab):
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    return [ethanol, silicon, slab]


def build_pair(block: str, max_l: int, correlation: int, reduced: bool) -> tuple[Potential, torch.nn.Module]:
    """A mace-torch model and our potential with the same weights, large enough that every term counts."""
    from e3nn import o3
    from mace import modules

    from equinet.bench.mace_weights import load_mace_weights

    first, others, residual_first, density = BLOCKS[block]
    channels, rng = 8, np.random.default_rng(1)
    e0s = rng.normal(scale=100, size=len(ELEMENTS))
    torch.manual_seed(2)
    mace = modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=modules.interaction_classes[others],
        interaction_cls_first=modules.interaction_classes[first],
        num_interactions=2,
        num_elements=len(ELEMENTS),
        hidden_irreps=o3.Irreps([(channels, (l, (-1) ** l)) for l in range(max_l + 1)]),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=e0s,
        avg_num_neighbors=7.3,
        atomic_numbers=ELEMENTS,
        correlation=correlation,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        radial_type="bessel",
        atomic_inter_scale=1.7,
        atomic_inter_shift=-0.4,
        use_reduced_cg=reduced,
    )
    with torch.no_grad():
        for parameter in mace.parameters():
            parameter.mul_(1.3)
    config = MACEConfig(
        channels=channels,
        max_l=max_l,
        correlation=correlation,
        cutoff=CUTOFF,
        residual_first=residual_first,
        density_normalization=density,
        exact_isolated_atoms=False,
    )
    zeros = [0.0] * len(ELEMENTS)
    scale = EnergyScale(zeros, zeros, zeros, exact_isolated_atoms=False)
    potential = Potential(MACE(config, len(ELEMENTS), 7.3), scale, ELEMENTS).double().eval()
    load_mace_weights(potential, mace)
    return potential, mace


def mace_output(mace: torch.nn.Module, atoms: Atoms) -> dict[str, torch.Tensor]:
    from mace import data, tools

    table = tools.AtomicNumberTable(ELEMENTS)
    batch = data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=CUTOFF)
    loader = tools.torch_geometric.dataloader.DataLoader([batch], batch_size=1)
    return mace(next(iter(loader)).to_dict(), compute_stress=bool(atoms.pbc.any()), compute_virials=True)


@pytest.mark.parametrize(
    ("block", "max_l", "correlation", "reduced"),
    [
        ("residual", 0, 3, False),
        ("residual", 1, 3, False),
        ("residual", 2, 3, True),
        ("residual", 1, 2, False),
        ("residual", 1, 1, False),
        ("plain first", 1, 3, False),
        ("plain first", 2, 2, True),
        ("density", 1, 3, True),
        ("density", 0, 2, False),
    ],
)
def test_same_weights_give_the_energies_forces_and_stress_of_mace_torch(block, max_l, correlation, reduced):
    potential, mace = build_pair(block, max_l, correlation, reduced)
    for atoms in structures():
        theirs = mace_output(mace, atoms)
        graph = from_atoms(atoms, CUTOFF)
        ours = potential(graph, stress=True)
        interaction = theirs["interaction_energy"].item() + 0.4 * len(atoms)
        assert abs(interaction) > 1e-2, "the weights are too small for the comparison to mean anything"
        assert ours["energy"].item() == pytest.approx(theirs["energy"].item(), abs=1e-9)
        torch.testing.assert_close(ours["forces"], theirs["forces"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours["node_energy"], theirs["node_energy"], rtol=1e-9, atol=1e-9)
        if (
            atoms.pbc.any()
        ):  # mace-torch stretches the cell of a slab along its open direction, so volumes differ: V sigma
            virial = -ours["stress"] * atoms.get_volume()
            torch.testing.assert_close(virial, theirs["virials"], rtol=1e-9, atol=1e-9)


def test_parity_holds_for_a_batch():
    potential, mace = build_pair("residual", 1, 3, False)
    batch = potential(collate([from_atoms(atoms, CUTOFF) for atoms in structures()]))
    singles = torch.cat([mace_output(mace, atoms)["energy"] for atoms in structures()])
    torch.testing.assert_close(batch["energy"], singles, rtol=0, atol=1e-9)
