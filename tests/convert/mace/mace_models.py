"""Random models of mace-torch in which every part counts, structures to compare on, and what mace-torch says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor

from equinet.graph import from_atoms
from equinet.models import MACEConfig
from equinet.potential import Potential

ELEMENTS = (1, 6, 8, 14)
CUTOFF = 4.0
SMALL: dict[str, Any] = {
    "channels": 4,
    "correlation": 2,
    "sh_degree": 2,
    "cutoff": CUTOFF,
    "radial_hidden": (8, 8),
    "readout_hidden": 4,
    "exact_isolated_atoms": False,
}


def config_of(**overrides: Any) -> MACEConfig:
    return MACEConfig(**{**SMALL, **overrides})


def structures() -> list[Atoms]:
    """A molecule, a crystal whose atoms see their own images, and a slab: periodic along two directions."""
    rng = np.random.default_rng(0)
    ethanol = molecule("CH3CH2OH")
    crystal = Atoms(
        "SiCH",
        scaled_positions=[[0, 0, 0], [0.45, 0.5, 0.55], [0.9, 0.4, 0.6]],
        cell=[[2.6, 0.1, 0], [0.3, 2.8, 0], [-0.2, 0.4, 3.1]],
        pbc=True,
    )
    slab = Atoms(
        "SiO2",
        [[0, 0, 0], [1.2, 1.0, 0.3], [0.2, 1.4, 1.1]],
        cell=[[3, 0.2, 0], [0, 3.3, 0], [0, 0, 12]],
        pbc=[1, 1, 0],
    )
    for atoms in (ethanol, crystal, slab):
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    return [ethanol, crystal, slab]


def random_mace(
    config: MACEConfig, heads: Sequence[str] = ("Default",), *, reduced: bool = False, seed: int = 0
) -> Any:
    """A model of mace-torch in float64 with weights, energies and constants large enough that every part counts."""
    from equinet.bench.peers.mace_torch.model import build_mace, mace_defaults

    rng = np.random.default_rng(seed)
    with mace_defaults("float64"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mace = build_mace(config, dict.fromkeys(ELEMENTS, 0.0), 7.3, heads=heads, use_reduced_cg=reduced)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, parameter in mace.named_parameters():
            parameter.mul_(1.2)
            if name.endswith("bias") and parameter.numel():
                parameter.normal_()
            elif name.endswith(("source_embedding.weight", "target_embedding.weight")):
                parameter.mul_(1000)
            elif name.endswith(".linear.weight") and name.startswith("interactions"):
                parameter.mul_(3)  # densities of order one, whose products count
            elif name.endswith((".alpha", ".beta")):
                parameter.fill_(2.0 if name.endswith("alpha") else 0.7)
        for buffer, values in (
            (mace.atomic_energies_fn.atomic_energies, rng.normal(scale=100, size=(len(heads), len(ELEMENTS)))),
            (mace.scale_shift.scale, rng.uniform(0.5, 2, size=len(heads))),
            (mace.scale_shift.shift, rng.normal(size=len(heads))),
        ):
            buffer.copy_(torch.from_numpy(values).view(buffer.shape))
    sizes = [output_of(mace, atoms, heads[0])["forces"].square().mean().sqrt() for atoms in structures()]
    mace.scale_shift.scale /= torch.stack(sizes).median()
    return mace


def output_of(mace: Any, atoms: Atoms, head: str = "Default", dtype: str = "float64") -> dict[str, Tensor]:
    """Energies, forces and virial that mace-torch gives."""
    from mace import data, tools

    from equinet.bench.peers.mace_torch.model import mace_defaults

    with mace_defaults(dtype):
        frame = data.config_from_atoms(atoms)
        frame.head = head
        table = tools.AtomicNumberTable(mace.atomic_numbers.tolist())
        graph = data.AtomicData.from_config(frame, z_table=table, cutoff=float(mace.r_max), heads=mace.heads)
        batch = next(iter(tools.torch_geometric.dataloader.DataLoader([graph], batch_size=1)))
        return mace(batch.to_dict(), compute_stress=bool(atoms.pbc.any()), compute_virials=True)


def assert_same(potential: Potential, theirs: dict[str, Any], atoms: Atoms, relative: float = 1e-9) -> None:
    """Energies, forces and virial are equal, relative to the size of the interaction energy and of the forces."""
    ours = potential(from_atoms(atoms, potential.cutoff), stress=True)
    theirs = {name: torch.as_tensor(value).double() for name, value in theirs.items() if value is not None}
    ours = {name: value.double() for name, value in ours.items()}
    reference = potential.scale.reference[potential.species(torch.from_numpy(atoms.numbers.astype(np.int64)))]
    energies, forces = theirs["node_energy"] - reference, theirs["forces"]
    assert energies.abs().max() > 1e-3, "the weights are too small for the comparison to mean anything"
    assert forces.abs().max() > 1e-3, "the weights are too small for the comparison to mean anything"
    of_energy, of_forces = relative * energies.abs().max().item(), relative * forces.abs().max().item()
    torch.testing.assert_close(ours["node_energy"] - reference, energies, rtol=0, atol=of_energy)
    total = (ours["energy"] - reference.sum()).squeeze()
    torch.testing.assert_close(total, theirs["energy"].squeeze() - reference.sum(), rtol=0, atol=len(atoms) * of_energy)
    torch.testing.assert_close(ours["forces"], forces, rtol=0, atol=of_forces)
    if atoms.pbc.any():  # mace-torch stretches the cell of a slab along its open direction, so volumes differ: V sigma
        virial, expected = -ours["stress"] * atoms.get_volume(), theirs["virials"].view(1, 3, 3)
        size = max(expected.abs().max().item(), forces.abs().max().item())  # its parts may cancel
        torch.testing.assert_close(virial, expected, rtol=0, atol=relative * size)
