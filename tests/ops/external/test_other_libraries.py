"""Backends by other libraries: the same function of the same weights as the formulas, and a reason where they cannot run."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from ase import Atoms
from e3nn import o3
from torch import Tensor
from torch._subclasses import FakeTensorMode

import equinet.verify.installation
from equinet.bench.products.contenders import ours
from equinet.bench.products.problems import Problem
from equinet.checkpoint import load_potential, save_potential
from equinet.graph import collate, from_atoms
from equinet.ops import ClebschGordan, ManyBodySpec, SpeciesGroups, TensorProductSpec, from_mul_ir, to_mul_ir
from equinet.ops.edges import Edges
from equinet.ops.external import base as library_base
from equinet.ops.external import cuequivariance as by_cuequivariance
from equinet.ops.external import openequivariance as by_openequivariance
from equinet.ops.external.cuequivariance import CuEquivarianceConvolution, CuEquivarianceManyBody
from equinet.ops.external.openequivariance import OpenEquivarianceConvolution, sorted_pairs
from equinet.ops.kernels.node.executor import GeneratedManyBody
from equinet.potential import Potential
from equinet.tables import Text
from equinet.testing import TensorProductContract

ALLOWED = {torch.float64: 1e-12, torch.float32: 1e-5}
DTYPES = pytest.mark.parametrize("dtype", ALLOWED, ids=str)
DIRECTIONS = pytest.mark.parametrize("mirrored", [False, True], ids=["directed", "mirrored"])

CONVOLUTIONS = {
    "MACE": ("3x0e+3x1o", "0e+1o+2e+3o", "0e+1o+2e+3o"),
    "wide": ("32x0e+32x1o", "0e+1o", "0e+1o"),
    "first layer": ("1x0e", "0e+1o+2e", "0e+1o+2e"),
    "unsorted": ("2x2e+2x0e+2x1o", "1o+0e", "1o+0e+2e"),
    "both kinds": ("3x0e+3x0o+3x1e+3x1o", "0e+1o+2e", "0o+1e+1o+2o"),
}
MANY_BODY = {
    "MACE": ("3x0e+3x1o+3x2e", "3x0e+3x1o", 3),
    "wide": ("32x0e+32x1o", "32x0e+32x1o", 2),
    "one channel": ("1x0e+1x1o", "1x0e+1x1o", 1),
    "quadruples": ("2x0e+2x1o", "2x0e+2x1o+2x2e", 4),
    "no scalar": ("2x1o+2x2e", "2x1o+2x0e", 3),
    "both kinds": ("2x0e+2x0o+2x1e+2x1o", "2x0e+2x0o+2x1e+2x1o", 2),
}


def convolution_of(name: str) -> TensorProductSpec:
    return TensorProductSpec(*CONVOLUTIONS[name])


def many_body_of(name: str) -> ManyBodySpec:
    return ManyBodySpec(*MANY_BODY[name], species=3)


def derivatives(call: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """The value, its gradients, and gradients of these in all leaves, for directions that are always the same."""
    torch.manual_seed(1)
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    value = call(*leaves)
    gradients = torch.autograd.grad(value, leaves, torch.randn_like(value), create_graph=True)
    mixed = torch.stack([(gradient * torch.randn_like(gradient)).sum() for gradient in gradients]).sum()
    return [value, *gradients, *torch.autograd.grad(mixed, leaves, materialize_grads=True)]


def assert_same(found: list[Tensor], expected: list[Tensor], allowed: float) -> None:
    for ours_, theirs in zip(found, expected, strict=True):
        assert ours_.shape == theirs.shape
        assert ours_.dtype == theirs.dtype
        off = float((ours_ - theirs).detach().norm() / theirs.detach().norm().clamp(min=1e-30))
        assert off < allowed, off


def some_edges(nodes: int, rows: int, mirrored: bool) -> Edges:
    """Among them one from a node to itself, as there is in a small cell, and one pair of nodes that has two."""
    index = torch.randint(nodes, (2, rows), generator=torch.Generator().manual_seed(2))
    index[:, 1] = index[:, 0]
    index[:, 2] = 0
    return Edges(index, nodes, mirrored=mirrored)


def convolution_leaves(spec: TensorProductSpec, nodes: int, rows: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(nodes, spec.irreps_in1.dim // spec.channels, spec.channels, dtype=dtype),
        torch.randn(rows, spec.irreps_in2.dim, dtype=dtype),
        torch.randn(rows, len(spec.paths), spec.channels, dtype=dtype),
    ]


def strided(values: Tensor) -> Tensor:
    """The same numbers in another order in memory."""
    return values.movedim(0, -1).contiguous().movedim(-1, 0)


def compare_convolution(backend: Any, spec: TensorProductSpec, mirrored: bool, dtype: torch.dtype) -> None:
    edges, leaves = some_edges(6, 17, mirrored), convolution_leaves(spec, 6, 17, dtype)
    forms = [ClebschGordan(each).convolution(spec).to(dtype) for each in (backend, "reference")]  # type: ignore[attr-defined]
    assert_same(*(derivatives(lambda *given, form=form: form(*given, edges), leaves) for form in forms), ALLOWED[dtype])


def check_small_sizes(executor: Any) -> None:
    """No edges, no nodes, one node, one edge: the right shapes, and gradients that are there."""
    spec = executor.spec
    for nodes, rows in ((3, 0), (1, 0), (0, 0), (1, 1), (1, 3)):
        for mirrored in (False, True):
            edges = Edges(torch.zeros(2, rows, dtype=torch.int64), nodes, mirrored=mirrored)
            found = derivatives(
                lambda *x, e=edges: executor(*x, e), convolution_leaves(spec, nodes, rows, torch.float64)
            )
            expected = derivatives(
                lambda *x, e=edges: ClebschGordan("reference").convolution(spec).double()(*x, e),
                convolution_leaves(spec, nodes, rows, torch.float64),
            )
            assert found[0].shape == (nodes, spec.rows, spec.channels)
            assert_same(found, expected, 1e-12)


def energies_forces_and_gradients(potential: Potential, *structures: Atoms) -> list[Tensor]:
    """As training sees them: the loss has forces in it, so its gradients are second derivatives."""
    potential.train()
    out = potential(collate([from_atoms(atoms, potential.cutoff) for atoms in structures]), stress=True)
    loss = out["energy"].square().mean() + out["forces"].square().sum()
    weights = [p for p in potential.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
    return [out["energy"].detach(), out["forces"].detach(), *gradients]


# cuequivariance


@pytest.fixture
def cuequivariance() -> None:
    pytest.importorskip("cuequivariance_torch", reason="cuequivariance is not installed")


@pytest.mark.usefixtures("cuequivariance")
class TestCuEquivariance:
    @DTYPES
    @DIRECTIONS
    @pytest.mark.parametrize("name", CONVOLUTIONS)
    def test_convolution_and_two_derivatives_are_those_of_the_formulas(
        self, name: str, mirrored: bool, dtype: torch.dtype
    ) -> None:
        compare_convolution("cuequivariance", convolution_of(name), mirrored, dtype)

    @DTYPES
    @pytest.mark.parametrize("name", MANY_BODY)
    def test_many_body_product_and_two_derivatives_are_those_of_the_formulas(
        self, name: str, dtype: torch.dtype
    ) -> None:
        spec = many_body_of(name)
        forms = [ClebschGordan(each).many_body(spec).to(dtype) for each in ("cuequivariance", "reference")]  # type: ignore[attr-defined]
        torch.manual_seed(0)
        groups = SpeciesGroups(torch.tensor([2, 0, 2, 2, 0]))  # in no order, one species missing
        leaves = [
            torch.randn(5, spec.irreps_in.dim // spec.channels, spec.channels, dtype=dtype),
            torch.randn(3, forms[1].weight_numel, spec.channels, dtype=dtype),
        ]
        assert forms[0].initial_weight().shape == leaves[1].shape
        assert_same(
            *(derivatives(lambda *given, form=form: form(*given, groups), leaves) for form in forms), ALLOWED[dtype]
        )

    @pytest.mark.parametrize("spec", [convolution_of("both kinds"), many_body_of("no scalar")], ids=str)
    def test_the_contract_is_kept(self, spec: Any) -> None:
        TensorProductContract(ClebschGordan("cuequivariance"), spec).check()

    def test_nothing_goes_wrong_without_edges_or_with_one_node(self) -> None:
        check_small_sizes(ClebschGordan("cuequivariance").convolution(convolution_of("MACE")))

    @pytest.mark.parametrize("nodes", [0, 1])
    def test_nothing_goes_wrong_without_nodes_or_with_one(self, nodes: int) -> None:
        spec = many_body_of("MACE")
        product = ClebschGordan("cuequivariance").many_body(spec)
        leaves = [torch.randn(nodes, 9, 3), torch.randn(3, product.weight_numel, 3)]
        value, *gradients = derivatives(
            lambda *x: product(*x, SpeciesGroups(torch.zeros(nodes, dtype=torch.int64))), leaves
        )
        assert value.shape == (nodes, 4, 3)
        assert [gradient.shape for gradient in gradients] == 2 * [leaf.shape for leaf in leaves]

    def test_a_species_without_weights_is_refused(self) -> None:
        product = ClebschGordan("cuequivariance").many_body(many_body_of("one channel"))
        with pytest.raises(IndexError, match="a node has species 3, but there are weights for 3"):
            product(torch.zeros(1, 4, 1), torch.zeros(3, product.weight_numel, 1), SpeciesGroups(torch.tensor([3])))

    @pytest.mark.parametrize(
        "overrides", [{"correlation": 3, "channels": 3}, {"max_l": 2, "pseudotensors": True}], ids=str
    )
    def test_a_potential_trains_the_same(
        self, overrides: dict[str, Any], make_potential: Callable[..., Potential], ethanol: Atoms, triclinic: Atoms
    ) -> None:
        method = ClebschGordan("cuequivariance")
        default = make_potential(**overrides)
        other = make_potential(**overrides, seed=1, convolution=method, many_body=method)
        other.load_state_dict(default.state_dict())
        assert "CuEquivarianceConvolution" in repr(other)
        assert "CuEquivarianceManyBody" in repr(other)
        found = energies_forces_and_gradients(other, ethanol, triclinic)
        assert float(found[1].abs().max()) > 0.05
        assert_same(found, energies_forces_and_gradients(default, ethanol, triclinic), 1e-10)

    def test_a_saved_model_does_not_name_the_library(
        self, make_potential: Callable[..., Potential], ethanol: Atoms, tmp_path: Path
    ) -> None:
        method = ClebschGordan("cuequivariance")
        potential = make_potential(convolution=method, many_body=method)
        save_potential(potential, tmp_path / "model.eqn")
        loaded = load_potential(tmp_path / "model.eqn")
        assert loaded.model.config.convolution == loaded.model.config.many_body == ClebschGordan()
        graph = from_atoms(ethanol, potential.cutoff)
        torch.testing.assert_close(loaded(graph)["forces"], potential(graph)["forces"], rtol=0, atol=1e-10)

    def test_the_method_without_kernels_is_taken_on_the_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(by_cuequivariance, "_made", made := {})
        executor = ClebschGordan("cuequivariance").convolution(spec := convolution_of("first layer"))
        leaves, edges = convolution_leaves(spec, 6, 17, torch.float64), some_edges(6, 17, False)
        executor(*leaves, edges)
        executor(*leaves, edges)
        assert [(key[1:], module.method) for key, module in made.items()] == [(("naive", torch.float64), "naive")]

    @pytest.mark.parametrize(
        ("installed", "why"),
        [
            (False, "cannot run on cpu: cuequivariance_ops_torch is not installed: pip install -e '.\\[cuda\\]'"),
            (
                True,
                "cuequivariance_ops_torch is installed but cannot be loaded; import cuequivariance_ops_torch says why",
            ),
        ],
    )
    def test_a_gpu_without_kernels_is_no_slower_form_but_an_error(
        self, installed: bool, why: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if importlib.util.find_spec(by_cuequivariance.KERNELS):
            pytest.skip("NVIDIA's kernels are installed")
        monkeypatch.setattr(by_cuequivariance, "_made", {})
        monkeypatch.setattr(by_cuequivariance, "METHODS", {"cpu": "uniform_1d"})  # the CPU plays the GPU
        if installed:
            monkeypatch.setattr(by_cuequivariance, "kernels_unavailable", lambda: None)
        spec = convolution_of("first layer")
        with pytest.raises(ValueError, match=why):
            ClebschGordan("cuequivariance").convolution(spec)(
                *convolution_leaves(spec, 6, 17, torch.float64), some_edges(6, 17, False)
            )

    def test_another_device_is_refused(self) -> None:
        spec, many = convolution_of("first layer"), many_body_of("one channel")
        with pytest.raises(ValueError, match="cuequivariance runs on cuda and cpu, but the features are on meta"):
            CuEquivarianceConvolution(spec)(
                *(leaf.to("meta") for leaf in convolution_leaves(spec, 6, 17, torch.float32)), some_edges(6, 17, False)
            )
        with pytest.raises(ValueError, match="cuequivariance runs on cuda and cpu, but the features are on meta"):
            CuEquivarianceManyBody(many)(
                torch.zeros(1, 4, 1, device="meta"), torch.zeros(3, 2, 1), SpeciesGroups(torch.tensor([0]))
            )

    def test_a_graph_is_not_written_down_with_the_form_for_the_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(by_cuequivariance, "_made", made := {})
        product = ClebschGordan("cuequivariance").many_body(many_body_of("one channel"))
        features, weight, groups = torch.zeros(1, 4, 1), torch.zeros(3, 2, 1), SpeciesGroups(torch.tensor([0]))
        with (
            FakeTensorMode(allow_non_fake_inputs=True) as mode,
            pytest.raises(RuntimeError, match="holds tensors of its own"),
        ):
            product(mode.from_tensor(features), weight, groups)
        assert not made
        assert product(features, weight, groups).shape == (1, 4, 1)

    def test_what_the_kernels_are_given_is_what_they_take(self, uniform_1d: list[str]) -> None:
        for name in CONVOLUTIONS:
            for mirrored in (False, True):
                compare_convolution("cuequivariance", convolution_of(name), mirrored, torch.float64)
        check_small_sizes(ClebschGordan("cuequivariance").convolution(convolution_of("MACE")))
        leaves, edges = (
            convolution_leaves(spec := convolution_of("MACE"), 6, 17, torch.float64),
            some_edges(6, 17, False),
        )
        executor = ClebschGordan("cuequivariance").convolution(spec)
        for index in (edges.index, strided(edges.index)):
            assert torch.equal(executor(*map(strided, leaves), index), executor(*leaves, edges))
        for name in ("MACE", "quadruples"):
            TensorProductContract(ClebschGordan("cuequivariance"), many_body_of(name)).check_values()
        assert set(uniform_1d) == {"segmented_polynomial"}


@pytest.fixture
def uniform_1d(monkeypatch: pytest.MonkeyPatch, cuequivariance: None) -> list[str]:
    """NVIDIA's operator by its description, in torch, on a CPU that plays the GPU; gives the names of the calls."""
    primitives = "cuequivariance_torch.primitives.segmented_polynomial"
    inner = pytest.importorskip(f"{primitives}_uniform_1d", reason="the operator is elsewhere in this version")
    if not hasattr(inner, "uniform_1d"):
        pytest.skip("the operator has another name in this version")
    auto, shared, batched, indexed = -2, -1, 0, 1
    constants = {"AUTO": auto, "SHARED": shared, "BATCHED": batched, "INDEXED": indexed}
    for name, value in constants.items():
        monkeypatch.setattr(inner, f"BATCH_DIM_{name}", value, raising=False)
    calls: list[str] = []

    def operator(
        name, math_dtype, extent, n_in, n_out, n_index, dims, segments, batch_dim, index_buffer, dtypes, n_operations,
        n_operands, operations, n_paths, indices_start, coefficients_start, path_indices, coefficients, batch_size, tensors,
    ):  # fmt: skip
        calls.append(name)
        assert all(tensor.is_contiguous() for tensor in tensors)
        inputs, indices = tensors[:n_in], tensors[n_in:]
        assert all(t.dtype == math_dtype for t in inputs)
        assert len(indices) == n_index
        sizes = index_buffer[n_in + n_out :]
        operands = []
        for b, tensor in enumerate(inputs):
            if batch_dim[b] == indexed:
                assert sizes[index_buffer[b]] == len(tensor)
                tensor = tensor[indices[index_buffer[b]]]
            operands.append(tensor.unflatten(1, (segments[b], extent if dims[b] else 1)))
        rows = max(len(o) for o in operands)
        assert n_out == 1
        result = [operands[0].new_zeros(rows, extent if dims[-1] else 1) for _ in range(segments[-1])]
        at = 0
        for o in range(n_operations):
            buffers = operations[at : at + n_operands[o]]
            at += n_operands[o]
            for p in range(n_paths[o]):
                start = indices_start[o] + p * n_operands[o]
                term = coefficients[coefficients_start[o] + p]
                for buffer, segment in zip(buffers[:-1], path_indices[start : start + n_operands[o] - 1]):
                    term = term * operands[buffer][:, segment]
                out = path_indices[start + n_operands[o] - 1]
                result[out] = result[out] + term
        value = torch.stack(result, dim=1).flatten(1)
        if batch_dim[n_in] == indexed:
            value = value.new_zeros(sizes[index_buffer[n_in]], value.shape[1]).index_add(
                0, indices[index_buffer[n_in]], value
            )
        return [value]

    monkeypatch.setattr(inner, "uniform_1d", operator)
    monkeypatch.setattr(f"{primitives}.HAS_CUE_OPS", True)
    monkeypatch.setattr(by_cuequivariance, "METHODS", {"cpu": "uniform_1d"})
    monkeypatch.setattr(by_cuequivariance, "kernels_unavailable", lambda: None)
    monkeypatch.setattr(by_cuequivariance, "_made", {})
    return calls


