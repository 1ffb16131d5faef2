"""Constants of a fresh potential, chosen on a sample: densities of one size, a mean energy of zero, and no weight changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from equinet.checkpoint import load_potential, save_potential
from equinet.graph import AtomicGraph, displacements, from_atoms
from equinet.nn import EnergyScale
from equinet.potential import Potential

MakePotential = Callable[..., Potential]
GATED = {"first_interaction": "gated", "interaction": "gated", "envelope_on": "weights", "readout_layers": "last"}


def sizes_of_densities(potential: Potential, graph: AtomicGraph) -> list[float]:
    found: list[float] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: found.append(out[0].square().mean().sqrt().item()))
        for layer in potential.model.interactions
    ]
    potential(graph)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(
    "overrides", [{}, {"layers": 3, "first_interaction": "density_residual", "interaction": "density_residual"}, GATED]
)
def test_calibration_gives_every_density_one_size_and_sets_no_weight_but_the_bias(
    make_potential: MakePotential, triclinic: Atoms, overrides: dict
) -> None:
    potential = make_potential(**overrides)
    graph = from_atoms(triclinic, potential.cutoff)
    weights = [parameter.clone() for parameter in potential.parameters()]
    before = sizes_of_densities(potential, graph)
    potential.calibrate(graph)
    after = sizes_of_densities(potential, graph)
    assert max(abs(size - 0.5) for size in before) > 0.01
    np.testing.assert_allclose(after, 0.5, rtol=1e-12)
    for (name, now), then in zip(potential.named_parameters(), weights):
        assert torch.equal(now, then) != (name == "model.bias"), name
    output = potential.model(displacements(graph), potential.species(graph.atomic_numbers), graph.edge_index)
    assert abs(output.energy.mean().item()) < 1e-12
    forces, direction = potential(graph)["forces"], torch.randn(graph.num_nodes, 3, dtype=torch.float64)
    energies = []
    for h in (1e-5, -1e-5):
        moved = triclinic.copy()
        moved.positions += h * direction.numpy()
        energies.append(potential(from_atoms(moved, potential.cutoff))["energy"].item())
    assert (energies[1] - energies[0]) / 2e-5 == pytest.approx((forces * direction).sum().item(), rel=1e-5, abs=1e-5)


def test_calibration_survives_precision_copies_and_files(
    potential: Potential, triclinic: Atoms, tmp_path: Path
) -> None:
    potential.calibrate(from_atoms(triclinic, potential.cutoff))
    expected = [layer.normalization.item() for layer in potential.model.interactions]
    save_potential(potential.float(), tmp_path / "model.eqn")
    for other in (potential, copy.deepcopy(potential).double(), load_potential(tmp_path / "model.eqn")):
        assert [layer.normalization.item() for layer in other.model.interactions] == expected


@pytest.mark.parametrize("overrides", [{}, GATED], ids=["plain", "gated"])
def test_the_mean_of_scaled_energy_and_repulsion_is_zero(
    make_potential: MakePotential, pressed: Atoms, overrides: dict
) -> None:
    made = make_potential(**overrides, zbl=True)
    # Without reference, shift and gate, and with one scale for all, an energy is the scaled output plus the repulsion.
    scale = EnergyScale([0.0] * 3, [1.7] * 3, [0.0] * 3, exact_isolated_atoms=False)
    potential = Potential(made.model, scale).double().eval()
    graph = from_atoms(pressed, potential.cutoff)
    repulsion = potential.model(
        displacements(graph), potential.species(graph.atomic_numbers), graph.edge_index
    ).repulsion
    assert repulsion.mean() > 1
    assert potential(graph)["energy"].abs() > 1
    potential.calibrate(graph)
    assert potential(graph)["energy"].abs() < 1e-10
