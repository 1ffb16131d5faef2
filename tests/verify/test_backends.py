"""The gate: lets every honest potential pass, and none whose kernels are wrong, be it in a derivative or for one element only."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor
from torch.autograd import Function
from typer.testing import CliRunner

from equinet.checkpoint import save_potential
from equinet.cli import app
from equinet.datasets import SAMPLE
from equinet.graph import AtomicGraph, collate, displacements, from_atoms
from equinet.md import EquinetCalculator
from equinet.nn.prediction import NodeValues
from equinet.ops import ClebschGordan
from equinet.ops.kernels.edge.reference import ReferenceConvolution
from equinet.ops.kernels.linear import cpu as linear_cpu
from equinet.ops.kernels.node.reference import ReferenceManyBody
from equinet.ops.kernels.row import operator as row_operator
from equinet.potential import Potential
from equinet.train import evaluate_file, parse_config, run
from equinet.verify import backends
from equinet.verify.backends import (
    BackendMismatchError,
    differences,
    reference_potential,
    require_backend_match,
    rounding,
    small_part,
)

MakePotential = Callable[..., Potential]

METHODS: dict[str, dict[str, Any]] = {
    "cg": {},
    "grid": {"convolution": {"method": "gaunt_grid", "copies": 2, "weights": "degrees"}, "many_body": "gaunt_grid"},
    "grid with bracket": {"convolution": {"method": "gaunt_grid", "bracket": True}, "many_body": {"method": "gaunt_grid", "bracket": True}, "pseudotensors": True},
    "fourier": {"convolution": "gaunt_fourier", "many_body": "gaunt_fourier"},
    "matrix": {"convolution": "matrix", "many_body": "matrix"},
    "cp": {"convolution": {"method": "cp", "rank": 12}, "many_body": {"method": "cp", "rank": 20, "factors": "trainable"}},
    "so2": {"convolution": "so2"},
    "plain": {"first_interaction": "plain", "interaction": "plain", "zbl": True},
    "density": {"first_interaction": "density", "interaction": "density", "distance_transform": "agnesi"},
    "density residual": {"first_interaction": "density_residual", "interaction": "density_residual"},
    "gated": {"first_interaction": "gated", "interaction": "gated", "envelope_on": "weights"},
    "scalars": {"max_l": 0, "correlation": 3, "channels": 16},
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_compared_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_passed", set())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Potential]:
    """The potentials that have been compared."""
    seen: list[Potential] = []

    def count(potential: Potential, graph: AtomicGraph) -> Any:
        seen.append(potential)
        return differences(potential, graph)

    monkeypatch.setattr(backends, "differences", count)
    return seen


# ---- honest potentials pass, by a margin


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_every_potential_passes_by_a_factor_of_three(
    make_potential: MakePotential, ethanol: Atoms, triclinic: Atoms, method: str, dtype: torch.dtype
) -> None:
    potential = make_potential(**METHODS[method]).to(dtype)
    for atoms, trained in ((ethanol, True), (triclinic, True), (triclinic, False)):
        potential.requires_grad_(trained)
        found = differences(potential, small_part(from_atoms(atoms, potential.cutoff)))
        names = {difference.quantity for difference in found}
        assert {"energies of atoms", "forces"} < names
        assert ("stress" in names) == atoms.pbc.any()
        assert ("gradient of forces in model.interactions.1.linear_up.weights.0e" in names) == trained
        assert ("gradient of forces in positions" in names) != trained
        assert all(difference.relative < difference.tolerance / 3 for difference in found), found
        assert dtype == torch.float64 or max(difference.relative for difference in found) > 1e-7


def test_tables_have_the_same_twin_and_pass(make_potential: MakePotential, triclinic: Atoms) -> None:
    potential = make_potential().float().tabulate(1e-3)  # a table far from the network, but not from itself
    assert require_backend_match(potential, from_atoms(triclinic, potential.cutoff))


def test_a_single_atom_with_its_images_is_compared_through_its_stress(potential: Potential, one_atom: Atoms) -> None:
    found = {each.quantity: each for each in differences(potential, small_part(from_atoms(one_atom, 4.0)))}
    assert found["stress"].tolerable
    broken = broken_in(potential, "product", lambda value: 1.001 * value)
    found = {each.quantity: each for each in differences(broken, small_part(from_atoms(one_atom, 4.0)))}
    assert found["forces"].tolerable  # they are zero by symmetry
    assert not found["stress"].tolerable


def test_the_twin_is_reference_in_float64_with_the_same_weights(make_potential: MakePotential) -> None:
    potential = make_potential().float()
    twin = reference_potential(potential)
    assert twin.dtype == torch.float64
    for interaction, product, _ in twin.model.layers:
        assert type(interaction.convolution) is ReferenceConvolution
        assert type(product.product) is ReferenceManyBody
    for (name, ours), (other, theirs) in zip(potential.named_parameters(), twin.named_parameters()):
        assert name == other
        assert torch.equal(ours.double(), theirs)


# ---- broken ones do not


class Scaled(Function):
    """A factor on the value, on the gradient, and on the gradient's gradient, each by itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: float, gradient: float, double_backward: float) -> Tensor:
        ctx.factors = gradient, double_backward
        return x * value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gradient, double_backward = ctx.factors
        return Bent.apply(grads[0], gradient, double_backward), None, None, None


