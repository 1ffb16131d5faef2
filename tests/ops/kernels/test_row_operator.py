"""Functions of a row in machine code and kernels: against torch, in every derivative."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from assembling import emulated
from torch import Tensor, library

from equinet.nn import EdgeFunctions
from equinet.ops.kernels.row import code
from equinet.ops.kernels.row.operator import WORTHWHILE, function_of, operators, row_value, silu

EDGE = "edge 3 8 5.0 6 1"
NAMES = [
    "silu",
    EDGE,
    "edge 0 1 3.5 3 0",
    "edge 1 0 6.0 5 1",  # basis of something else than the length
    "edge 4 10 4.2 8 0",
]
SPECIAL = torch.tensor([0.0, -1e4, 1e4, -90.0, 90.0, -710.0, 710.0, float("nan"), float("inf")], dtype=torch.float64)
CHECKS = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")


def numbers(count: int, dtype: torch.dtype, width: int = 1) -> Tensor:
    """Of SiLU from far left to far right; vectors from bonds to beyond the cutoff."""
    torch.manual_seed(0)
    return (4.0 if width == 1 else 2.0) * torch.randn(count, width, dtype=dtype)


def formula_of(name: str, dtype: torch.dtype) -> Callable[[Tensor], list[Tensor]]:
    """The function in plain torch."""
    if name == "silu":
        return lambda x: [torch.nn.functional.silu(x)]
    degree, bessel, cutoff, power, enveloped = map(float, name.split()[1:])
    functions = EdgeFunctions(
        max_degree=int(degree),
        cutoff=cutoff,
        bessel=int(bessel) or 5,
        power=int(power),
        enveloped=bool(enveloped),
        of_length=bessel > 0,
    )
    assert functions.name == name
    return functions.to(dtype).formula


def chain(function: Callable[[Tensor], list[Tensor]], x: Tensor, order: int) -> list[Tensor]:
    """Values, and mixed derivatives up to an order, along random directions that are the same in every precision."""
    x = x.detach().requires_grad_()
    torch.manual_seed(1)
    latest = list(function(x))
    found = list(latest)
    for _ in range(order):
        mixed = [(each * torch.randn(each.shape, dtype=torch.float64).to(each)).sum() for each in latest]
        latest = list(torch.autograd.grad(sum(mixed), x, create_graph=True))
        found += latest
    return found


@pytest.fixture(params=["machine code", "kernels", "compiled kernels"])
def place(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where operators run: what to move tensors to."""
    if request.param == "compiled kernels":
        pytest.importorskip("triton", reason="kernels for GPUs are written in Triton: pip install triton")
        with emulated(90):
            yield torch.device("cpu")
    else:
        yield torch.device("cpu") if request.param == "machine code" else request.getfixturevalue("gpu")


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_four_derivatives_are_those_of_torch(name: str, count: int, place: torch.device) -> None:
    f = function_of(name)
    x = numbers(count, torch.float64, f.width)
    ours = chain(lambda x: row_value(x, name), x.to(place), 4)
    for mine, theirs in zip(ours, chain(formula_of(name, torch.float64), x, 4), strict=True):
        size = theirs.abs().max().item() if theirs.numel() else 0.0
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-11, atol=1e-11 * max(1.0, size))


@pytest.mark.parametrize("name", NAMES)
def test_float32_errs_as_little_as_the_formula_in_torch(name: str, place: torch.device) -> None:
    """At most three times as much (Triton's interpreter rounds every product by itself), or a few roundings of the largest number."""
    f = function_of(name)
    x = numbers(2003, torch.float32, f.width)
    exact = chain(formula_of(name, torch.float64), x.double(), 2)
    ours, theirs = chain(lambda x: row_value(x, name), x.to(place), 2), chain(formula_of(name, torch.float32), x, 2)
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        if true.numel():
            size = true.abs().max()
            errors = [((each.cpu().double() - true).abs().max() / size).item() for each in (mine, other)]
            assert errors[0] <= max(3 * errors[1], 3e-7)


