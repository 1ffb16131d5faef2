"""Derivatives of what a potential predicts, which callers take themselves, and graphs that do not suit a potential."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from equinet.graph import AtomicGraph, VerletGraph, collate, from_atoms
from equinet.ops import SO2, GauntGrid
from equinet.potential import Potential

MakePotential = Callable[..., Potential]
MODELS: dict[str, dict[str, Any]] = {
    "default": {},
    "grid": {"convolution": GauntGrid(), "many_body": GauntGrid(), "correlation": 3},
    "single directions": {"convolution": SO2()},
}


@pytest.fixture(params=["ethanol", "triclinic"])
def atoms(request: pytest.FixtureRequest) -> Atoms:
    return request.getfixturevalue(request.param)


def with_gradients(potential: Potential, atoms: Atoms) -> AtomicGraph:
    graph = potential.graph(atoms)
    graph.positions.requires_grad_()
    graph.cell.requires_grad_()
    return graph


def numerical_hessian(potential: Potential, atoms: Atoms, step: float = 1e-3) -> np.ndarray:
    """Five-point differences of the forces, ``(atoms, 3, atoms, 3)`` in eV/Å²."""

    def forces(n: int, k: int, h: float) -> np.ndarray:
        moved = atoms.copy()
        moved.positions[n, k] += h
        return potential(moved).forces.detach().numpy()

    def derivative(n: int, k: int) -> np.ndarray:
        near, far = (forces(n, k, h) - forces(n, k, -h) for h in (step, 2 * step))
        return -(8 * near - far) / (12 * step)

    return np.array([[derivative(n, k) for k in range(3)] for n in range(len(atoms))])


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", MODELS)
def test_the_hessian_is_that_of_finite_differences(
    make_potential: MakePotential, triclinic: Atoms, name: str, training: bool
) -> None:
    potential = make_potential(**{"channels": 4, **MODELS[name]}).train(training)
    found = potential.hessian(triclinic)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.numpy(), numerical_hessian(potential.eval(), triclinic), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, found.permute(2, 3, 0, 1), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        found.sum(2), torch.zeros(6, 3, 3).double(), rtol=0, atol=1e-9
    )  # as no force pushes a crystal


def test_torch_differentiates_the_energy_of_a_potential_twice(potential: Potential, atoms: Atoms) -> None:
    graph = potential.graph(atoms)

    def energy(positions: Tensor) -> Tensor:
        return potential(copy.copy(graph).update({"positions": positions})).energy.sum()

    found = torch.autograd.functional.hessian(energy, graph.positions)
    torch.testing.assert_close(found, potential.hessian(graph), rtol=1e-9, atol=1e-9)
    assert found.abs().max() > 1
    assert not graph.positions.requires_grad


def test_gradients_in_eval_mode_are_the_forces_and_the_stress(potential: Potential, triclinic: Atoms) -> None:
    graph = with_gradients(potential, triclinic)
    found = potential(graph, stress=True)
    assert all(value.requires_grad for value in found.values())
    by_positions, by_cell = torch.autograd.grad(found.energy.sum(), [graph.positions, graph.cell])
    torch.testing.assert_close(-by_positions, found.forces.detach())
    virial = graph.positions.T @ by_positions + graph.cell[0].T @ by_cell[0]
    torch.testing.assert_close(virial / triclinic.get_volume(), found.stress[0].detach())


def test_tables_and_frozen_weights_have_second_derivatives_too(make_potential: MakePotential, triclinic: Atoms) -> None:
    potential = make_potential(channels=4)
    expected = potential.hessian(triclinic)
    frozen = copy.deepcopy(potential).requires_grad_(False)
    torch.testing.assert_close(frozen.hessian(triclinic), expected)
    torch.testing.assert_close(potential.tabulate(1e-9).hessian(triclinic), expected, rtol=1e-4, atol=1e-4)
    single = copy.deepcopy(potential).float().hessian(triclinic)
    torch.testing.assert_close(single, expected, rtol=1e-3, atol=1e-3)


def test_an_atom_alone_has_a_hessian_of_zeros(potential: Potential) -> None:
    assert torch.equal(potential.hessian(Atoms("O")), torch.zeros(1, 3, 1, 3).double())


def test_several_structures_have_no_hessian(potential: Potential, ethanol: Atoms) -> None:
    with pytest.raises(ValueError, match="a Hessian is of one structure, and `graph` holds 2"):
        potential.hessian(collate(2 * [potential.graph(ethanol)]))


def test_inference_mode_gives_the_same_numbers(potential: Potential, atoms: Atoms) -> None:
    expected = potential(atoms, stress=True)
    with torch.inference_mode():
        found = potential(atoms, stress=True)
        from_outside = potential(
            potential.graph(atoms), stress=True, groups=potential.groups(potential.graph(atoms).atomic_numbers)
        )
        hessian = potential.hessian(atoms)
    for name in expected:
        for values in (found, from_outside):
            torch.testing.assert_close(values[name], expected[name], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(hessian, potential.hessian(atoms))


def test_a_structure_can_be_given_in_place_of_its_graph(potential: Potential, atoms: Atoms) -> None:
    graph = from_atoms(atoms, potential.cutoff)
    assert torch.equal(potential(atoms).forces, potential(graph).forces)
    assert torch.equal(potential.graph(atoms).edge_index, graph.edge_index)


@pytest.mark.parametrize(
    "make", [from_atoms, lambda atoms, cutoff: VerletGraph(cutoff)(atoms)], ids=["search", "verlet"]
)
def test_a_graph_of_a_shorter_cutoff_is_refused(
    potential: Potential, atoms: Atoms, make: Callable[..., AtomicGraph]
) -> None:
    whole, short = make(atoms, potential.cutoff), make(atoms, potential.cutoff - 0.5)
    assert (whole.cutoff, short.cutoff) == (4.0, 3.5)
    for graph in (short, collate([whole, short]), copy.copy(short).to("cpu")):
        for use in (potential, potential.descriptors, potential.calibrate):
            with pytest.raises(
                ValueError, match=r"a cutoff of 3\.5 Å and the model sees 4 Å.*`potential\.graph\(atoms\)`"
            ):
                use(graph)
    longer = potential(make(atoms, potential.cutoff + 0.5))
    torch.testing.assert_close(longer.forces, potential(whole).forces)
