"""A step that never changes shape gives what the potential gives, and asks nothing that a GPU would have to be waited for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from equinet.accelerate.capture import FEWEST, Slots, StaticStep, capacity_for, recorded, static_step
from equinet.graph import AtomicGraph, collate, from_atoms
from equinet.ops import ClebschGordan, CPDecomposed, GauntGrid, SpeciesGroups
from equinet.ops.edges import Edges, Incoming
from equinet.ops.kernels.linear.cpu import Nodes
from equinet.potential import Potential

MakePotential = Callable[..., Potential]
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "envelope on weights": {"envelope_on": "weights"},
    "density": {"first_interaction": "density", "interaction": "density_residual"},
    "density, envelope on weights": {"interaction": "density", "envelope_on": "weights"},
    "gated": {"first_interaction": "gated", "interaction": "gated", "envelope_on": "weights"},
    "agnesi and zbl": {"distance_transform": "agnesi", "zbl": True},
    "soft": {"distance_transform": "soft", "envelope_on": "weights"},
    "biases": {"readout_biases": True, "readout_layers": "last", "exact_isolated_atoms": False},
    "pseudotensors": {"pseudotensors": True},
}
PRODUCTS: dict[str, dict[str, Any]] = {
    "cg": {"correlation": 3},
    "cg by torch": {"convolution": ClebschGordan("torch"), "many_body": ClebschGordan("torch")},
    "gaunt_grid": {"convolution": "gaunt_grid", "many_body": "gaunt_grid"},
    "gaunt_grid of many weights": {
        "convolution": GauntGrid(copies=2, weights="degrees"),
        "many_body": GauntGrid(copies=2),
    },
    "gaunt_fourier": {"convolution": "gaunt_fourier", "many_body": "gaunt_fourier"},
    "bracket": {"convolution": GauntGrid(bracket=True), "many_body": GauntGrid(bracket=True)},
    "matrix": {"convolution": "matrix", "many_body": "matrix"},
    "cp": {"convolution": CPDecomposed(rank=12), "many_body": CPDecomposed(rank=12, factors="trainable")},
    "so2": {"convolution": "so2"},
}


def lonely(symbols: str, *positions: list[float]) -> Atoms:
    return Atoms(symbols, positions)


@pytest.fixture
def structures(ethanol: Atoms, triclinic: Atoms, one_atom: Atoms) -> list[Atoms]:
    """Open, periodic, smaller than the cutoff; one atom, two atoms; other elements in the same places."""
    others = triclinic.copy()
    others.numbers = others.numbers[::-1].copy()
    two = lonely("CO", [0, 0, 0], [1.2, 0.1, 0])
    return [ethanol, triclinic, others, one_atom, lonely("C", [1, 2, 3]), two]


def assert_the_same(step: StaticStep, potential: Potential, atoms: Atoms) -> None:
    found = step(atoms, stress=True)
    expected = potential(from_atoms(atoms, potential.cutoff), stress=True)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape
        torch.testing.assert_close(found[name], value.double(), rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("form", FORMS)
def test_a_trajectory_through_static_steps_is_that_of_the_potential(
    make_potential: MakePotential, structures: list[Atoms], form: str
) -> None:
    potential, draw = make_potential(**FORMS[form]), np.random.default_rng(0)
    step = StaticStep(potential, skin=0.3)
    for atoms in structures:
        for n in range(6):
            atoms.positions += draw.normal(scale=0.06, size=atoms.positions.shape)
            if atoms.pbc.any() and n % 2:
                atoms.set_cell(atoms.cell[:] + draw.normal(scale=0.02, size=(3, 3)), scale_atoms=True)
            assert_the_same(step, potential, atoms)
    assert step.searches > len(structures)  # lists were made anew on the way


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_product_can_be_made_static(make_potential: MakePotential, triclinic: Atoms, product: str) -> None:
    potential = make_potential(**PRODUCTS[product])
    assert_the_same(StaticStep(potential, skin=1.0), potential, triclinic)


def test_tables_can_be_made_static(potential: Potential, triclinic: Atoms) -> None:
    potential = potential.tabulate(1e-4)
    assert_the_same(StaticStep(potential, skin=1.0), potential, triclinic)


def test_in_single_precision_it_errs_as_the_potential_does(potential: Potential, triclinic: Atoms) -> None:
    exact = potential(from_atoms(triclinic, potential.cutoff))["forces"]
    found = StaticStep(potential.float())(triclinic)["forces"]
    assert found.dtype == torch.float64
    assert 0 < (found - exact).abs().max() < 1e-4


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_an_edge_beyond_the_cutoff_adds_exactly_nothing(make_potential: MakePotential, form: str, table: bool) -> None:
    potential = make_potential(**FORMS[form])
    if table and potential.model.not_tabulable:
        pytest.skip("has no table")
    if table:
        potential = potential.tabulate(1e-4)
    species, lengths = torch.tensor([0, 1, 2]), torch.linspace(1, 3, 60, dtype=torch.float64) * potential.cutoff
    draw = torch.Generator().manual_seed(0)
    index = torch.randint(3, (2, 60), generator=draw)
    vectors = torch.nn.functional.normalize(torch.randn(60, 3, generator=draw, dtype=torch.float64), dim=1)
    vectors = (vectors * lengths[:, None]).requires_grad_()
    edges = Edges(index, 3, mirrored=not potential.model.directed)
    energy = potential.node_energies(vectors, species, edges)
    (gradients,) = torch.autograd.grad(energy.sum(), vectors)
    beyond = vectors.norm(dim=1) >= potential.cutoff  # the first may round to just below, where little is left
    assert beyond.sum() >= 59
    assert (gradients[beyond] == 0).all()
    alone = potential.node_energies(vectors[:0], species, Edges(index[:, :0], 3, mirrored=edges.mirrored))
    with torch.no_grad():
        far = potential.node_energies(vectors[beyond], species, Edges(index[:, beyond], 3, mirrored=edges.mirrored))
    assert torch.equal(far, alone)


def test_a_list_that_is_made_anew_is_seldom_recorded_anew(potential: Potential, triclinic: Atoms) -> None:
    step, draw = StaticStep(potential, skin=0.2), np.random.default_rng(1)
    big = triclinic * (2, 2, 1)
    for _ in range(10):
        big.positions += draw.normal(scale=0.08, size=big.positions.shape)
        step(big)
    assert step.searches > 6
    assert step.recordings <= 3


def test_slots_are_round_numbers_a_twentieth_apart() -> None:
    sizes = sorted({capacity_for(rows) for rows in range(5000)})
    assert sizes[0] == FEWEST
    assert all(capacity_for(rows) >= rows for rows in range(5000))
    assert all(a < b <= 1.05 * a + 1 for a, b in pairwise(sizes))


def test_slots_are_left_when_too_small_or_far_too_large(potential: Potential) -> None:
    slots = Slots(potential, np.array([1, 6]), 100)
    assert [slots.suits(rows) for rows in (101, 100, 80, 79, 0)] == [False, True, True, False, False]
    assert Slots(potential, np.array([1, 6]), FEWEST).suits(0)


def test_what_fills_a_list_up_is_shared_out_and_far_away(potential: Potential, triclinic: Atoms) -> None:
    step = StaticStep(potential)
    step(triclinic)
    slots = step._slots
    assert slots is not None
    real = len(step._candidates.sender)
    fill = slots.graph.edge_index[:, real:]
    assert fill.shape[1] == slots.rows - real > 0
    assert (fill[0] == fill[1]).all()
    counts = torch.bincount(fill[0], minlength=len(triclinic))
    assert counts.max() - counts.min() <= 1
    assert (slots.beyond[real:].norm(dim=1) == 2 * potential.cutoff).all()
    assert (slots.beyond[:real] == 0).all()


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"first_interaction": "gated", "interaction": "gated"}, "do not end at the cutoff"),
        ({"zbl": True, "cutoff": 1.4}, "ZBL repulsion .* reaches further"),
    ],
)
def test_a_model_that_reaches_beyond_its_cutoff_is_refused(
    make_potential: MakePotential, form: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        StaticStep(make_potential(**form))


def test_what_cannot_be_is_refused(potential: Potential) -> None:
    for skin in (-0.1, np.inf, np.nan):
        with pytest.raises(ValueError, match="`skin` must be 0 or more"):
            StaticStep(potential, skin)
    with pytest.raises(ValueError, match="there are no atoms"):
        StaticStep(potential)(Atoms())
    with pytest.raises(ValueError, match="does not know Si"):
        StaticStep(potential)(Atoms("Si"))
    with pytest.raises(ValueError, match="in training mode"):
        StaticStep(potential.train())


def test_after_a_refusal_the_next_structure_is_computed_as_ever(potential: Potential, ethanol: Atoms) -> None:
    step = StaticStep(potential)
    assert_the_same(step, potential, ethanol)
    spoiled = ethanol.copy()
    spoiled.positions[1] = spoiled.positions[0]
    spoiled.positions[2] += 3
    with pytest.raises(ValueError, match="on one spot"):
        step(spoiled)
    with pytest.raises(ValueError, match="does not know Si"):
        step(Atoms("Si9", ethanol.positions))
    assert_the_same(step, potential, ethanol)


def test_a_recording_is_made_after_warming_up_and_then_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Recording:
        def replay(self) -> None:
            said.append("replay")

    class Stream:
        def wait_stream(self, other: object) -> None:
            said.append("wait")

    @contextmanager
    def within(what: object, *, stream: object = None) -> Iterator[None]:
        said.append(type(what).__name__)
        yield
        said.append("end")

    for name, value in {
        "CUDAGraph": Recording,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": within,
        "graph": within,
        "device": within,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)

    def compute() -> Tensor:
        said.append("compute")
        return torch.ones(1)

    run = recorded(compute, torch.device("cuda:0"))
    warm_up = ["wait", "Stream", "compute", "compute", "compute", "end", "wait"]
    assert said == ["device", *warm_up, "Recording", "compute", "end", "end"]
    said.clear()
    assert run() is run()
    assert said == ["replay", "replay"]


class Watch(TorchDispatchMode):
    """Collects operations that have to do with the CPU: on a GPU they are copies, which cannot be recorded and are waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.seen.append(str(func))
        return out


