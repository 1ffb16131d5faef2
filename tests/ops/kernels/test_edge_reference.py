"""The edge convolution: fast form against the reference form, and both against e3nn path by path."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from e3nn import o3
from torch import Tensor, nn

from equinet.ops import ClebschGordan, TensorProductSpec, from_mul_ir, natural_irreps, to_mul_ir
from equinet.ops.edges import sum_on_nodes
from equinet.ops.kernels.edge.executor import GeneratedConvolution
from equinet.ops.kernels.edge.reference import EdgeMatrixConvolution, ReferenceConvolution

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
FORMS = [EdgeMatrixConvolution, ReferenceConvolution]

# name: features, harmonics, outputs. L1 != L2 != L3, missing degrees, odd numbers of channels, and unnatural parities.
SPECS = {
    "scalars": ("1x0e", "0e", "0e"),
    "first layer": ("4x0e", "0e+1o+2e+3o", "0e+1o+2e+3o"),
    "MACE": ("3x0e+3x1o", "0e+1o+2e+3o", "0e+1o+2e+3o"),
    "few outputs": ("5x0e+5x1o+5x2e", "0e+1o+2e", "0e+2e"),
    "high output": ("1x0e+1x1o", "0e+1o", "2e"),
    "missing degrees": ("3x1o+3x3o", "0e+2e", "1o+3o"),
    "cross product": ("3x1o", "1o", "1e"),
    "pseudo-tensors": ("3x0e+3x0o+3x1e+3x1o", "0e+1o+2e", "0o+1e+1o+2o"),
    "unsorted": ("2x2e+2x0e+2x1o", "1o+0e", "1o+0e+2e"),
}


def spec_of(name: str) -> TensorProductSpec:
    return TensorProductSpec(*SPECS[name])


def random_inputs(
    spec: TensorProductSpec, nodes: int, edges: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Inputs:
    """Features, harmonics (here just numbers), weights and edges; one pair of nodes has two edges, one node none."""
    torch.manual_seed(seed)
    features = torch.randn(nodes, spec.irreps_in1.dim // spec.channels, spec.channels, dtype=dtype)
    harmonics = torch.randn(edges, spec.irreps_in2.dim, dtype=dtype)
    weight = torch.randn(edges, len(spec.paths), spec.channels, dtype=dtype)
    edge_index = torch.randint(max(nodes - 1, 1), (2, edges))  # the last node has no edges where there are several
    if edges > 1:
        edge_index[:, 1] = edge_index[:, 0]
    return features, harmonics, weight, edge_index


def e3nn_oracle(
    spec: TensorProductSpec, features: Tensor, harmonics: Tensor, weight: Tensor, edge_index: Tensor
) -> Tensor:
    """One e3nn ``TensorProduct`` (mode uvu) per path; rows put where :class:`TensorProductSpec` wants them."""
    flat = to_mul_ir(features, spec.irreps_in1)
    result = features.new_zeros(len(features), spec.rows, spec.channels)
    for n, path in enumerate(spec.paths):
        product = o3.TensorProduct(
            spec.irreps_in1,
            spec.irreps_in2,
            [(spec.channels, path.out)],
            [(path.i1, path.i2, 0, "uvu", True)],
            irrep_normalization="component",
            path_normalization="none",
            internal_weights=False,
            shared_weights=False,
        ).to(features.dtype)
        messages = product(flat[edge_index[0]], harmonics, weight[:, n])
        messages = from_mul_ir(messages, o3.Irreps([(spec.channels, path.out)]))
        for edge, receiver in enumerate(edge_index[1].tolist()):
            result[receiver, spec.row_of(n)] += messages[edge]
    return result


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.usefixtures("double_default")
def test_the_convolution_is_that_of_e3nn(name: str, form: type[nn.Module]) -> None:
    spec = spec_of(name)
    inputs = random_inputs(spec, nodes=4, edges=7)
    torch.testing.assert_close(form(spec).double()(*inputs), e3nn_oracle(spec, *inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_the_fast_form_is_the_reference_one(name: str) -> None:
    spec = spec_of(name)
    inputs = random_inputs(spec, nodes=5, edges=12)
    fast, reference = EdgeMatrixConvolution(spec).double(), ReferenceConvolution(spec).double()
    assert fast.weight_numel == reference.weight_numel == len(spec.paths)
    torch.testing.assert_close(fast(*inputs), reference(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_first_and_second_derivatives_of_the_fast_form_are_the_reference_ones(name: str) -> None:
    spec = spec_of(name)
    *leaves, edge_index = random_inputs(spec, nodes=4, edges=9)

    def derivatives(module: nn.Module) -> list[Tensor]:
        torch.manual_seed(5)
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        out = module.double()(*inputs, edge_index)
        first = torch.autograd.grad(out, inputs, torch.randn_like(out), create_graph=True)
        mixed = sum((g * torch.randn_like(g)).sum() for g in first)
        return [*first, *torch.autograd.grad(mixed, inputs)]

    for ours, theirs in zip(derivatives(EdgeMatrixConvolution(spec)), derivatives(ReferenceConvolution(spec))):
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["cross product", "high output", "first layer"])
def test_derivatives_are_those_of_finite_differences(name: str, form: type[nn.Module]) -> None:
    spec = spec_of(name)
    *leaves, edge_index = random_inputs(spec, nodes=2, edges=2)
    module = form(spec).double()
    inputs = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(lambda *x: module(*x, edge_index), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: module(*x, edge_index), inputs)


@pytest.mark.parametrize("name", SPECS)
def test_in_single_precision_the_fast_form_errs_at_most_twice_as_much_as_the_reference_one(name: str) -> None:
    spec = spec_of(name)
    fast, reference = EdgeMatrixConvolution(spec), ReferenceConvolution(spec)
    exact_form = ReferenceConvolution(spec).double()
    squares = {"fast": 0.0, "reference": 0.0, "fast gradient": 0.0, "reference gradient": 0.0}
    for seed in range(5):
        *leaves, edge_index = random_inputs(spec, nodes=10, edges=60, dtype=torch.float32, seed=seed)

        def value_and_gradient(
            module: nn.Module, dtype: torch.dtype, leaves: list = leaves, edge_index: Tensor = edge_index
        ):
            inputs = [leaf.to(dtype).requires_grad_() for leaf in leaves]
            out = module(*inputs, edge_index)
            gradients = torch.autograd.grad(out.square().sum(), inputs)
            return out.detach().double(), torch.cat([gradient.double().flatten() for gradient in gradients])

        exact, exact_gradient = value_and_gradient(exact_form, torch.float64)
        for label, module in (("fast", fast), ("reference", reference)):
            out, gradient = value_and_gradient(module, torch.float32)
            squares[label] += (out - exact).square().sum().item()
            squares[f"{label} gradient"] += (gradient - exact_gradient).square().sum().item()
    assert squares["fast"] ** 0.5 <= 2 * squares["reference"] ** 0.5
    assert squares["fast gradient"] ** 0.5 <= 2 * squares["reference gradient"] ** 0.5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["MACE", "few outputs", "cross product", "pseudo-tensors"])
def test_the_result_turns_with_its_inputs(
    name: str,
    form: type[nn.Module],
    orthogonal: Tensor,
    representation: Callable[[o3.Irreps, Tensor], Tensor],
) -> None:
    spec = spec_of(name)
    features, harmonics, weight, edge_index = random_inputs(spec, nodes=4, edges=9)
    module = form(spec).double()
    turn1, turn2 = representation(spec.irreps_in1, orthogonal), representation(spec.irreps_in2, orthogonal)
    turned = module(torch.einsum("ab,nbc->nac", turn1, features), harmonics @ turn2.T, weight, edge_index)
    straight = module(features, harmonics, weight, edge_index)
    expected = torch.zeros_like(straight)
    for n, path in enumerate(spec.paths):
        turn = representation(str(path.out), orthogonal)
        expected[:, spec.row_of(n)] = torch.einsum("ab,nbc->nac", turn, straight[:, spec.row_of(n)])
    assert straight.abs().max() > 0.1
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_two_vectors_give_their_cross_product(form: type[nn.Module]) -> None:
    spec = TensorProductSpec("1x1o", "1o", "1e")
    a, b = torch.tensor([[1.0, 2.0, 3.0], [-2.0, 0.5, 4.0]], dtype=torch.float64)
    features = torch.stack([a, torch.zeros_like(a)]).unsqueeze(2)
    out = form(spec).double()(features, b[None], torch.full((1, 1, 1), 2.0).double(), torch.tensor([[0], [1]]))
    expected = 2 * torch.linalg.cross(a, b) / 2**0.5  # sqrt(3) C has Frobenius norm sqrt(3), the cross product sqrt(6)
    torch.testing.assert_close(out[1, :, 0], expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(out[0], torch.zeros_like(out[0]))


@pytest.mark.parametrize("form", FORMS)
def test_unit_inputs_give_unit_outputs_on_every_path(form: type[nn.Module]) -> None:
    spec = spec_of("MACE")
    nodes = 20000
    features, harmonics, weight, _ = random_inputs(spec, nodes, nodes, dtype=torch.float32)
    edge_index = torch.arange(nodes).repeat(2, 1)  # every node has one edge, from itself
    out = form(spec)(features, harmonics, weight, edge_index)
    sizes = torch.stack([out[:, spec.row_of(n)].square().mean() for n in range(len(spec.paths))])
    torch.testing.assert_close(sizes, torch.ones(len(spec.paths)), rtol=0.1, atol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("nodes", "edges"), [(3, 0), (1, 0), (1, 3), (0, 0)])
def test_few_nodes_and_no_edges_work(form: type[nn.Module], nodes: int, edges: int) -> None:
    spec = spec_of("MACE")
    *leaves, edge_index = random_inputs(spec, nodes, edges)
    inputs = [leaf.requires_grad_() for leaf in leaves]
    out = form(spec).double()(*inputs, edge_index)
    assert out.shape == (nodes, spec.rows, spec.channels)
    if edges == 0:
        assert torch.equal(out, torch.zeros_like(out))
    gradients = torch.autograd.grad(out.sum(), inputs, create_graph=True)
    assert [gradient.shape for gradient in gradients] == [leaf.shape for leaf in leaves]


@pytest.mark.parametrize("form", FORMS)
def test_a_node_receives_along_its_own_edges_only(form: type[nn.Module]) -> None:
    spec = spec_of("MACE")
    features, harmonics, weight, _ = random_inputs(spec, nodes=3, edges=1)
    out = form(spec).double()(features, harmonics, weight, torch.tensor([[2], [1]]))
    assert out[1].abs().min() > 0
    assert torch.equal(out[[0, 2]], torch.zeros_like(out[[0, 2]]))
    features[[0, 1]] += 1  # neither is the sender
    assert torch.equal(form(spec).double()(features, harmonics, weight, torch.tensor([[2], [1]])), out)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_precision_of_the_result_is_that_of_the_inputs(form: type[nn.Module], dtype: torch.dtype) -> None:
    spec = spec_of("few outputs")
    assert form(spec).to(dtype)(*random_inputs(spec, 3, 4, dtype)).dtype == dtype


def test_sums_on_nodes_are_sums_over_equal_indices() -> None:
    values = torch.arange(8.0).reshape(4, 2)
    assert sum_on_nodes(values, torch.tensor([2, 0, 2, 2]), 4).tolist() == [[2, 3], [0, 0], [10, 13], [0, 0]]


def test_a_method_names_its_executor_and_the_executor_its_spec() -> None:
    spec = spec_of("MACE")
    assert isinstance(ClebschGordan().convolution(spec), GeneratedConvolution)
    assert isinstance(ClebschGordan().convolution(spec).torch_form, EdgeMatrixConvolution)
    assert isinstance(ClebschGordan("torch").convolution(spec), EdgeMatrixConvolution)
    assert isinstance(ClebschGordan("reference").convolution(spec), ReferenceConvolution)
    assert str(spec) in repr(ClebschGordan().convolution(spec))
    assert str(spec) in repr(ClebschGordan("reference").convolution(spec))


def test_harmonics_of_another_degree_are_refused() -> None:
    spec = TensorProductSpec(natural_irreps(1, 2), natural_irreps(2), natural_irreps(2))
    features, _, weight, edge_index = random_inputs(spec, 2, 3)
    for form in FORMS:
        with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied|sum exactly to 16"):
            form(spec).double()(features, torch.randn(3, 16).double(), weight, edge_index)