class Bent(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, gradient: float, double_backward: float) -> Tensor:
        ctx.double_backward = double_backward
        return g * gradient

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.double_backward, None, None


def broken_in(potential: Potential, part: str, fault: Callable[[Tensor], Tensor], layer: int = 0) -> Potential:
    """A copy whose second executor of a layer, or its convolution, does something to what it computes."""
    potential = copy.deepcopy(potential)
    interaction, product, _ = potential.model.layers[layer]
    executor: Any = interaction.convolution if part == "convolution" else product.product
    right = executor.forward
    executor.forward = lambda *inputs: fault(right(*inputs))
    return potential


def only_hydrogen(potential: Potential, factor: float) -> Potential:
    """A copy whose last many-body product is wrong for one species."""
    potential = copy.deepcopy(potential)
    executor: Any = potential.model.layers[-1][1].product
    right = executor.forward

    def wrong(features: Tensor, weight: Tensor, groups: Any) -> Tensor:
        result = right(features, weight, groups)
        return torch.where((groups.species == 0)[:, None, None], factor * result, result)

    executor.forward = wrong
    return potential


FAULTS = {  # factors of value, gradient, and gradient's gradient
    "all": (1.002, 1.002, 1.002),
    "value": (1.002, 1.0, 1.0),
    "gradient": (1.0, 1.002, 1.002),
    "second derivative": (1.0, 1.0, 1.01),
    "value not a number": (float("nan"), 1.0, 1.0),
    "gradient not a number": (1.0, float("nan"), 1.0),
    "second derivative not a number": (1.0, 1.0, float("nan")),
    "value infinite": (float("inf"), 1.0, 1.0),
}


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("part", ["convolution", "product"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_kernel_that_is_wrong_is_refused(
    potential: Potential, ethanol: Atoms, dtype: torch.dtype, fault: str, part: str, trained: bool
) -> None:
    broken = broken_in(potential.to(dtype), part, lambda value: Scaled.apply(value, *FAULTS[fault]))
    with pytest.raises(
        BackendMismatchError, match=f"wrong numbers on cpu in {str(dtype)[6:]}: .* off by .*, tolerance "
    ):
        require_backend_match(broken.requires_grad_(trained), from_atoms(ethanol, potential.cutoff))


@pytest.mark.parametrize("fault", ["gradient", "second derivative"])
def test_what_is_wrong_is_named(potential: Potential, ethanol: Atoms, fault: str) -> None:
    broken = broken_in(potential, "product", lambda value: Scaled.apply(value, *FAULTS[fault]))
    wrong = {
        each.quantity
        for each in differences(broken, small_part(from_atoms(ethanol, potential.cutoff)))
        if not each.tolerable
    }
    assert "energies of atoms" not in wrong
    assert ("forces" in wrong) == (fault == "gradient")
    assert any(name.startswith("gradient of forces in model.") for name in wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_kernel_that_is_wrong_for_one_element_is_refused(potential: Potential, dtype: torch.dtype) -> None:
    """Hydrogen, of which there is one among sixty carbons."""
    atoms = bulk("C", "diamond", a=3.57, cubic=True).repeat(2)
    atoms.numbers[37] = 1
    broken = only_hydrogen(potential.to(dtype), 1.02)
    with pytest.raises(BackendMismatchError, match=r"gradient of forces in model.* off by"):
        require_backend_match(broken, from_atoms(atoms, potential.cutoff))
    del atoms[37]
    assert require_backend_match(broken, from_atoms(atoms, potential.cutoff))  # without it nothing is wrong


def test_a_linear_map_of_ours_that_is_wrong_is_refused(
    potential: Potential, ethanol: Atoms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin must not use the machine code for linear maps either, or it would be wrong likewise."""
    right = linear_cpu.mix
    monkeypatch.setattr(linear_cpu, "mix", lambda *inputs: 1.001 * right(*inputs))
    with pytest.raises(BackendMismatchError, match="energies of atoms"):
        require_backend_match(potential, from_atoms(ethanol, potential.cutoff))


def test_an_activation_of_ours_that_is_wrong_is_refused(
    potential: Potential, ethanol: Atoms, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = row_operator.row_value
    monkeypatch.setattr(row_operator, "WORTHWHILE", 1)
    monkeypatch.setattr(row_operator, "row_value", lambda x, name: [1.001 * each for each in right(x, name)])
    with pytest.raises(BackendMismatchError, match="energies of atoms"):
        require_backend_match(potential, from_atoms(ethanol, potential.cutoff))


def test_the_message_tells_where_what_and_what_to_do(potential: Potential, triclinic: Atoms) -> None:
    graph = from_atoms(triclinic, potential.cutoff)
    part = small_part(graph)
    broken = broken_in(potential.float(), "product", lambda value: 1.01 * value)
    with pytest.raises(BackendMismatchError) as raised:
        require_backend_match(broken, graph)
    message = str(raised.value)
    executors = [type(interaction.convolution).__name__ for interaction, _, _ in potential.model.layers]
    for text in (
        "cpu in float32",
        f"{part.num_nodes} atoms and {part.num_edges} edges of your input",
        "tolerance 1e-04",
        executors[0],
        type(potential.model.layers[0][1].product).__name__,
        f"torch {torch.__version__}",
        'backend="torch"',
        "report",
    ):
        assert text in message, message
    assert message.count(" off by ") == 4


# ---- once, and for whom


def test_it_runs_once_for_all_weights_and_again_for_whatever_else_decides_on_kernels(
    make_potential: MakePotential, ethanol: Atoms, counted: list[Potential]
) -> None:
    potential = make_potential()
    graph = from_atoms(ethanol, potential.cutoff)
    runs = []
    for each in (
        potential,
        potential,
        make_potential(seed=1),  # other weights: not again
        make_potential(seed=1).float(),
        make_potential().float().requires_grad_(False),
        make_potential().float().tabulate(),
        make_potential(many_body=ClebschGordan(backend="torch")),
        make_potential(channels=4),
    ):
        assert require_backend_match(each, graph)
        runs.append(len(counted))
    assert runs == [1, 1, 1, 2, 3, 4, 5, 6]
    assert require_backend_match(
        potential, from_atoms(molecule("CO"), potential.cutoff)
    )  # C, O known; not by themselves
    assert len(counted) == 7


def test_a_failure_is_no_pass(potential: Potential, ethanol: Atoms) -> None:
    broken = broken_in(potential, "product", lambda value: 1.01 * value)
    for _ in range(2):
        with pytest.raises(BackendMismatchError):
            require_backend_match(broken, from_atoms(ethanol, potential.cutoff))


def test_atoms_without_neighbours_tell_nothing_and_do_not_count(
    potential: Potential, ethanol: Atoms, counted: list[Potential]
) -> None:
    far = Atoms("CO", [[0, 0, 0], [0, 0, 50]])
    assert not require_backend_match(potential, from_atoms(far, potential.cutoff))
    assert not require_backend_match(potential, from_atoms(Atoms("C"), potential.cutoff))
    assert counted == []
    assert require_backend_match(potential, from_atoms(ethanol, potential.cutoff))
    assert len(counted) == 1


def test_the_reference_form_in_float64_on_the_cpu_is_not_compared_with_itself(
    make_potential: MakePotential, ethanol: Atoms, counted: list[Potential]
) -> None:
    reference = make_potential(
        convolution=ClebschGordan(backend="reference"), many_body=ClebschGordan(backend="reference")
    )
    graph = from_atoms(ethanol, reference.cutoff)
    assert require_backend_match(reference, graph)
    assert counted == []
    assert require_backend_match(reference.float(), graph)
    assert len(counted) == 1


def test_weights_that_are_no_numbers_are_not_the_kernels_fault(potential: Potential, ethanol: Atoms) -> None:
    with torch.no_grad():
        next(potential.model.readouts.parameters()).fill_(torch.nan)
    assert not require_backend_match(potential, from_atoms(ethanol, potential.cutoff))
    ethanol.calc = EquinetCalculator(potential)
    with pytest.raises(FloatingPointError, match="not finite"):
        ethanol.get_forces()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_the_potential_the_graph_and_the_random_numbers_stay_as_they_are(
    potential: Potential, ethanol: Atoms, training: bool, trained: bool
) -> None:
    potential.train(training).requires_grad_(trained)
    weights = {name: value.clone() for name, value in potential.state_dict().items()}
    graph = from_atoms(ethanol, potential.cutoff)
    before, random = graph.clone(), torch.get_rng_state()
    with torch.no_grad():
        assert require_backend_match(potential, graph)
    assert potential.training == training
    assert all(module.training == training for module in potential.modules())
    assert all(parameter.requires_grad == trained for parameter in potential.parameters())
    assert all(parameter.grad is None for parameter in potential.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in potential.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert set(graph.keys()) == set(before.keys())
    assert all(torch.equal(graph[key], before[key]) for key in ("positions", "edge_index", "cell", "pairs"))


# ---- the part


def is_whole(part: AtomicGraph) -> None:
    """Every edge is there in both directions, in pairs as numbered, in the order of receivers."""
    assert (part.edge_index[1].diff() >= 0).all()
    order = part.pairs.argsort()
    assert torch.equal(part.pairs[order], torch.arange(part.num_edges))
    there, back = order[::2], order[1::2]
    assert torch.equal(part.edge_index[:, there], part.edge_index[:, back].flip(0))
    assert torch.equal(part.unit_shifts[there], -part.unit_shifts[back])


def test_a_small_structure_is_taken_whole(potential: Potential, triclinic: Atoms) -> None:
    graph = from_atoms(triclinic, 3.0)
    part = small_part(graph)
    is_whole(part)
    assert torch.equal(part.edge_index, graph.edge_index)
    assert torch.equal(part.atomic_numbers, graph.atomic_numbers)
    lengths, before = displacements(part).norm(dim=1), displacements(graph).norm(dim=1)
    assert 0 < (lengths - before).abs().max() < 4 * backends.MOVED
    assert not torch.allclose(displacements(part), displacements(graph), atol=0.3)  # turned


def test_of_a_large_structure_few_neighbouring_atoms_are_taken() -> None:
    graph = from_atoms(bulk("Cu", cubic=True).repeat(5), 5.0)
    part = small_part(graph)
    is_whole(part)
    assert 5 < part.num_nodes <= backends.MOST_ATOMS
    assert 50 < part.num_edges <= backends.MOST_EDGES
    assert (displacements(part).norm(dim=1) < 5.2).all()
    assert (part.receiver_pointers.diff() > 0).all()  # nobody alone


def test_every_element_that_fits_is_in_the_part_with_a_neighbour() -> None:
    atoms = bulk("Cu", cubic=True).repeat(5)
    rare = [3, 150, 277, 301, 444]
    atoms.numbers[rare] = [1, 6, 8, 14, 26]
    part = small_part(from_atoms(atoms, 3.0))
    is_whole(part)
    assert {1, 6, 8, 14, 26} <= set(part.atomic_numbers.tolist())
    assert (part.receiver_pointers.diff() > 0).all()


def test_molecules_far_apart_have_each_an_atom_in_the_part() -> None:
    atoms = molecule("H2O") + Atoms("CO", [[50, 0, 0], [51.1, 0, 0]]) + Atoms("N", [[0, 90, 0]])
    part = small_part(from_atoms(atoms, 4.0))
    assert sorted(part.atomic_numbers.tolist()) == [1, 1, 6, 8, 8]  # nitrogen has no neighbour


def test_the_part_is_cut_from_the_first_structure_that_has_neighbours(ethanol: Atoms, triclinic: Atoms) -> None:
    batch = collate([from_atoms(atoms, 4.0) for atoms in (Atoms("C"), triclinic, ethanol)])
    part = small_part(batch)
    is_whole(part)
    assert part.graph_count == 1
    assert sorted(part.atomic_numbers.tolist()) == sorted(triclinic.numbers)
    np.testing.assert_allclose(part.cell[0].norm(dim=1), triclinic.cell.lengths())


def test_one_atom_with_hundreds_of_images_is_taken_all_the_same() -> None:
    part = small_part(from_atoms(bulk("Cu"), 10.0))
    is_whole(part)
    assert part.num_nodes == 1
    assert part.num_edges > backends.MOST_EDGES


# ---- where it stands


def wrong_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the readouts' input, whatever the backend, but not in float64 on the CPU, where the twin is."""
    right = Potential.node_values

    def wrong(self: Potential, *inputs: Any) -> NodeValues:
        values = right(self, *inputs)
        return values if self.dtype == torch.float64 else values._replace(energy=values.energy * 1.001)

    monkeypatch.setattr(Potential, "node_values", wrong)


def test_the_calculator_refuses_before_its_first_result(
    make_potential: MakePotential, ethanol: Atoms, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_everywhere(monkeypatch)
    ethanol.calc = EquinetCalculator(make_potential(), dtype="float32")
    for _ in range(2):
        with pytest.raises(BackendMismatchError, match="Nothing has been computed"):
            ethanol.get_potential_energy()
    assert ethanol.calc.results == {}


def test_the_calculator_compares_once_and_an_isolated_atom_is_no_comparison(
    make_potential: MakePotential, ethanol: Atoms, counted: list[Potential]
) -> None:
    calculator = EquinetCalculator(make_potential())
    for atoms, runs in ((Atoms("O"), 0), (ethanol, 1), (ethanol, 1)):
        calculator.get_forces(atoms)
        calculator.reset()
        assert len(counted) == runs
    assert counted[0] is calculator.potential


def test_the_command_line_tells_it_in_one_sentence(
    make_potential: MakePotential, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_everywhere(monkeypatch)
    save_potential(make_potential(), tmp_path / "model.eqn")
    model, data, out = str(tmp_path / "model.eqn"), str(SAMPLE["test"]), str(tmp_path / "md.traj")
    for command in (
        ["evaluate", model, data, "--dtype", "float32"],
        ["md", model, data, "--dtype", "float32", "--out", out],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        assert "error: this potential computes wrong numbers on cpu in float32" in " ".join(result.output.split())
        assert "Traceback" not in result.output
    with pytest.raises(BackendMismatchError):
        evaluate_file(model, data, dtype="float32")


def test_training_refuses_to_start(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"channels": 4, "sh_degree": 1, "correlation": 2, "cutoff": 4.0, "radial_hidden": [8]}
    config = parse_config(
        {"data": {"train": str(SAMPLE["train"])}, "model": tiny, "train": {"epochs": 0, "device": "cpu"}}
    )
    wrong_everywhere(monkeypatch)
    with pytest.raises(BackendMismatchError, match="gradient of forces in model"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "model.eqn").exists()


def test_rounding_is_measured_against_float64(make_potential: MakePotential, ethanol: Atoms) -> None:
    exact = make_potential()
    graph = collate([from_atoms(ethanol, exact.cutoff), from_atoms(Atoms("C"), exact.cutoff)])
    found = rounding(copy.deepcopy(exact).float(), exact, graph)
    assert 0 < found.forces_rms < found.forces_max < 1
    assert 0 < found.energy < 0.1
    assert str(found).startswith("against float64 the energy errs by ")
    assert "meV/atom" in str(found)
    same = rounding(exact, exact, graph)
    assert same.energy == same.forces_max == 0
