"""The physics of every potential again, for each kind of interaction, envelope, transform, readout, and with repulsion."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import make_supercell
from e3nn import o3
from torch import Tensor

from equinet.checkpoint import load_potential, save_potential
from equinet.graph import AtomicGraph, collate, displacements, from_atoms
from equinet.models import MACE, MACEConfig
from equinet.ops.edges import Edges
from equinet.potential import Potential

MakePotential = Callable[..., Potential]
REFERENCE = {1: -13.6, 6: -1029.5, 8: -2041.8}  # as in conftest.py
KINDS = ("plain", "residual", "density", "density_residual", "gated")


def both(kind: str) -> dict[str, str]:
    return {"first_interaction": kind, "interaction": kind}


# Every value of every choice, and the pairs of choices that meet in the code. All of them are smooth at the cutoff.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {**both("plain"), "zbl": True},
    "residual": {**both("residual"), "distance_transform": "agnesi", "edge_channels": 5},
    "density": {**both("density"), "envelope_on": "weights", "readout_biases": True, "max_l": 0},
    "density residual": {**both("density_residual"), "distance_transform": "soft", "zbl": True, "readout_layers": "last"},
    "agnesi on weights": {"envelope_on": "weights", "distance_transform": "agnesi", "interaction": "density", "edge_channels": 5, "edge_channels_first": True},
    "gated": {**both("gated"), "envelope_on": "weights", "edge_channels": 5, "readout_biases": True, "readout_layers": "last", "max_l": 2},
    "gated later": {"interaction": "gated", "envelope_on": "weights", "distance_transform": "soft", "readout_hidden": 0},
    "gated first": {"first_interaction": "gated", "envelope_on": "weights", "distance_transform": "agnesi", "zbl": True},
}  # fmt: skip


@pytest.fixture(params=VARIANTS)
def potential(request: pytest.FixtureRequest, make_potential: MakePotential) -> Potential:
    return make_potential(**VARIANTS[request.param])


@pytest.fixture
def atoms(pressed: Atoms) -> Atoms:
    """A crystal some of whose atoms are closer than the sum of their covalent radii."""
    return pressed


def run(potential: Potential, atoms: Atoms) -> dict[str, Tensor]:
    return potential(from_atoms(atoms, potential.cutoff), stress=True)


def energy(potential: Potential, atoms: Atoms) -> float:
    return run(potential, atoms)["energy"].item()


def gradient_of(function: Callable[[float], float], step: float = 1e-4) -> float:
    """Derivative at zero by the five-point rule."""
    near, far = (function(h) - function(-h) for h in (step, 2 * step))
    return (8 * near - far) / (12 * step)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=tolerance, equal_nan=True)


def test_every_kind_is_built_and_has_energies_of_order_one_electronvolt(potential: Potential, triclinic: Atoms) -> None:
    result = run(potential, triclinic)
    assert 0.1 < abs(result["energy"].item() - sum(REFERENCE[z] for z in triclinic.numbers)) / len(triclinic) < 50
    assert 0.1 < result["forces"].abs().max() < 100


def test_forces_are_minus_the_energy_gradient(potential: Potential, atoms: Atoms) -> None:
    forces = run(potential, atoms)["forces"].numpy()
    for direction in np.random.default_rng(0).normal(size=(3, *forces.shape)):

        def moved(h: float, direction: np.ndarray = direction) -> float:
            copied = atoms.copy()
            copied.positions += h * direction
            return energy(potential, copied)

        assert -gradient_of(moved, 2e-5) == pytest.approx((forces * direction).sum(), rel=1e-6, abs=1e-5)


def test_stress_is_the_energy_gradient_in_strain(potential: Potential, atoms: Atoms) -> None:
    stress = run(potential, atoms)["stress"][0].numpy()
    for direction in np.random.default_rng(0).normal(size=(3, 3, 3)):
        strain = (direction + direction.T) / 2

        def strained(h: float, strain: np.ndarray = strain) -> float:
            copied = atoms.copy()
            copied.set_cell(atoms.cell[:] @ (np.eye(3) + h * strain), scale_atoms=True)
            return energy(potential, copied)

        gradient = gradient_of(strained, 2e-5) / atoms.get_volume()
        assert gradient == pytest.approx((stress * strain).sum(), rel=1e-6, abs=1e-6)


def check_equivariance(potential: Potential, atoms: Atoms) -> None:
    torch.manual_seed(1)
    rotation = o3.rand_matrix(dtype=torch.float64)
    before = run(potential, atoms)
    assert before["forces"].abs().max() > 1e-3
    for matrix in (rotation, -rotation):
        turned = atoms.copy()
        turned.set_cell(atoms.cell[:] @ matrix.numpy().T)
        turned.positions = atoms.positions @ matrix.numpy().T
        expected = {
            "node_energy": before["node_energy"],
            "forces": before["forces"] @ matrix.T,
            "stress": matrix @ before["stress"] @ matrix.T,
        }
        assert_same(run(potential, turned), expected)


@pytest.mark.parametrize("max_l", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_forces_and_stress_turn_with_the_structure(
    make_potential: MakePotential, triclinic: Atoms, kind: str, max_l: int
) -> None:
    check_equivariance(make_potential(**both(kind), max_l=max_l, envelope_on="weights", channels=4), triclinic)


def test_transforms_and_repulsion_turn_with_the_structure(potential: Potential, atoms: Atoms) -> None:
    check_equivariance(potential, atoms)


def test_forces_add_up_to_nothing_and_turn_nothing(potential: Potential, ethanol: Atoms) -> None:
    ethanol.positions *= 0.85
    forces = run(potential, ethanol)["forces"].numpy()
    size = np.abs(forces).max()
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-11 * size)
    np.testing.assert_allclose(np.cross(ethanol.positions, forces).sum(0), 0, atol=1e-11 * size)


def test_the_order_of_the_atoms_does_not_matter(potential: Potential, atoms: Atoms) -> None:
    order = np.random.default_rng(3).permutation(len(atoms))
    before, after = run(potential, atoms), run(potential, atoms[order])
    expected = {name: value[order] if len(value) == len(atoms) else value for name, value in before.items()}
    assert_same(after, expected)


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_gives_what_its_structures_give_alone(
    potential: Potential, ethanol: Atoms, atoms: Atoms, one_atom: Atoms, training: bool
) -> None:
    potential.train(training)
    graphs = [from_atoms(a, potential.cutoff) for a in (ethanol, atoms, Atoms("O", [[0, 0, 0]]), one_atom)]
    alone = [potential(graph, stress=True) for graph in graphs]
    assert_same(
        potential(collate(graphs), stress=True), {name: torch.cat([each[name] for each in alone]) for name in alone[0]}
    )


def test_a_supercell_has_a_multiple_of_the_energy_and_the_same_stress(potential: Potential, atoms: Atoms) -> None:
    one, many = run(potential, atoms), run(potential, make_supercell(atoms, [[2, 0, 0], [1, 1, 0], [0, -1, 1]]))
    assert_same(many, {"energy": 2 * one["energy"], "stress": one["stress"]})


def test_an_isolated_atom_has_exactly_its_reference_energy(potential: Potential) -> None:
    for dtype in (torch.float64, torch.float32):
        for z, reference in REFERENCE.items():
            result = run(potential.to(dtype), Atoms([z], [[0.3, 0.1, -2.0]]))
            assert result["energy"].item() == reference
            assert torch.equal(result["forces"], torch.zeros_like(result["forces"]))


def test_energy_force_and_curvature_are_continuous_at_the_cutoff(potential: Potential) -> None:
    cutoff = potential.cutoff

    def curve(distance: float, pair: bool = True) -> tuple[float, float, float, int]:
        """Energy, first and second derivative as the last atom moves away from the first, and the number of edges."""
        positions = torch.tensor([[0.0, 0, 0], [0.9, 0.7, 0], [-1.0, 0.6, 0.3]], dtype=torch.float64)
        species = potential.species(torch.tensor([6, 8, 1]))
        along = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
        r = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
        moving = torch.cat([positions[:2], (positions[0] + r * along)[None]])
        edge_index = from_atoms(Atoms("COH", moving.detach().numpy()), cutoff).edge_index
        if not pair:
            edge_index = edge_index[:, (edge_index.sum(0) != 2) | (edge_index[0] == 1)]
        vectors = moving[edge_index[1]] - moving[edge_index[0]]
        value = potential.node_energies(vectors, species, edge_index).sum()
        (gradient,) = torch.autograd.grad(value, r, create_graph=True)
        (double_backward,) = torch.autograd.grad(gradient, r)
        return value.item(), gradient.item(), double_backward.item(), edge_index.shape[1]

    inside, outside = curve(cutoff * (1 - 1e-11)), curve(cutoff * (1 + 1e-11))
    assert inside[3] == outside[3] + 2  # the pair is there in one and not in the other
    np.testing.assert_allclose(inside[:3], outside[:3], rtol=0, atol=1e-6)
    # and yet the pair has a say: a little further in, the energy without it would be another
    assert abs(curve(0.9 * cutoff)[0] - curve(0.9 * cutoff, pair=False)[0]) > 1e-4


def test_pairs_and_their_two_directions_give_the_same(potential: Potential, atoms: Atoms) -> None:
    graph = from_atoms(atoms, potential.cutoff)
    species = potential.species(graph.atomic_numbers)
    edges, rows = Edges.in_pairs(graph.edge_index, graph.pairs, graph.num_nodes)
    if potential.model.directed:
        with pytest.raises(ValueError, match=r"other weights for each direction of a pair; give it an `edge_index`"):
            potential.node_energies(displacements(graph, rows), species, edges)
    else:
        in_pairs = potential.node_energies(displacements(graph, rows), species, edges)
        one_by_one = potential.node_energies(displacements(graph), species, graph.edge_index)
        torch.testing.assert_close(in_pairs, one_by_one, rtol=0, atol=1e-10)


def test_single_precision_is_close(potential: Potential, atoms: Atoms) -> None:
    double, single = run(potential, atoms), run(copy.deepcopy(potential).float(), atoms)
    assert single["forces"].dtype == torch.float32
    error = (single["forces"] - double["forces"]).abs().max()
    assert 0 < error < 1e-5 * double["forces"].abs().max()


def test_what_is_loaded_gives_exactly_what_was_saved(potential: Potential, atoms: Atoms, tmp_path: Path) -> None:
    if potential.model.zbl is not None:
        potential.model.zbl.factor.fill_(0.8)
    for dtype in (torch.float64, torch.float32):
        save_potential(potential.to(dtype), tmp_path / "model.eqn")
        loaded = load_potential(tmp_path / "model.eqn")
        assert loaded.model.config == potential.model.config
        assert repr(loaded) == repr(potential)
        before, after = run(potential, atoms), run(loaded, atoms)
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_frozen_weights_give_the_same_forces(potential: Potential, atoms: Atoms) -> None:
    expected = run(potential, atoms)
    potential.requires_grad_(False)
    for _ in range(2):  # the second time from kept matrices
        assert_same(run(potential, atoms), expected)


def test_a_loss_on_forces_moves_every_parameter_and_its_gradient_is_that_of_finite_differences(
    potential: Potential, triclinic: Atoms, force_loss: Callable[[Potential, AtomicGraph], Tensor]
) -> None:
    potential.train()
    graph = from_atoms(triclinic, potential.cutoff)
    force_loss(potential, graph).backward()
    names = dict(potential.named_parameters())
    for name, parameter in names.items():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    torch.manual_seed(0)
    start = {name: parameter.detach().clone() for name, parameter in names.items()}
    directions = {name: torch.randn_like(parameter) for name, parameter in names.items()}

    def loss_at(h: float) -> float:
        with torch.no_grad():
            for name, parameter in names.items():
                parameter.copy_(start[name] + h * directions[name])
        return force_loss(potential, graph).item()

    expected = sum((parameter.grad * directions[name]).sum().item() for name, parameter in names.items())
    assert gradient_of(loss_at, 1e-5) == pytest.approx(expected, rel=1e-5)


def test_repulsion_keeps_atoms_apart(make_potential: MakePotential) -> None:
    with_zbl, without = make_potential(**both("density"), zbl=True), make_potential(**both("density"))
    close, far = (Atoms("CO", [[0, 0, 0], [r, 0, 0]]) for r in (0.3, 1.5))
    assert energy(with_zbl, close) - energy(without, close) > 100
    pull = (run(with_zbl, close)["forces"] - run(without, close)["forces"])[:, 0]
    assert pull[0] < -1000  # eV/Å, away from the other
    assert pull[1] > 1000
    assert energy(with_zbl, far) == energy(without, far)  # the sum of the radii is 1.42 Å


def test_removing_the_readouts_of_all_layers_but_the_last_changes_nothing_else(
    make_potential: MakePotential, atoms: Atoms
) -> None:
    everywhere, last = (make_potential(layers=3, readout_layers=layers) for layers in ("all", "last"))
    weights = everywhere.state_dict()
    mine = {name.replace("readouts.0", "readouts.2"): name for name in last.state_dict()}
    last.load_state_dict({name: weights[there] for there, name in mine.items()})
    before = run(everywhere, atoms)
    with torch.no_grad():
        for readout in everywhere.model.readouts[:-1]:
            readout.network.weights[-1].zero_()
    assert_same(run(last, atoms), run(everywhere, atoms), 1e-12)
    assert (before["energy"] - run(last, atoms)["energy"]).abs() > 1e-2
    assert [readout is None for _, _, readout in last.model.layers] == [True, True, False]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (VARIANTS["residual"], r"distance_transform = 'agnesi'"),
        (VARIANTS["density residual"], r"distance_transform = 'soft'"),
        (VARIANTS["gated"], r'"gated" interactions'),
    ],
)
def test_functions_of_the_species_cannot_be_tabulated(
    make_potential: MakePotential, overrides: dict, reason: str
) -> None:
    with pytest.raises(ValueError, match=rf"this model cannot be tabulated: .*{reason}"):
        make_potential(**overrides).tabulate()


@pytest.mark.parametrize("kind", ["plain", "density_residual"])
def test_an_envelope_on_weights_can_be_tabulated(make_potential: MakePotential, atoms: Atoms, kind: str) -> None:
    potential = make_potential(**both(kind), envelope_on="weights", zbl=True)
    assert potential.model.not_tabulable is None
    expected = run(potential, atoms)
    tabulated = potential.tabulate(1e-8)
    found = run(tabulated, atoms)
    assert "table of" in repr(tabulated)
    assert "table of" not in repr(potential)
    size = expected["forces"].abs().max()
    assert 0 < (found["forces"] - expected["forces"]).abs().max() < 1e-6 * size


@pytest.mark.parametrize("where", ["first_interaction", "interaction"])
def test_gates_for_pseudotensors_are_refused(where: str) -> None:
    with pytest.raises(ValueError, match='the "gated" interaction has no form for pseudotensors'):
        MACE(MACEConfig(channels=2, pseudotensors=True, **{where: "gated"}), [1], 8.0)


def test_a_model_says_what_it_computes(make_potential: MakePotential) -> None:
    text = repr(make_potential(**VARIANTS["gated first"]))
    for part in ("Bessel functions of agnesi(r_ij)", "gate(m_i)", "R(r_ij) = f · MLP", "½ Σ_j ZBL", "(b, z_i, z_j)"):
        assert part in text
    plain = repr(make_potential())
    for part in ("agnesi", "soft", "gate(", "ZBL", "R(r_ij) = f"):
        assert part not in plain
