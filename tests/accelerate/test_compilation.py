"""Written down and compiled, a potential gives what it gives; and what compilers get wrong in silence is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor, library, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx

import equinet.ops.kernels.linear.operator as linear_operator
from equinet.accelerate.compilation import Batch, CompiledPotential, CompiledTraining, erase_detach, write_down
from equinet.graph import AtomicGraph, collate, from_atoms
from equinet.nn.prediction import NodeValues
from equinet.ops import ClebschGordan, CPDecomposed, GauntFourier, SpeciesGroups
from equinet.ops.kernels.linear.maps import Block, Plan, mix
from equinet.potential import Potential
from equinet.train.loop import train_step
from equinet.train.loss import Loss

MakePotential = Callable[..., Potential]
FORMS: dict[str, dict[str, Any]] = {
    "cg": {"correlation": 3},
    "density": {"first_interaction": "density", "interaction": "density_residual"},
    "gated": {"first_interaction": "gated", "interaction": "gated", "envelope_on": "weights"},
    "agnesi and zbl": {"distance_transform": "agnesi", "zbl": True},
    "gaunt_grid": {"convolution": "gaunt_grid", "many_body": "gaunt_grid"},
    "gaunt_fourier": {"convolution": "gaunt_fourier", "many_body": "gaunt_fourier"},
    "matrix": {"convolution": "matrix", "many_body": "matrix"},
    "cp": {"convolution": CPDecomposed(rank=12), "many_body": CPDecomposed(rank=12, factors="trainable")},
    "so2": {"convolution": "so2"},
}

# Torch before 2.13 writes products of a matrix with a batch down for one size of the batch.
ONE_SIZE = set() if torch.__version__ >= "2.13" else {"cp", "so2"}


@pytest.fixture
def batches(ethanol: Atoms, triclinic: Atoms, one_atom: Atoms) -> list[AtomicGraph]:
    """Of several sizes, with all elements and with some, none of size one."""
    sets = [[ethanol, triclinic], [one_atom, triclinic, molecule("CH4")], [molecule("H2O"), molecule("CO")]]
    return [collate([from_atoms(atoms, 4.0) for atoms in atoms_of]) for atoms_of in sets]


def energies_of(potential: Potential, batch: Batch) -> list[Tensor]:
    edges = batch.edges(mirrored=not potential.model.directed)
    return [potential.node_energies(batch.vectors, batch.groups(), edges)]


def gradients(output: dict[str, Tensor], weights: list[Tensor]) -> tuple[Tensor, ...]:
    value = output["energy"].sum() + output["forces"].double().square().sum()
    if "stress" in output:
        value = value + output["stress"].nan_to_num().square().sum()
    return torch.autograd.grad(value, weights, materialize_grads=True)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_down_once_serves_structures_of_any_size(
    make_potential: MakePotential, batches: list[AtomicGraph], form: str
) -> None:
    potential = make_potential(**FORMS[form])
    if form in ONE_SIZE:
        with pytest.raises(RuntimeError, match="written for one size of"):
            write_down(potential, lambda batch: energies_of(potential, batch))
        return
    graph = write_down(potential, lambda batch: energies_of(potential, batch))
    for structures in batches:
        groups, (edges, vectors) = potential.groups(structures.atomic_numbers), potential.geometry(structures)
        batch, results = Batch.of(vectors, groups, edges, structures), []
        for energies in (
            lambda v, batch=batch: NodeValues(graph(*batch._replace(vectors=v))[0], {}),
            lambda v, edges=edges, groups=groups: potential.node_values(v, groups, edges),
        ):
            results.append(potential.derive(energies, vectors.clone(), edges, structures, stress=True))
        for name, expected in results[1].items():
            torch.testing.assert_close(results[0][name], expected, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(
    ("form", "dtype", "backend"),
    [("cg", torch.float64, "aot_eager"), ("cg", torch.float32, "eager"), ("gated", torch.float64, "eager")],
)
def test_a_compiled_potential_is_the_potential_and_compiles_once_for_all_sizes(
    make_potential: MakePotential, batches: list[AtomicGraph], form: str, dtype: torch.dtype, backend: str
) -> None:
    potential, counter = make_potential(**FORMS[form]).to(dtype), CompileCounterWithBackend(backend)
    compiled = CompiledPotential(potential, backend=counter)
    compiled(batches[0])
    counted = counter.frame_count
    close = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    for structures in batches:
        found, expected = compiled(structures, stress=True), potential(structures, stress=True)
        assert found.keys() == expected.keys()
        for name in expected:
            assert not found[name].requires_grad
            torch.testing.assert_close(found[name], expected[name], equal_nan=True, **close)
    assert counter.frame_count == counted


def test_atoms_without_pairs_and_single_atoms_can_be_compiled_too(potential: Potential) -> None:
    compiled = CompiledPotential(potential, backend="eager")
    for atoms in (Atoms("C"), Atoms("HO", [[0, 0, 0], [9, 0, 0]]), molecule("OH")):
        graph = from_atoms(atoms, potential.cutoff)
        found, expected = compiled(graph), potential(graph)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


def test_a_compiled_potential_follows_its_weights_and_takes_groups(potential: Potential, triclinic: Atoms) -> None:
    compiled, graph = CompiledPotential(potential, backend="eager"), from_atoms(triclinic, potential.cutoff)
    before = compiled(graph, groups=potential.groups(graph.atomic_numbers))["forces"]
    torch.testing.assert_close(before, potential(graph)["forces"], rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        for weight in potential.parameters():
            weight.mul_(1.1)
    after = compiled(graph)["forces"]
    torch.testing.assert_close(after, potential(graph)["forces"], rtol=1e-12, atol=1e-12)
    assert (after - before).abs().max() > 1e-3


def test_tables_can_be_compiled(potential: Potential, triclinic: Atoms) -> None:
    potential = potential.tabulate(1e-4)
    compiled = CompiledPotential(potential, backend="eager")
    graph = from_atoms(triclinic, potential.cutoff)
    torch.testing.assert_close(compiled(graph)["forces"], potential(graph)["forces"], rtol=1e-11, atol=1e-11)


def test_torch_compiles_the_energies_of_exact_couplings_as_they_are(
    potential: Potential, batches: list[AtomicGraph]
) -> None:
    potential.requires_grad_(False)
    energies = torch.compile(potential.node_energies, fullgraph=True, dynamic=True, backend="aot_eager")
    graph = batches[0]
    groups, (edges, vectors) = potential.groups(graph.atomic_numbers), potential.geometry(graph)
    found = potential.derive(lambda v: NodeValues(energies(v, groups, edges), {}), vectors, edges, graph)
    for name, expected in potential(graph).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-12)


def test_a_potential_in_training_is_no_potential_for_inference(potential: Potential) -> None:
    with pytest.raises(ValueError, match="in training mode"):
        CompiledPotential(potential.train())


def test_a_product_that_asks_for_sizes_is_refused(make_potential: MakePotential) -> None:
    with pytest.raises(RuntimeError, match="how many nodes a species has is not known"):
        CompiledPotential(make_potential(many_body=ClebschGordan("torch")))


def test_what_is_written_for_one_size_is_refused(make_potential: MakePotential, potential: Potential) -> None:
    with pytest.raises(RuntimeError, match="written for one size of species"):  # torch's Fourier transforms are
        CompiledPotential(make_potential(many_body=GauntFourier(backend="torch")))
    with pytest.raises(RuntimeError, match="written for one size of vectors"):
        write_down(potential, lambda batch: [batch.vectors * len(batch.vectors)])


@pytest.mark.parametrize(("form", "backend"), [("cg", "aot_eager"), ("density", "eager"), ("gated", "eager")])
def test_a_compiled_step_has_the_gradients_of_the_potential(
    make_potential: MakePotential, batches: list[AtomicGraph], form: str, backend: str
) -> None:
    potential, counter = make_potential(**FORMS[form]).train(), CompileCounterWithBackend(backend)
    training, weights = CompiledTraining(potential, backend=counter), list(potential.parameters())
    training(batches[0], stress=True)
    counted = counter.frame_count
    for structures in batches:
        found, expected = training(structures, stress=True), potential(structures, stress=True)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12, equal_nan=True)
        for ours, theirs in zip(gradients(found, weights), gradients(expected, weights)):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10 * float(theirs.abs().max()))
    assert counter.frame_count == counted


@pytest.mark.parametrize("form", ["so2"])
def test_steps_of_other_products_have_theirs(
    make_potential: MakePotential, batches: list[AtomicGraph], form: str
) -> None:
    potential = make_potential(**FORMS[form]).train()
    if form in ONE_SIZE:
        with pytest.raises(RuntimeError, match="written for one size of"):
            CompiledTraining(potential, backend="eager")(batches[1])
        return
    training, weights = CompiledTraining(potential, backend="eager"), list(potential.parameters())
    found, expected = (gradients(each(batches[1]), weights) for each in (training, potential))
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10 * float(theirs.abs().max()))


def test_detach_in_a_graph_spoils_gradients_and_erasing_it_mends_them() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    weights, x = [weight.detach() for weight in layers.parameters()], torch.randn(4, 3, dtype=torch.float64)

    def force(weights: list[Tensor], x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        a, b, c, d = weights
        (gradient,) = torch.autograd.grad((torch.tanh(x @ a.T + b) @ c.T + d).sum(), x, create_graph=True)
        return gradient

    leaves = [weight.clone().requires_grad_() for weight in weights]
    expected = torch.autograd.grad(force(leaves, x).square().sum(), leaves[:3])
    found = {}
    for erase in (False, True):
        graph = make_fx(force)(leaves, x)
        graph = erase_detach(graph) if erase else graph
        gradients = torch.autograd.grad(graph(leaves, x).square().sum(), leaves[:3], materialize_grads=True)
        found[erase] = max(float((a - b).norm() / b.norm()) for a, b in zip(gradients, expected))
    assert found[False] > 0.1
    assert found[True] < 1e-10


def test_a_step_whose_gradients_are_wrong_is_refused(make_potential: MakePotential, batches: list[AtomicGraph]) -> None:
    potential = make_potential(**FORMS["density"])
    training = CompiledTraining(potential, backend="eager", erase=False)
    for _ in range(2):  # also when asked again
        with pytest.raises(RuntimeError, match="compiled step gives wrong gradients: those of `model"):
            training(batches[0])
    assert not potential.training


def test_training_with_a_compiled_step_is_training(make_potential: MakePotential, batches: list[AtomicGraph]) -> None:
    found = []
    for compiled in (False, True):
        potential, loss = make_potential(), Loss(energy=1.0, forces=10.0)
        optimizer = torch.optim.SGD(potential.train().parameters(), lr=1e-4)
        predict = CompiledTraining(potential, backend="eager") if compiled else None
        values = []
        for graph in batches * 2:
            graph = graph.clone()
            graph.energy, graph.forces = (
                torch.zeros(graph.graph_count).double(),
                torch.zeros(graph.num_nodes, 3).double(),
            )
            graph.weight = torch.ones(graph.graph_count).double()
            values.append(train_step(potential, graph, loss, optimizer, 10.0, predict))
        found.append((values, [weight.detach().clone() for weight in potential.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)
    assert found[0][0][0] != found[0][0][3]


PLANS = {
    "two blocks": Plan((Block(0, 1, 0, 1, 0.5), Block(1, 7, 1, 4, 2.0)), 7, 4),
    "one block between zeros": Plan((Block(1, 4, 1, 4, 0.3),), 6, 5),
}


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("nodes", [5, 1, 0])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_linear_maps_as_operators_are_the_linear_maps(
    plan: Plan, nodes: int, grouped: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    groups = SpeciesGroups(torch.randint(3, (nodes,))) if grouped else None
    shapes = [(3, *shape) if grouped else shape for shape in plan.matrices(3, 2)]
    leaves = [torch.randn(nodes, plan.rows, 3), *map(torch.randn, shapes)]
    leaves = [leaf.to(dtype).requires_grad_() for leaf in leaves]
    found = []
    for form in (mix, linear_operator.traced_mix):
        y = form(leaves[0], leaves[1:], plan, groups)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum((gradient**2).sum() for gradient in first), leaves)
        found.append([y, *first, *second])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("grouped", [False, True])
def test_the_operators_keep_what_torch_asks_of_operators(grouped: bool) -> None:
    plan, groups = PLANS["two blocks"], SpeciesGroups(torch.tensor([1, 0, 1, 1]))
    nodes = (groups.order, groups.nodes.spans) if grouped else (None, None)
    x, g = (torch.randn(4, rows, 3, dtype=torch.float64, requires_grad=True) for rows in (7, 4))
    count = (2 if grouped else 1) * sum(a * b for a, b in plan.matrices(3, 3))
    w = torch.randn(count, dtype=torch.float64, requires_grad=True)
    for back, features in ((False, x), (True, g)):
        library.opcheck(linear_operator.product, (features, w, *nodes, *linear_operator.numbers_of(plan), back, 3))
    library.opcheck(linear_operator.outer, (x, g, *nodes, *linear_operator.numbers_of(plan), count))
