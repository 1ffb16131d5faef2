"""The physics every potential must obey, at random weights: a symmetry, a limit, or a finite difference each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import make_supercell
from torch import Tensor

from equinet.graph import AtomicGraph, collate, displacements, from_atoms
from equinet.nn import EnergyScale
from equinet.nn.derivatives import forces_from_pairs, stress_from_pairs
from equinet.ops import ClebschGordan, from_mul_ir
from equinet.ops.edges import Edges
from equinet.potential import Potential

MakePotential = Callable[..., Potential]
REFERENCE = {1: -13.6, 6: -1029.5, 8: -2041.8}  # as in conftest.py


def run(potential: Potential, atoms: Atoms, *, stress: bool = False) -> dict[str, Tensor]:
    return potential(from_atoms(atoms, potential.cutoff), stress=stress)


def energy(potential: Potential, atoms: Atoms) -> float:
    return run(potential, atoms)["energy"].item()


def interaction_energy(potential: Potential, atoms: Atoms) -> float:
    return energy(potential, atoms) - sum(REFERENCE[z] for z in atoms.numbers.tolist())


def gradient_of(function: Callable[[float], float], step: float) -> float:
    """Derivative at zero by the five-point rule."""
    near, far = (function(h) - function(-h) for h in (step, 2 * step))
    return (8 * near - far) / (12 * step)


def numerical_forces(potential: Potential, atoms: Atoms) -> np.ndarray:
    def moved(n: int, k: int, h: float) -> float:
        copied = atoms.copy()
        copied.positions[n, k] += h
        return energy(potential, copied)

    return np.array(
        [[-gradient_of(lambda h, n=n, k=k: moved(n, k, h), 1e-4) for k in range(3)] for n in range(len(atoms))]
    )


def numerical_stress(potential: Potential, atoms: Atoms) -> np.ndarray:
    def strained(a: int, b: int, h: float) -> float:
        strain = np.zeros((3, 3))
        strain[a, b] += h / 2
        strain[b, a] += h / 2
        copied = atoms.copy()
        copied.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
        return energy(potential, copied)

    gradients = [[gradient_of(lambda h, a=a, b=b: strained(a, b, h), 1e-4) for b in range(3)] for a in range(3)]
    return np.array(gradients) / atoms.get_volume()


@pytest.fixture(params=["ethanol", "triclinic"])
def atoms(request: pytest.FixtureRequest) -> Atoms:
    return request.getfixturevalue(request.param)


def test_the_test_potential_has_energies_of_order_one_electronvolt(potential: Potential, atoms: Atoms) -> None:
    # Without this, tests with absolute tolerances would be satisfied by a potential that does nothing.
    result = run(potential, atoms, stress=True)
    assert 0.1 < abs(interaction_energy(potential, atoms)) / len(atoms) < 20
    assert 0.1 < result["forces"].abs().max() < 100


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"first_interaction": "density_residual", "interaction": "density_residual", "exact_isolated_atoms": False},
        {"layers": 3, "max_l": 2, "channels": 4, "correlation": 3},
    ],
    ids=["default", "MACE-MP-0b", "three layers"],
)
def test_forces_are_minus_the_energy_gradient(make_potential: MakePotential, atoms: Atoms, overrides: dict) -> None:
    potential = make_potential(**overrides)
    forces = run(potential, atoms)["forces"].numpy()
    assert np.abs(forces).max() > 0.05
    np.testing.assert_allclose(forces, numerical_forces(potential, atoms), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "overrides", [{}, {"first_interaction": "density_residual", "interaction": "density_residual"}]
)
@pytest.mark.parametrize("name", ["triclinic", "one_atom"])
def test_stress_is_the_energy_gradient_in_strain(
    make_potential: MakePotential, request: pytest.FixtureRequest, name: str, overrides: dict
) -> None:
    atoms, potential = request.getfixturevalue(name), make_potential(**overrides)
    stress = run(potential, atoms, stress=True)["stress"][0].numpy()
    assert np.abs(stress).max() > 1e-3
    np.testing.assert_allclose(stress, numerical_stress(potential, atoms), rtol=0, atol=1e-7)


def test_stress_under_tension_is_positive(potential: Potential) -> None:
    # Two carbon planes pulled apart: energy rises with the cell, so the stress along it is positive.
    cell = [2.4, 2.4, 2.4]
    atoms = Atoms("C", [[0, 0, 0]], cell=cell, pbc=True)
    stretched = Atoms("C", [[0, 0, 0]], cell=[2.4, 2.4, 2.4001], pbc=True)
    gradient = energy(potential, stretched) - energy(potential, atoms)
    assert np.sign(run(potential, atoms, stress=True)["stress"][0, 2, 2].item()) == np.sign(gradient)


def test_stress_is_symmetric_and_undefined_without_a_cell(
    potential: Potential, triclinic: Atoms, ethanol: Atoms
) -> None:
    graphs = [from_atoms(a, potential.cutoff) for a in (triclinic, ethanol)]
    stress = potential(collate(graphs), stress=True)["stress"]
    torch.testing.assert_close(stress[0], stress[0].T, rtol=0, atol=1e-15)
    assert stress[0].isfinite().all()
    assert stress[1].isnan().all()


def test_stress_is_computed_only_when_asked_for(potential: Potential, triclinic: Atoms) -> None:
    assert set(run(potential, triclinic)) == {"energy", "node_energy", "forces"}
    assert set(run(potential, triclinic, stress=True)) == {"energy", "node_energy", "forces", "stress"}


def transformed(atoms: Atoms, matrix: np.ndarray) -> Atoms:
    turned = atoms.copy()
    turned.set_cell(atoms.cell[:] @ matrix.T)
    turned.positions = atoms.positions @ matrix.T
    return turned


def check_equivariance(potential: Potential, atoms: Atoms, orthogonal: Tensor, tolerance: float = 1e-10) -> None:
    before, after = (run(potential, a, stress=True) for a in (atoms, transformed(atoms, orthogonal.numpy())))
    torch.testing.assert_close(after["node_energy"], before["node_energy"], rtol=0, atol=tolerance)
    torch.testing.assert_close(after["forces"], before["forces"] @ orthogonal.T, rtol=0, atol=tolerance)
    expected = orthogonal @ before["stress"] @ orthogonal.T
    torch.testing.assert_close(after["stress"], expected, rtol=0, atol=tolerance, equal_nan=True)


def test_forces_and_stress_turn_with_the_structure(potential: Potential, atoms: Atoms, orthogonal: Tensor) -> None:
    check_equivariance(potential, atoms, orthogonal)


def test_energy_and_forces_do_not_depend_on_the_origin(potential: Potential, atoms: Atoms) -> None:
    moved = atoms.copy()
    moved.positions += [17.3, -4.1, 250.7]
    before, after = run(potential, atoms), run(potential, moved)
    torch.testing.assert_close(after["energy"], before["energy"], rtol=0, atol=1e-10)
    torch.testing.assert_close(after["forces"], before["forces"], rtol=0, atol=1e-10)


def test_forces_add_up_to_nothing_and_turn_nothing(potential: Potential, ethanol: Atoms) -> None:
    forces = run(potential, ethanol)["forces"].numpy()
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(np.cross(ethanol.positions, forces).sum(0), 0, atol=1e-11)


def test_the_order_of_the_atoms_does_not_matter(potential: Potential, atoms: Atoms) -> None:
    order = np.random.default_rng(3).permutation(len(atoms))
    before, after = run(potential, atoms), run(potential, atoms[order])
    torch.testing.assert_close(after["energy"], before["energy"], rtol=0, atol=1e-10)
    torch.testing.assert_close(after["node_energy"], before["node_energy"][order], rtol=0, atol=1e-10)
    torch.testing.assert_close(after["forces"], before["forces"][order], rtol=0, atol=1e-10)


def test_the_choice_of_periodic_image_does_not_matter(potential: Potential, triclinic: Atoms) -> None:
    moved = triclinic.copy()
    moved.positions += np.random.default_rng(4).integers(-2, 3, size=(len(triclinic), 3)) @ triclinic.cell[:]
    before, after = (run(potential, a, stress=True) for a in (triclinic, moved))
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)


def test_the_choice_of_lattice_vectors_does_not_matter(potential: Potential, triclinic: Atoms) -> None:
    skewed = triclinic.copy()
    skewed.set_cell(np.array([[1, 0, 0], [1, 1, 0], [-1, 2, 1]]) @ triclinic.cell[:])
    before, after = (run(potential, a, stress=True) for a in (triclinic, skewed))
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)


def test_two_molecules_far_apart_have_the_sum_of_their_energies(potential: Potential, ethanol: Atoms) -> None:
    other = ethanol[[0, 1, 4, 5]]
    other.positions += [40.0, 0.0, 0.0]
    both = run(potential, ethanol + other)
    torch.testing.assert_close(
        both["energy"].item(), energy(potential, ethanol) + energy(potential, other), rtol=0, atol=1e-9
    )
    apart = torch.cat([run(potential, ethanol)["forces"], run(potential, other)["forces"]])
    torch.testing.assert_close(both["forces"], apart, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["triclinic", "one_atom"])
def test_a_supercell_has_a_multiple_of_the_energy_and_the_same_stress(
    potential: Potential, request: pytest.FixtureRequest, name: str
) -> None:
    atoms = request.getfixturevalue(name)
    copies = make_supercell(atoms, [[2, 0, 0], [1, 1, 0], [0, -1, 2]])
    assert len(copies) == 4 * len(atoms)
    one, many = run(potential, atoms, stress=True), run(potential, copies, stress=True)
    torch.testing.assert_close(many["energy"], 4 * one["energy"], rtol=0, atol=1e-8)
    torch.testing.assert_close(many["stress"], one["stress"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_gives_what_its_structures_give_alone(
    potential: Potential, ethanol: Atoms, triclinic: Atoms, one_atom: Atoms, training: bool
) -> None:
    potential.train(training)
    graphs = [from_atoms(a, potential.cutoff) for a in (ethanol, triclinic, Atoms("O", [[0, 0, 0]]), one_atom)]
    together = potential(collate(graphs), stress=True)
    alone = [potential(graph, stress=True) for graph in graphs]
    for name in together:
        expected = torch.cat([result[name] for result in alone])
        torch.testing.assert_close(together[name], expected, rtol=0, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("kind", ["plain", "residual", "density", "density_residual", "gated"])
@pytest.mark.parametrize("z", [1, 6, 8])
def test_an_isolated_atom_has_exactly_its_reference_energy(make_potential: MakePotential, kind: str, z: int) -> None:
    potential = make_potential(first_interaction=kind, interaction=kind)
    for dtype in (torch.float64, torch.float32):
        result = run(potential.to(dtype), Atoms([z], [[0.3, 0.1, -2.0]]))
        assert result["energy"].item() == REFERENCE[z]
        assert torch.equal(result["forces"], torch.zeros_like(result["forces"]))


def test_an_atom_that_leaves_takes_its_reference_energy_with_it(potential: Potential, ethanol: Atoms) -> None:
    left = ethanol + Atoms("O", [[30.0, 0, 0]])
    assert energy(potential, left) == pytest.approx(energy(potential, ethanol) + REFERENCE[8], abs=1e-9)


def test_without_the_gate_an_isolated_atom_keeps_the_shift(make_potential: MakePotential) -> None:
    potential = make_potential(exact_isolated_atoms=False)  # MACE's form; the first layer is plain, so the output is 0
    bias = potential.model.bias[1].item()
    assert bias != 0
    assert energy(potential, Atoms("C", [[0, 0, 0]])) == pytest.approx(REFERENCE[6] - 5.0 + 1.1 * bias, abs=1e-10)


def test_edges_beyond_the_cutoff_change_nothing(potential: Potential, atoms: Atoms) -> None:
    near, far = (potential(from_atoms(atoms, cutoff), stress=True) for cutoff in (4.0, 5.5))
    for name in near:
        torch.testing.assert_close(far[name], near[name], rtol=0, atol=1e-10, equal_nan=True)


def test_one_atom_that_sees_only_its_own_images_feels_no_force(potential: Potential, one_atom: Atoms) -> None:
    graph = from_atoms(one_atom, potential.cutoff)
    assert graph.edge_index.shape[1] > 10
    result = potential(graph)
    assert interaction_energy(potential, one_atom) != 0
    assert result["forces"].abs().max() < 1e-13


@pytest.mark.parametrize("training", [False, True])
def test_structures_without_edges_work(potential: Potential, training: bool) -> None:
    atoms = Atoms("CHO", [[0, 0, 0], [9, 0, 0], [0, 9, 0]])
    result = potential.train(training)(from_atoms(atoms, potential.cutoff), stress=True)
    assert result["energy"].item() == pytest.approx(sum(REFERENCE.values()), abs=1e-12)
    assert torch.equal(result["forces"], torch.zeros(3, 3, dtype=torch.float64))


def test_energies_are_read_in_double_precision_from_a_single_precision_model(
    make_potential: MakePotential, atoms: Atoms
) -> None:
    double, single = run(make_potential(), atoms), run(make_potential().float(), atoms)
    assert single["energy"].dtype == single["node_energy"].dtype == torch.float64
    assert single["forces"].dtype == torch.float32
    assert 0 < (single["energy"] - double["energy"]).abs().item() < 1e-5  # float32 of -4000 eV would err by 1e-4
    error = (single["forces"] - double["forces"]).abs().max()
    assert error < 5e-6 * double["forces"].abs().max()  # about forty units in the last place of the largest force


def test_large_coordinates_cost_a_single_precision_model_nothing(make_potential: MakePotential, ethanol: Atoms) -> None:
    potential = make_potential().float()
    far = ethanol.copy()
    far.positions += [1e5, 0, 0]
    torch.testing.assert_close(run(potential, far)["forces"], run(potential, ethanol)["forces"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {
            "first_interaction": "density_residual",
            "interaction": "density_residual",
            "max_l": 2,
            "correlation": 3,
            "channels": 3,
        },
    ],
)
def test_gradients_of_a_loss_on_forces_are_those_of_finite_differences(
    make_potential: MakePotential,
    triclinic: Atoms,
    overrides: dict,
    force_loss: Callable[[Potential, AtomicGraph], Tensor],
) -> None:
    potential = make_potential(**overrides).train()
    graph = from_atoms(triclinic, potential.cutoff)
    parameters = dict(potential.named_parameters())
    gradients = torch.autograd.grad(force_loss(potential, graph), list(parameters.values()))
    torch.manual_seed(0)
    for (name, parameter), gradient in zip(parameters.items(), gradients):
        direction = torch.randn_like(parameter)
        losses = []
        step = 1e-5
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
            losses.append(force_loss(potential, graph).item())
            with torch.no_grad():
                parameter.sub_(sign * step * direction)
        numerical = (losses[0] - losses[1]) / (2 * step)
        assert numerical == pytest.approx((gradient * direction).sum().item(), rel=1e-5, abs=1e-4), name


def test_every_parameter_takes_part(
    make_potential: MakePotential, triclinic: Atoms, force_loss: Callable[[Potential, AtomicGraph], Tensor]
) -> None:
    for overrides in ({}, {"first_interaction": "density_residual", "interaction": "density_residual", "layers": 3}):
        potential = make_potential(**overrides).train()
        loss = force_loss(potential, from_atoms(triclinic, potential.cutoff))
        for (name, _), gradient in zip(
            potential.named_parameters(), torch.autograd.grad(loss, list(potential.parameters()))
        ):
            assert gradient.abs().max() > 0, name


def test_in_training_mode_results_can_be_differentiated_in_eval_mode_they_are_plain_numbers(
    potential: Potential, triclinic: Atoms
) -> None:
    graph = from_atoms(triclinic, potential.cutoff)
    evaluated = potential.eval()(graph, stress=True)
    assert not any(value.requires_grad for value in evaluated.values())
    trained = potential.train()(graph, stress=True)
    assert all(value.requires_grad for value in trained.values())
    for name in evaluated:
        torch.testing.assert_close(trained[name].detach(), evaluated[name], rtol=0, atol=1e-10)


def test_forces_come_out_under_no_grad(potential: Potential, atoms: Atoms) -> None:
    expected = run(potential, atoms)
    with torch.no_grad():
        result = run(potential, atoms)
        training = run(potential.train(), atoms)
    for name in expected:
        assert torch.equal(result[name], expected[name])
        torch.testing.assert_close(training[name].detach(), expected[name], rtol=0, atol=1e-10)


def test_evaluation_leaves_no_gradients_behind(potential: Potential, atoms: Atoms) -> None:
    run(potential, atoms)
    assert all(parameter.grad is None for parameter in potential.parameters())


def test_frozen_weights_give_the_same_forces(potential: Potential, atoms: Atoms) -> None:
    expected = run(potential, atoms, stress=True)
    potential.requires_grad_(False)
    for _ in range(2):  # the second time from kept matrices
        result = run(potential, atoms, stress=True)
        for name in expected:
            torch.testing.assert_close(result[name], expected[name], rtol=0, atol=1e-10, equal_nan=True)


def test_a_copy_is_independent(potential: Potential, atoms: Atoms) -> None:
    before = energy(potential, atoms)
    copied = copy.deepcopy(potential)
    assert energy(copied, atoms) == before
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1.1)
    assert abs(energy(copied, atoms) - before) > 1e-3
    assert energy(potential, atoms) == before


def test_the_reference_backend_gives_the_same_energies_and_forces(make_potential: MakePotential, atoms: Atoms) -> None:
    overrides: dict[str, Any] = {"max_l": 2, "sh_degree": 3, "correlation": 3, "channels": 3}
    fast = make_potential(**overrides)
    reference_method = ClebschGordan(backend="reference")
    reference = make_potential(**overrides, seed=1, convolution=reference_method, many_body=reference_method)
    reference.load_state_dict(fast.state_dict())
    assert "ReferenceConvolution" in repr(reference)
    assert "ReferenceManyBody" in repr(reference)
    assert "Reference" not in repr(fast)
    ours, theirs = run(fast, atoms, stress=True), run(reference, atoms, stress=True)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-9, equal_nan=True)


def test_more_angular_detail_tells_apart_what_less_cannot(make_potential: MakePotential) -> None:
    # Four neighbours at equal distance, as a square and as a tetrahedron: pair distances to the centre are the same.
    r = 1.5
    square = r * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    tetrahedron = r / 3**0.5 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    for sh_degree, differ in ((0, False), (2, True)):
        potential = make_potential(max_l=0, sh_degree=sh_degree, layers=1, correlation=2)
        energies = []
        for corners in (square, tetrahedron):
            graph = from_atoms(Atoms("CH4", [[0, 0, 0], *corners]), potential.cutoff)
            energies.append(potential(graph)["node_energy"][0].item())
        assert (abs(energies[0] - energies[1]) > 1e-3) == differ


def test_atoms_see_as_many_cutoffs_far_as_there_are_layers(make_potential: MakePotential) -> None:
    chain = Atoms("C6", [[3.0 * n, 0.1 * n * n, 0] for n in range(6)])
    moved = chain.copy()
    moved.positions[0, 2] += 0.5
    for layers in (1, 2, 3):
        potential = make_potential(layers=layers)
        change = (run(potential, moved)["node_energy"] - run(potential, chain)["node_energy"]).abs()
        assert [bool(c > 1e-10) for c in change] == [n <= layers for n in range(6)]


def test_elements_have_interactions_of_their_own(potential: Potential, ethanol: Atoms) -> None:
    energies = []
    for symbol in ("H", "C", "O"):
        swapped = ethanol.copy()
        swapped.symbols[0] = symbol
        energies.append(interaction_energy(potential, swapped))
    assert min(abs(np.diff([*energies, energies[0]]))) > 1e-2


def test_an_atom_tells_the_elements_of_its_neighbours_apart(make_potential: MakePotential) -> None:
    potential = make_potential(layers=1)
    of_carbon = [
        run(potential, Atoms(f"C{other}", [[0, 0, 0], [1.3, 0, 0]]))["node_energy"][0].item()
        for other in ("H", "C", "O")
    ]
    assert min(abs(np.diff([*of_carbon, of_carbon[0]]))) > 1e-2


def test_an_unknown_element_is_refused_by_name(potential: Potential) -> None:
    with pytest.raises(ValueError, match=r"this model does not know N, Fe; it was made for H, C, O"):
        run(potential, Atoms("HFeN", [[0, 0, 0], [2, 0, 0], [0, 2, 0]]))


@pytest.mark.parametrize("number", [0, -1, -118, 119, 200])
def test_an_atomic_number_of_no_element_is_refused(potential: Potential, number: int) -> None:
    with pytest.raises(
        ValueError, match=rf"there is no element with atomic number {number} \(atom 1, counted from 0\)"
    ):
        potential.species(torch.tensor([1, number, 6]))


def test_parts_for_different_numbers_of_species_are_refused(potential: Potential) -> None:
    with pytest.raises(ValueError, match="the model has 3 species and the energy scale 1; they must agree"):
        Potential(potential.model, EnergyScale([0], [1], [0]))


def test_a_potential_has_the_elements_of_its_model(potential: Potential) -> None:
    assert potential.elements == potential.model.elements == (1, 6, 8)


def test_descriptors_are_invariant_and_in_the_layout_of_e3nn(
    potential: Potential, atoms: Atoms, orthogonal: Tensor
) -> None:
    before = potential.descriptors(from_atoms(atoms, potential.cutoff))
    after = potential.descriptors(from_atoms(transformed(atoms, orthogonal.numpy()), potential.cutoff))
    assert before.shape == (len(atoms), potential.descriptor_irreps.dim) == (len(atoms), 8)
    assert not before.requires_grad
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)
    graph = from_atoms(atoms, potential.cutoff)
    output = potential.model(displacements(graph), potential.species(graph.atomic_numbers), graph.edge_index)
    ours = from_mul_ir(before, potential.descriptor_irreps)
    torch.testing.assert_close(ours, output.features.detach(), rtol=0, atol=1e-13)  # sums in another order


@pytest.mark.parametrize("mirrored", [False, True])
def test_pair_forces_add_up_on_sender_and_receiver(mirrored: bool) -> None:
    edges = Edges(torch.tensor([[0, 1], [1, 2]]), 3, mirrored=mirrored)
    pair_forces = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    assert forces_from_pairs(pair_forces, edges).tolist() == [[1, 2, 3], [9, 18, 27], [-10, -20, -30]]


def test_stress_of_a_pair_is_force_times_distance_over_volume(triclinic: Atoms) -> None:
    graph = from_atoms(triclinic, 4.0)
    vectors = displacements(graph)
    expected = vectors.T @ vectors / triclinic.get_volume()  # E = sum r^2 / 2 over both directions, dE/dr = r
    springs = stress_from_pairs(vectors, vectors, Edges(graph.edge_index, 6), graph)
    torch.testing.assert_close(springs[0], expected, rtol=1e-12, atol=1e-12)
    edges, rows = Edges.in_pairs(graph.edge_index, graph.pairs, 6)
    springs = stress_from_pairs(2 * vectors[rows], vectors[rows], edges, graph)
    torch.testing.assert_close(springs[0], expected, rtol=1e-12, atol=1e-12)


def test_the_potential_says_what_it_is(potential: Potential) -> None:
    text = repr(potential)
    for part in ("H C O", "cutoff 4 Å", "float64 on cpu", "layer 2", "GeneratedConvolution", "GeneratedManyBody"):
        assert part in text
    weights = sum(parameter.numel() for parameter in potential.parameters())
    assert f"{weights:,} weights" in text
    assert potential.symbols == ("H", "C", "O")


def test_the_default_dtype_at_the_time_of_a_call_does_not_matter(
    make_potential: MakePotential, atoms: Atoms, in_double: Any
) -> None:
    potential = make_potential().float()
    expected = run(potential, atoms)
    with in_double():
        result = run(potential, atoms)
    for name in expected:
        assert result[name].dtype == expected[name].dtype
        assert torch.equal(result[name], expected[name])