class Elsewhere:
    """What a step needs as tensors without numbers on another device: to ask for a number, or to mix devices, raises.

    ``"meta"`` stands for a GPU where torch can differentiate on a GPU only if there is one.
    """

    def __init__(self, device: str) -> None:
        self.device, self.mode = device, FakeTensorMode(allow_non_fake_inputs=False)

    def __call__(self, tensor: Tensor) -> Tensor:
        with self.mode:
            return self.mode.from_tensor(tensor).detach().to(self.device)

    def potential(self, potential: Potential) -> Potential:
        for module in potential.modules():
            _ = getattr(module, "torch_form", None)  # made when it is first asked for, as in the steps before a capture
        moved = copy.deepcopy(potential)
        for module in moved.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    with self.mode:
                        module._parameters[name] = torch.nn.Parameter(self(weight), weight.requires_grad)
            for name, constant in module._buffers.items():
                if constant is not None:
                    module._buffers[name] = self(constant)
        return moved

    def groups(self, groups: SpeciesGroups) -> SpeciesGroups:
        moved = copy.copy(groups)
        moved.species, moved.order, moved._back = self(groups.species), self(groups.order), self(groups._back)
        moved.nodes = Nodes(moved.order, groups.nodes.spans)
        return moved


@pytest.mark.parametrize("form", [*FORMS, *PRODUCTS])
def test_training_asks_no_device_for_numbers_and_copies_none_there(
    make_potential: MakePotential, ethanol: Atoms, triclinic: Atoms, form: str
) -> None:
    potential = make_potential(**(FORMS | PRODUCTS)[form]).train()
    there = Elsewhere("meta")
    graph = collate([from_atoms(atoms, potential.cutoff) for atoms in (ethanol, triclinic)])
    groups = there.groups(potential.groups(graph.atomic_numbers))
    graph, potential = graph.apply(there), there.potential(potential)
    with there.mode, Watch() as watch:
        found = potential(graph, stress=True, groups=groups)
        value = found["energy"].sum() + found["forces"].square().sum() + found["stress"].square().sum()
        torch.autograd.grad(value, list(potential.parameters()), allow_unused=True)
    assert watch.seen == []
    assert {value.device.type for value in found.values()} == {"meta"}