# openequivariance


class FakeProblem:
    """``TPProblem`` as its documentation has it, of which only what it is given matters."""

    def __init__(
        self, irreps_in1: str, irreps_in2: str, irreps_out: str, instructions: list[Any], **given: Any
    ) -> None:
        self.irreps = [o3.Irreps(each) for each in (irreps_in1, irreps_in2, irreps_out)]
        assert not given["internal_weights"]
        self.layout, self.dtype = given.pop("layout"), given.pop("irrep_dtype")
        assert given.pop("weight_dtype") is self.dtype
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # couplings are rounded to it
        self.product = o3.TensorProduct(*self.irreps, instructions, **given)
        torch.set_default_dtype(before)


class FakeConvolution:
    """``TensorProductConv`` by e3nn's product; the deterministic form reads memory as the kernels of release 0.7.0 do."""

    made: ClassVar[list[bool]] = []

    def __init__(self, problem: FakeProblem, *, deterministic: bool = False) -> None:
        self.problem, self.deterministic = problem, deterministic
        self.product = problem.product.to(torch.float64 if problem.dtype.__name__ == "float64" else torch.float32)
        FakeConvolution.made.append(deterministic)

    def __call__(
        self, x: Tensor, y: Tensor, w: Tensor, rows: Tensor, cols: Tensor, sender_perm: Tensor | None = None
    ) -> Tensor:
        irreps1, irreps2, outputs = self.problem.irreps
        count = len(rows)
        assert x.shape[1:] == (irreps1.dim,)
        assert y.shape == (count, irreps2.dim)
        assert w.shape == (count, self.product.weight_numel)
        for tensor in (x, y, w, rows, cols):
            assert tensor.is_contiguous()
        assert {t.dtype for t in (x, y, w)} == {next(self.product.buffers()).dtype}
        assert rows.dtype == cols.dtype == torch.int64
        if self.problem.layout == "ir_mul":
            x = to_mul_ir(x.unflatten(1, (-1, irreps1[0].mul)), irreps1)
        value = self.summed(x, y, w, rows, cols)
        if self.deterministic:
            assert sender_perm is not None
            keys = rows * len(x) + cols
            assert bool((keys[1:] >= keys[:-1]).all()), "row-major sorted along with cols"
            assert torch.equal(sender_perm.sort().values, torch.arange(count))
            # For gradients of x the i-th edge is read as one from rows[i] to cols[i], with y and w of number sender_perm[i].
            turned = self.summed(x, y[sender_perm], w[sender_perm], cols, rows)
            torch.testing.assert_close(turned, value)
            value = turned
        else:
            assert sender_perm is None
        return from_mul_ir(value, outputs).flatten(1) if self.problem.layout == "ir_mul" else value

    def summed(self, x: Tensor, y: Tensor, w: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        messages = self.product(x[cols], y, w)
        return messages.new_zeros(len(x), messages.shape[1]).index_add(0, rows, messages)


@pytest.fixture
def openequivariance(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A library of that name, and a CPU that plays the GPU."""
    module = ModuleType("openequivariance")
    module.__spec__ = ModuleSpec("openequivariance", None)
    module.TPProblem, module.TensorProductConv = FakeProblem, FakeConvolution  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openequivariance", module)
    monkeypatch.setattr(OpenEquivarianceConvolution, "devices", ("cuda", "cpu"))
    monkeypatch.setattr(FakeConvolution, "made", [])
    by_openequivariance.kernel.cache_clear()
    yield module
    by_openequivariance.kernel.cache_clear()


@DTYPES
@DIRECTIONS
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_openequivariance_is_given_the_product_in_its_own_words(
    name: str, mirrored: bool, dtype: torch.dtype, openequivariance: ModuleType
) -> None:
    compare_convolution("openequivariance", convolution_of(name), mirrored, dtype)
    assert FakeConvolution.made == [mirrored]  # once, and deterministic where every edge has its reverse


def test_openequivariance_keeps_the_contract(openequivariance: ModuleType) -> None:
    TensorProductContract(ClebschGordan("openequivariance"), convolution_of("MACE")).check()


def test_openequivariance_is_not_asked_without_edges(openequivariance: ModuleType) -> None:
    check_small_sizes(ClebschGordan("openequivariance").convolution(convolution_of("MACE")))


def test_strided_inputs_come_to_openequivariance_in_order(openequivariance: ModuleType) -> None:
    spec = convolution_of("MACE")
    leaves = convolution_leaves(spec, 6, 17, torch.float64)
    executor = ClebschGordan("openequivariance").convolution(spec)
    for mirrored in (False, True):
        edges = some_edges(6, 17, mirrored)
        assert torch.equal(executor(*map(strided, leaves), edges), executor(*leaves, edges))


def test_sorted_pairs_are_sorted_and_know_their_reverses() -> None:
    edges = some_edges(6, 40, True)
    order, reverse = sorted_pairs(edges)
    sender, receiver = edges.directed[:, order]
    assert torch.equal(sender[reverse], receiver)
    assert torch.equal(receiver[reverse], sender)
    assert torch.equal(order[reverse] % 40, order % 40)  # the reverse of the same row, also where a pair has several
    assert torch.equal(reverse[reverse], torch.arange(80))


def test_a_potential_trains_the_same_with_openequivariance(
    make_potential: Callable[..., Potential], ethanol: Atoms, triclinic: Atoms, openequivariance: ModuleType
) -> None:
    method = ClebschGordan("openequivariance")
    default, other = make_potential(), make_potential(seed=1, convolution=method, many_body=method)
    other.load_state_dict(default.state_dict())
    found = energies_forces_and_gradients(copy.deepcopy(other), ethanol, triclinic)
    assert_same(found, energies_forces_and_gradients(default, ethanol, triclinic), 1e-10)
    assert "OpenEquivarianceConvolution" in repr(other)


def test_the_many_body_product_of_openequivariance_is_that_of_auto(openequivariance: ModuleType) -> None:
    spec = many_body_of("one channel")
    product = ClebschGordan("openequivariance").many_body(spec)
    assert type(product) is type(ClebschGordan().many_body(spec)) is GeneratedManyBody


def test_openequivariance_says_what_runs_on_the_cpu(
    openequivariance: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenEquivarianceConvolution, "devices", ("cuda",))
    executor = ClebschGordan("openequivariance").convolution(spec := convolution_of("MACE"))
    with pytest.raises(ValueError, match=r'runs on cuda, but .* are on cpu; there take ClebschGordan\(\), .* "auto"'):
        executor(*convolution_leaves(spec, 6, 17, torch.float32), some_edges(6, 17, True))


# What is not there


@pytest.fixture
def nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither library is installed."""
    monkeypatch.setattr(library_base, "find_spec", lambda name: None)


@pytest.mark.usefixtures("nothing_else")
@pytest.mark.parametrize(
    ("backend", "why"),
    [
        (
            "cuequivariance",
            '`backend` "cuequivariance" cannot run here: cuequivariance_torch is not installed: '
            r"pip install -e '.\[cuequivariance\]' in the folder of equinet's checkout, or take \"auto\"",
        ),
        (
            "openequivariance",
            '`backend` "openequivariance" cannot run here: openequivariance is not installed: '
            r"pip install -e '.\[openequivariance\]' in the folder of equinet's checkout, or take \"auto\"",
        ),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_remedy(backend: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ClebschGordan(backend)


@pytest.mark.usefixtures("nothing_else")
def test_an_executor_without_its_library_is_refused_too() -> None:
    spec = convolution_of("MACE")
    with pytest.raises(ValueError, match="cuequivariance_torch is not installed: pip install"):
        CuEquivarianceConvolution(spec)
    with pytest.raises(ValueError, match="cuequivariance_torch is not installed: pip install"):
        CuEquivarianceManyBody(many_body_of("MACE"))
    with pytest.raises(ValueError, match="openequivariance is not installed: pip install"):
        OpenEquivarianceConvolution(spec)


def test_a_library_that_is_broken_says_why(openequivariance: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise AssertionError("Only CUDA and HIP backends are supported")  # what it raises beside a torch without CUDA

    monkeypatch.setattr(library_base, "import_module", broken)
    with pytest.raises(ValueError, match="openequivariance cannot be imported: AssertionError: Only CUDA and HIP"):
        ClebschGordan("openequivariance").convolution(convolution_of("MACE"))


def test_a_backend_that_does_not_exist_is_told_of_these() -> None:
    with pytest.raises(
        ValueError, match="got 'cuda'; by other libraries there are cuequivariance and openequivariance"
    ):
        ClebschGordan("cuda")  # type: ignore[arg-type]


def test_auto_takes_neither(openequivariance: ModuleType) -> None:
    for executor in (
        ClebschGordan().convolution(convolution_of("MACE")),
        ClebschGordan().many_body(many_body_of("MACE")),
    ):
        assert type(executor).__module__ not in (by_cuequivariance.__name__, by_openequivariance.__name__)


# Where users see them


def absences(problem: Problem) -> dict[str, str | None]:
    return {each.name: each.absent for each in ours(problem, [ClebschGordan()], reference=False)}


CONV = Problem("conv", "conv", convolution_of("MACE"), 6, 4)
PRODUCT = Problem("product", "product", many_body_of("MACE"), 8, 0)


@pytest.mark.usefixtures("nothing_else")
def test_the_benchmark_lists_a_backend_that_is_missing_with_the_reason() -> None:
    found = absences(CONV)
    assert found["ours: cg, torch"] is None
    assert "pip install -e '.[cuequivariance]'" in str(found["ours: cg, cuequivariance"])
    assert "pip install -e '.[openequivariance]'" in str(found["ours: cg, openequivariance"])
    contender = next(each for each in ours(CONV, [ClebschGordan()], reference=False) if "openequiv" in each.name)
    with pytest.raises(ValueError, match="openequivariance is not installed"):
        contender.build(CONV.spec, torch.float32, torch.device("cpu"))


def test_the_benchmark_does_not_measure_auto_under_another_name(
    openequivariance: ModuleType, cuequivariance: None
) -> None:
    assert absences(CONV)["ours: cg, openequivariance"] is None
    assert "no such product of its own" in str(absences(PRODUCT)["ours: cg, openequivariance"])
    assert absences(PRODUCT)["ours: cg, cuequivariance"] is None


def test_doctor_compares_every_backend_that_runs_here(cuequivariance: None) -> None:
    every = [row for row in equinet.verify.installation.self_test() if row.device == "cpu"]
    rows = [row for row in every if row.backend not in ("auto", "openequivariance")]
    assert {row.backend for row in rows} == {"generated", "torch", "cuequivariance"}
    assert len(rows) == 3 * 2 * 2
    for row in rows:
        assert row.error < (1e-5 if row.dtype == "float32" else 1e-12)


@pytest.mark.usefixtures("nothing_else")
def test_doctor_does_without_libraries_that_are_missing() -> None:
    assert {row.backend for row in equinet.verify.installation.self_test()} == {"auto", "generated", "torch"}


def test_doctor_does_without_a_library_that_has_no_form_for_the_cpu(
    openequivariance: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenEquivarianceConvolution, "devices", ("cuda",))
    rows = [row for row in equinet.verify.installation.self_test() if row.device == "cpu"]
    assert [row.product for row in rows if row.backend == "openequivariance"] == 2 * ["cg many-body"]


def test_doctor_hides_no_error_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(value: Tensor, oracle: Tensor) -> float:
        raise ValueError("ours")

    monkeypatch.setattr(equinet.verify.installation, "_error", fail)
    with pytest.raises(ValueError, match="ours"):
        equinet.verify.installation.self_test()


def test_doctor_tells_that_a_library_came_without_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("openequivariance")
    module.BUILT_EXTENSION, module.BUILT_EXTENSION_ERROR = False, "no compiler [g++]"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openequivariance", module)
    _, _, state = equinet.verify.installation._optional("numpy", "openequivariance", "kernels", "pip install it")
    assert state == (Text("cannot run", "bad"), ": no compiler [g++]")


def test_doctor_names_the_package_to_install() -> None:
    _, purpose, remedy = equinet.verify.installation.OPTIONAL["openequivariance"]
    assert 'ClebschGordan("openequivariance")' in purpose
    state = equinet.verify.installation._optional("no-such-package", "no_such_package", purpose, remedy)[2]
    assert state == (
        Text("not installed", "warning"),
        ": pip install -e '.[openequivariance]' in the folder of equinet's checkout",
    )