def test_gradients_that_a_pass_does_not_need_are_not_computed_and_the_others_are_the_same(monkeypatch) -> None:
    functions = EdgeFunctions(max_degree=2, cutoff=5.0, bessel=4, power=5, enveloped=True).double()
    x = numbers(33, torch.float64, 3).requires_grad_()
    g = [torch.ones_like(each).requires_grad_() for each in functions.formula(x)]
    (force,) = torch.autograd.grad(list(functions(x)), x, g, create_graph=True)
    ran, run = [], code.run
    monkeypatch.setattr(code, "run", lambda f, what, *rest, **named: ran.append(what) or run(f, what, *rest, **named))
    everything, in_x, in_g = (
        torch.autograd.grad(force.square().sum(), inputs, retain_graph=True) for inputs in ([*g, x], [x], g)
    )
    assert ran == ["double_backward", "double_backward", "double_backward_outputs"]
    assert torch.equal(in_x[0], everything[-1])
    for ours, theirs in zip(in_g, everything[:-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


def test_an_edge_as_long_as_the_cutoff_or_longer_has_no_radial_part_and_no_gradient(place: torch.device) -> None:
    x = torch.tensor([[5.0, 0, 0], [0, 7.0, 0], [0, 3.0, 4.0]], dtype=torch.float64, device=place)
    value_there, (gradient_there,) = (
        chain(lambda x: row_value(x, EDGE)[2:], x, 0),
        chain(lambda x: row_value(x, EDGE)[3:], x, 1)[1:],
    )
    for each in (*value_there, gradient_there):
        assert torch.equal(each, torch.zeros_like(each))


def test_what_is_no_number_stays_none(place: torch.device) -> None:
    x = torch.tensor([[float("nan"), 0.0, 0.0]], dtype=torch.float64, device=place)
    assert all(each.isnan().any() for each in row_value(x, EDGE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_silu_of_what_is_huge_or_no_number(dtype: torch.dtype, place: torch.device) -> None:
    x = SPECIAL.to(dtype).repeat(3)[:, None]
    (found,) = row_value(x.to(place), "silu")
    expected = torch.nn.functional.silu(x)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-30, equal_nan=True)
    finite = x[x.isfinite()][:, None].to(place)
    for derivative in (
        operators(1).gradient(torch.ones_like(finite), finite, "silu"),
        *operators(1).double_backward(torch.ones_like(finite), torch.ones_like(finite), finite, "silu", True),
    ):
        assert derivative.isfinite().all()


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 3e-7), (torch.float64, 6e-16)], ids=str)
def test_silu_is_right_to_rounding(dtype: torch.dtype, error: float) -> None:
    z = numbers(10007, dtype)  # a prime: what is left over from whole vectors counts too
    exact = torch.nn.functional.silu(z.double())
    assert ((row_value(z, "silu")[0].double() - exact).abs() / exact.abs()).max() < error


@pytest.mark.parametrize("name", ["silu", "edge 1 2 5.0 3 1"])
def test_the_operators_keep_the_rules_of_torch(name: str, place: torch.device) -> None:
    f = function_of(name)
    x, a = (torch.rand(7, f.width, dtype=torch.float64, device=place).add(0.5).requires_grad_() for _ in range(2))
    g = [torch.randn(7, width, dtype=torch.float64, device=place, requires_grad=True) for width in f.widths]
    of = operators(len(g))
    cases = (
        (of.value, (x, name)),
        (of.gradient, (*g, x, name)),
        *((of.double_backward, (a, *g, x, name, flag)) for flag in (True, False)),
    )
    for operator, inputs in cases:
        library.opcheck(operator, inputs, test_utils=CHECKS)


def test_arrays_need_not_be_contiguous(place: torch.device) -> None:
    x = numbers(4000, torch.float64, 3).to(place)
    apart = torch.cat([x, x], dim=1)[:, :3]
    g = [torch.ones((), dtype=torch.float64, device=place).expand(each.shape) for each in row_value(x, EDGE)]
    assert not apart.is_contiguous()
    assert all(map(torch.equal, row_value(apart, EDGE), row_value(x, EDGE)))
    gradient = operators(len(g)).gradient
    assert torch.equal(gradient(*g, apart, EDGE), gradient(*(each.contiguous() for each in g), x, EDGE))


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    x = numbers(5, torch.float64, 3)
    with pytest.raises(ValueError, match=r"do not fit together.*: \(5, 2\)"):
        row_value(x[:, :2], EDGE)
    with pytest.raises(ValueError, match="do not fit together"):
        operators(4).gradient(*(each[:4] for each in row_value(x, EDGE)), x, EDGE)


def test_few_numbers_and_other_precisions_go_to_torch() -> None:
    for z in (numbers(WORTHWHILE - 1, torch.float64), numbers(WORTHWHILE, torch.float64).bfloat16()):
        assert torch.equal(silu(z), torch.nn.functional.silu(z))
    z = numbers(WORTHWHILE, torch.float64)
    assert torch.equal(silu(z), row_value(z, "silu")[0])
    assert torch.equal(silu(z.view(50, -1)), silu(z).view(50, -1))