@pytest.mark.parametrize("form", [*FORMS, *PRODUCTS, "table"])
def test_a_static_step_asks_no_device_for_numbers_and_copies_none_there(
    make_potential: MakePotential, triclinic: Atoms, form: str
) -> None:
    potential = make_potential(**(FORMS | PRODUCTS | {"table": {}})[form])
    if form == "table":
        potential = potential.tabulate(1e-4)
    step = StaticStep(potential)
    step(triclinic)
    slots, there = step._slots, Elsewhere("meta")
    assert slots is not None
    graph, groups = slots.graph.clone().apply(there), there.groups(slots.groups)
    incoming, beyond = Incoming(*map(there, slots.incoming)), there(slots.beyond)
    potential = there.potential(potential)
    with there.mode, Watch() as watch:
        found = static_step(potential, graph, groups, incoming, beyond)
    assert watch.seen == []
    assert (found.device.type, found.shape) == ("meta", (1 + 4 * len(triclinic) + 9,))


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a torch made for CUDA, but no GPU")
@pytest.mark.parametrize("form", [*FORMS, *PRODUCTS])
def test_energies_on_a_gpu_are_asked_for_no_numbers_either(
    make_potential: MakePotential, triclinic: Atoms, form: str
) -> None:
    # Without a GPU torch does not differentiate there, but what only a GPU runs is seen.
    potential, there = make_potential(**(FORMS | PRODUCTS)[form]), Elsewhere("cuda:0")
    graph = from_atoms(triclinic, potential.cutoff)
    groups = there.groups(potential.groups(graph.atomic_numbers))
    potential.requires_grad_(False)
    graph, potential = graph.apply(there), there.potential(potential)
    with there.mode, Watch() as watch, torch.no_grad():
        edges, vectors = potential.geometry(graph)
        found = potential.node_energies(vectors, groups, edges)
    assert watch.seen == []
    assert (found.device.type, found.shape) == ("cuda", (len(triclinic),))


def test_the_proof_would_notice_a_question_and_a_copy(potential: Potential, triclinic: Atoms) -> None:
    there = Elsewhere("meta")
    graph: AtomicGraph = from_atoms(triclinic, potential.cutoff).apply(there)
    moved = there.potential(potential)
    with there.mode, pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
        moved(graph)  # groups are made by reading sizes
    with there.mode, pytest.raises(AssertionError, match="convert all Tensors"):
        there(torch.ones(2)) * torch.tensor([1.0, -1.0], device="meta")
    with there.mode, pytest.raises(RuntimeError, match="device"):
        there(torch.ones(2)) * torch.ones(2)
    with there.mode, Watch() as watch:
        torch.ones(2).to("meta")
    assert watch.seen
