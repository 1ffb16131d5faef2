"""The many-body product on a GPU: against the formula in torch, in every derivative, and as torch operators."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from assembling import assemble, emulated, tiles_as_on_a_gpu
from torch import Tensor, library

from equinet.ops import ManyBodySpec, SpeciesGroups, natural_irreps
from equinet.ops.kernels.node import executor as node_executor
from equinet.ops.kernels.node import gpu as node_gpu
from equinet.ops.kernels.node import gpu_sums as node_gpu_sums
from equinet.ops.kernels.node import operator as node_operator
from equinet.ops.kernels.node.executor import GeneratedManyBody
from equinet.ops.kernels.node.reference import HornerManyBody

pytest.importorskip("triton", reason="kernels for GPUs are written in Triton: pip install triton")

WIDE = ManyBodySpec("40x0e+40x1o", "40x0e+40x1o", 3, 3)
CUBIC = ManyBodySpec("3x0e+3x1o+3x2e", "3x0e+3x1o", 3, 1)
QUARTIC = ManyBodySpec("3x0e+3x1o", "3x0e+3x1o+3x2e", 4, 2)
BOTH_PARITIES = ManyBodySpec("32x0e+32x1o+32x1e", "32x0e+32x1o", 2, 1)
LINEAR = ManyBodySpec("1x0e+1x1o", "1x0e+1x1o", 1, 2)
SMALL = ManyBodySpec("2x0e+2x1o", "2x0e+2x1o", 3, 2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def arguments(
    spec: ManyBodySpec, nodes: int, dtype: torch.dtype = torch.float64
) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor, str]]:
    """The a, g, x and K that the four functions are given, and the rest; of several species the last but one has no nodes."""
    p = node_operator.polynomials_of(node_operator.name_of(spec))
    rows = ((nodes, p.variables), (nodes, p.outputs), (nodes, p.variables), (spec.species, len(p.terms)))
    numbers = tuple(torch.randn(*each, spec.channels, dtype=dtype) for each in rows)
    there = torch.tensor([z for z in range(spec.species) if z != spec.species - 2 or spec.species == 1])
    species = there[torch.randint(len(there), (nodes,))]
    return numbers, (SpeciesGroups(species).order, species, node_operator.name_of(spec))


def by_formula(numbers: tuple[Tensor, ...], species: Tensor, product: str) -> dict[str, list[Tensor]]:
    """The four functions by torch alone."""
    a, g, x, K = (each.detach().double().requires_grad_() for each in numbers)
    value = node_operator.value_in_torch(x, K, species, product)
    gradient, weight_gradient = torch.autograd.grad(
        (g * value).sum(), (x, K), create_graph=True, materialize_grads=True
    )
    double_backward = torch.autograd.grad(
        (a * gradient).sum() + 0 * a.sum() * g.sum(), (g, x, K), materialize_grads=True
    )
    found = {
        "value": [value],
        "gradient": [gradient],
        "weight_gradient": [weight_gradient],
        "double_backward": double_backward,
    }
    return {function: [each.detach() for each in results] for function, results in found.items()}


def on_device(
    numbers: tuple[Tensor, ...], rest: tuple[Tensor, Tensor, str], device: torch.device
) -> dict[str, list[Tensor]]:
    """The four functions by the operators, on the CPU again."""
    a, g, x, K = (each.to(device) for each in numbers)
    nodes = (rest[0].to(device), rest[1].to(device), rest[2])
    found = {
        "value": [node_operator.value(x, K, *nodes)],
        "gradient": [node_operator.gradient(g, x, K, *nodes)],
        "weight_gradient": [node_operator.weight_gradient(g, x, K, *nodes)],
        "double_backward": node_operator.double_backward(a, g, x, K, *nodes),
    }
    return {function: [each.cpu() for each in results] for function, results in found.items()}


def derivatives(run, leaves: list[Tensor], order: int) -> list[Tensor]:
    """The result, and the gradients of a combination of gradients of ... of it."""
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    out = run(*inputs)
    found, value = [out], (out * weights_like(out)).sum() + out.square().sum()
    for _ in range(order):
        gradients = torch.autograd.grad(value, inputs, create_graph=True, materialize_grads=True)
        found += gradients
        value = torch.stack([(gradient * weights_like(gradient)).sum() for gradient in gradients]).sum()
    return found


def weights_like(values: Tensor) -> Tensor:
    """Numbers between -1 and 1 that are the same on every device."""
    return torch.linspace(-9, 7, values.numel(), dtype=torch.float64).cos().to(values).view(values.shape)


@pytest.mark.parametrize(
    ("spec", "nodes"),
    [(WIDE, 70), (WIDE, 1), (CUBIC, 5), (QUARTIC, 5), (BOTH_PARITIES, 5), (LINEAR, 150), (SMALL, 0)],
    ids=str,
)
def test_the_four_functions_are_those_of_the_formula(spec: ManyBodySpec, nodes: int, gpu: torch.device) -> None:
    numbers, rest = arguments(spec, nodes)
    expected = by_formula(numbers, *rest[1:])
    for function, found in on_device(numbers, rest, gpu).items():
        for ours, theirs in zip(found, expected[function], strict=True):
            scale = 1 + float(theirs.abs().amax()) if theirs.numel() else 1.0
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.parametrize(("shortest", "most"), [(1, 1000), (2, 3), (64, 1)])
def test_sums_over_nodes_do_not_depend_on_where_pieces_begin(
    shortest: int, most: int, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_gpu_sums, "SHORTEST_PIECE", shortest)
    monkeypatch.setattr(node_gpu_sums, "MOST_PIECES", most)
    (_, g, x, K), rest = arguments(ManyBodySpec("2x0e", "2x0e", 2, 5), 45)
    torch.use_deterministic_algorithms(True)  # then what is not written is not a number
    try:
        found = node_operator.weight_gradient(*(each.to(gpu) for each in (g, x, K, *rest[:2])), rest[2]).cpu()
    finally:
        torch.use_deterministic_algorithms(False)
    expected = by_formula((torch.zeros_like(x), g, x, K), *rest[1:])["weight_gradient"][0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", [QUARTIC, SMALL], ids=str)
def test_single_precision_is_as_good_as_its_digits(spec: ManyBodySpec, gpu: torch.device) -> None:
    numbers, rest = arguments(spec, 40, torch.float32)
    expected = by_formula(numbers, *rest[1:])
    for function, found in on_device(numbers, rest, gpu).items():
        for ours, theirs in zip(found, expected[function], strict=True):
            assert ours.dtype == torch.float32
            assert float((ours - theirs).norm()) < 3e-7 * float(theirs.norm()), function


def test_kernels_give_what_machine_code_gives(gpu: torch.device) -> None:
    numbers, rest = arguments(QUARTIC, 9)
    a, g, x, K = numbers
    results = [torch.empty_like(each) for each in (g, x, K)]
    node_operator._run_machine_code("double_backward", (a, g, x, K), *rest, tuple(results))
    for ours, theirs in zip(on_device(numbers, rest, gpu)["double_backward"], results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("spec", "nodes", "order"), [(SMALL, 5, 3), (BOTH_PARITIES, 3, 2)], ids=str)
def test_values_and_derivatives_are_those_of_the_form_in_torch(
    spec: ManyBodySpec, nodes: int, order: int, gpu: torch.device
) -> None:
    form = HornerManyBody(spec).double()
    leaves = [
        torch.randn(nodes, spec.irreps_in.dim // spec.channels, spec.channels).double(),
        form.initial_weight().double(),
    ]
    species = torch.randint(spec.species, (nodes,))
    expected = derivatives(lambda *x: form(*x, SpeciesGroups(species)), leaves, order)
    ours, groups = GeneratedManyBody(spec).double().to(gpu), SpeciesGroups(species.to(gpu))
    found = derivatives(lambda *x: ours(*x, groups), [leaf.to(gpu) for leaf in leaves], order)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-11, atol=1e-12 * (1 + float(other.detach().norm())))


def test_gradients_are_those_of_finite_differences_twice_over(gpu: torch.device) -> None:
    spec = ManyBodySpec("1x0e+1x1o", "1x0e+1x1o", 3, 2)
    module, groups = GeneratedManyBody(spec).double().to(gpu), SpeciesGroups(torch.tensor([1, 0], device=gpu))
    x = torch.randn(2, 4, 1, dtype=torch.float64, device=gpu, requires_grad=True)
    w = module.initial_weight().double().to(gpu).requires_grad_()
    torch.autograd.gradgradcheck(lambda *leaves: module(*leaves, groups), (x, w), fast_mode=True)


def test_the_operators_keep_the_rules_of_torch(gpu: torch.device) -> None:
    numbers, (order, species, product) = arguments(ManyBodySpec("1x0e+1x1o", "1x0e", 2, 2), 3, torch.float32)
    a, g, x, K = (each.to(gpu).requires_grad_() for each in numbers)
    rest = (order.to(gpu), species.to(gpu), product)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    for operator, inputs in (
        (node_operator.value, (x, K, *rest)),
        (node_operator.gradient, (g, x, K, *rest)),
        (node_operator.weight_gradient, (g, x, K, *rest)),
        (node_operator.double_backward, (a, g, x, K, *rest)),
    ):
        library.opcheck(operator, inputs, test_utils=checks)


def test_two_runs_give_the_same_bits(gpu: torch.device) -> None:
    numbers, rest = arguments(SMALL, 40, torch.float32)
    first, second = (on_device(numbers, rest, gpu) for _ in range(2))
    assert all(torch.equal(*pair) for function in first for pair in zip(first[function], second[function], strict=True))


def test_arrays_need_not_be_contiguous(gpu: torch.device) -> None:
    numbers, rest = arguments(SMALL, 9)
    scattered = tuple(torch.stack([each, each], dim=-1)[..., 0] for each in numbers)
    found, expected = on_device(scattered, rest, gpu), on_device(numbers, rest, gpu)
    assert all(
        torch.equal(*pair) for function in found for pair in zip(found[function], expected[function], strict=True)
    )


def test_products_of_too_many_terms_are_left_to_torch(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(GeneratedManyBody(SMALL).polynomials.terms)
    monkeypatch.setattr(node_executor, "MOST_TERMS", count - 1)
    ours, theirs = (form(SMALL).double().to(gpu) for form in (GeneratedManyBody, HornerManyBody))
    x, w = torch.randn(3, 4, 2).to(gpu).double(), theirs.initial_weight().double().to(gpu)
    groups = SpeciesGroups(torch.tensor([0, 1, 1], device=gpu))
    monkeypatch.setattr(node_gpu, "run", lambda *_: pytest.fail("a kernel ran"))
    reason = f"{count} terms are above {count - 1}, the most that a kernel holds"
    assert f"float64: torch ({reason})" in repr(ours)
    assert torch.equal(ours(x, w, groups), theirs(x, w, groups))
    with pytest.raises(ValueError, match=f'`backend` "generated" has no kernel for the many-body product .*: {reason}'):
        GeneratedManyBody(SMALL, "generated").double().to(gpu)(x, w, groups)


# Registers, of what comes out of l <= 3 at nu = 3 in float32.
LIMITS = {"value": 64, "gradient": 96, "double_backward": 128, "weight_gradient": 128, "double_backward_weights": 128}

CASES = [(function, 1, 3, "float32", capability) for function in LIMITS for capability in (80, 90)]
CASES += [(function, 0, 3, "float32", 90) for function in LIMITS]
CASES += [
    ("gradient", 1, 3, "float64", 90),
    ("double_backward_weights", 1, 3, "float64", 90),
    ("gradient", 0, 4, "float32", 90),
]


@cache
def assembled() -> dict[tuple[str, int, int, str, int], tuple[int, int, int, int]]:
    """Registers, spilled bytes, conversions between layouts, and loads by instruction, of every case."""
    found = {}
    for function, degree, correlation, dtype, capability in CASES:
        spec = ManyBodySpec(natural_irreps(3, 128), natural_irreps(degree, 128), correlation, 10)
        p = node_operator.polynomials_of(node_operator.name_of(spec))
        with tiles_as_on_a_gpu():
            if function in ("value", "gradient", "double_backward"):
                kernel, _ = node_gpu.kernel_for(function, p, getattr(torch, dtype))
            else:
                kernel, _ = node_gpu_sums.sum_of_chunk(
                    p, 10, getattr(torch, dtype), function == "double_backward_weights"
                )
        made = assemble(kernel, capability)
        numbers = (made.registers, made.spilled, made.conversions, made.ptx.count("ld.global.f"))
        found[function, degree, correlation, dtype, capability] = numbers
    return found


def test_nothing_spills_and_no_tile_is_shuffled() -> None:
    for case, (_, spilled, shuffled, _) in assembled().items():
        assert spilled == shuffled == 0, case


def test_enough_registers_are_left_for_others() -> None:
    """128 registers of a thread leave 16 warps to a multiprocessor, enough to hide what they wait for."""
    for case, (registers, *_) in assembled().items():
        assert registers <= (LIMITS[case[0]] if case[2:4] == (3, "float32") else 255), case


def test_every_number_is_loaded_once() -> None:
    p = node_operator.polynomials_of("128x0e+128x1o+128x2e+128x3o ^ 3 -> 128x0e")
    assert assembled()["gradient", 0, 3, "float32", 90][3] == len(p.terms) + p.variables + p.outputs


@pytest.mark.parametrize("function", ["value", "gradient", "double_backward"])
def test_assembled_code_does_what_the_formula_says(function: str) -> None:
    """Loads and stores by instruction are not what the interpreter runs."""
    numbers, rest = arguments(WIDE, 9)
    expected = by_formula(numbers, *rest[1:])[function][:2]
    with emulated(90):
        results = on_device(numbers, rest, torch.device("cpu"))[function][:2]
    for ours, theirs in zip(results, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-11)
