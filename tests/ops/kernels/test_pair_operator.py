"""The pair product in machine code: against the form in torch, in three derivatives, and as a torch operator."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, library

from equinet.ops import ClebschGordan, TensorProductSpec, natural_irreps
from equinet.ops.analysis.cost import cost
from equinet.ops.kernels.pair import operator as pair_operator
from equinet.ops.kernels.pair.cpu import PairLoops
from equinet.ops.kernels.pair.executor import GeneratedPair
from equinet.ops.kernels.pair.operator import contract, mask_of, value
from equinet.ops.kernels.pair.reference import BatchedPair, ReferencePair
from equinet.ops.kernels.pair.table import ROLES, name_of, table_of

SPECS = [
    TensorProductSpec("16x0e+16x1o", "16x0e+16x1o+16x2e", "0e+1o+2e+3o"),
    TensorProductSpec("3x0e+3x1o+3x1e+3x2e", "3x0e+3x1o", "0e+1o+1e+2e"),
    TensorProductSpec("24x1o+24x4e", "24x1o", "0e+1e"),  # 4e meets nothing
    TensorProductSpec("1x0e", "1x0e", "0e", pair=True),
]
SHARED = pytest.mark.parametrize("shared", [True, False], ids=["shared weights", "weights of each row"])


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def random_inputs(spec: TensorProductSpec, rows: int, shared: bool, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    x, y = (
        torch.randn(rows, irreps.dim // spec.channels, spec.channels, dtype=dtype)
        for irreps in (spec.irreps_in1, spec.irreps_in2)
    )
    return [x, y, torch.randn(*([] if shared else [rows]), len(spec.paths), spec.channels, dtype=dtype)]


def derivatives(run: Callable[..., Tensor], leaves: list[Tensor], order: int) -> list[Tensor]:
    """The result, and the gradients of a random combination of gradients of ... of it."""
    torch.manual_seed(1)
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    out = run(*inputs)
    found, total = [out], (out * torch.randn_like(out)).sum() + out.square().sum()
    for _ in range(order):
        gradients = torch.autograd.grad(total, inputs, create_graph=True)
        found += gradients
        total = torch.stack(
            [(gradient * torch.randn(gradient.shape, dtype=gradient.dtype)).sum() for gradient in gradients]
        ).sum()
    return found


@SHARED
@pytest.mark.parametrize("rows", [0, 1, 7, 64, 130])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_values_and_three_derivatives_are_those_of_the_form_in_torch(spec, rows, shared) -> None:
    leaves = random_inputs(spec, rows, shared)
    ours, theirs = (derivatives(form(spec).double(), leaves, 3) for form in (GeneratedPair, BatchedPair))
    for found, expected in zip(ours, theirs):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * (1 + float(expected.detach().norm())))


@SHARED
def test_derivatives_are_those_of_finite_differences(shared) -> None:
    spec = TensorProductSpec("2x0e+2x1o", "2x1o+2x2e", "0e+1o+1e")
    leaves = [leaf.requires_grad_() for leaf in random_inputs(spec, 3, shared)]
    module = GeneratedPair(spec).double()
    assert torch.autograd.gradcheck(module, leaves)
    assert torch.autograd.gradgradcheck(module, leaves)


@SHARED
def test_two_threads_give_what_one_gives(shared) -> None:
    leaves = random_inputs(SPECS[1], 400, shared)
    module, found = GeneratedPair(SPECS[1]).double(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(derivatives(module, leaves, 2))
    for one, *more in zip(*found):
        assert all(
            torch.equal(other, one) for other in more
        )  # to the last bit: sums over rows are made in chunks of a fixed size


@SHARED
def test_the_operator_keeps_the_rules_of_torch(shared) -> None:
    spec = TensorProductSpec("4x0e+4x1o", "4x1o", "0e+1o")
    leaves = random_inputs(spec, 3, shared)
    g = torch.randn(3, spec.rows, 4, dtype=torch.float64)
    for tensor in (*leaves, g):
        tensor.requires_grad_()
    checks = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    for z, wanted in ((g.new_empty(0), "z"), (g, "xyw")):
        library.opcheck(contract, (*leaves, z, name_of(spec), mask_of(wanted)), test_utils=checks)


@SHARED
def test_arrays_need_not_be_contiguous(shared) -> None:
    spec = SPECS[0]
    leaves, name = random_inputs(spec, 5, shared), name_of(spec)
    scattered = [torch.stack([leaf, leaf], dim=-1)[..., 0] for leaf in leaves]
    assert not any(leaf.is_contiguous() for leaf in scattered)
    assert torch.equal(value(*scattered, name), value(*leaves, name))
    g = torch.randn((), dtype=torch.float64).expand(5, spec.rows, 16)  # what the derivative of a sum is
    found = contract(*scattered, g, name, mask_of("xyw"))
    for mine, other in zip(found, contract(*leaves, g.contiguous(), name, mask_of("xyw"))):
        assert torch.equal(mine, other)
    one = leaves[1][:1].expand(5, -1, -1)  # a second input that all rows share
    assert torch.equal(value(leaves[0], one, leaves[2], name), value(leaves[0], one.contiguous(), leaves[2], name))


def test_every_role_is_the_derivative_of_one_form() -> None:
    """F(x, y, w, z) is the sum of each array times F's derivative in it, whichever it is."""
    spec = SPECS[1]
    arrays = [*random_inputs(spec, 6, False), torch.randn(6, spec.rows, 3, dtype=torch.float64)]
    found = contract(*arrays, name_of(spec), mask_of(ROLES))
    totals = [(array * derivative).sum() for array, derivative in zip(arrays, found)]
    torch.testing.assert_close(torch.stack(totals), totals[0].expand(4), rtol=1e-12, atol=0)
    for n, role in enumerate(ROLES):  # alone, too, without an array of its own
        alone = [array.new_empty(0) if m == n and role == "z" else array for m, array in enumerate(arrays)]
        torch.testing.assert_close(contract(*alone, name_of(spec), mask_of(role))[n], found[n], rtol=1e-12, atol=1e-12)


@SHARED
def test_single_precision_errs_no_more_than_the_formula_does(shared) -> None:
    spec = SPECS[0]
    leaves = random_inputs(spec, 2000, shared, torch.float32)
    exact = derivatives(ReferencePair(spec).double(), [leaf.double() for leaf in leaves], 1)
    ours, theirs = (derivatives(form(spec), leaves, 1) for form in (GeneratedPair, ReferencePair))
    for mine, other, right in zip(ours, theirs, exact):
        assert 0 < (mine - right).norm() < 2 * (other - right).norm()


@pytest.mark.parametrize("asked", [[0, 1, 2], [0, 2], [1, 2], [2], [0]], ids=str)
def test_a_pass_leaves_out_the_gradients_that_it_does_not_need_and_changes_no_other(asked, monkeypatch) -> None:
    spec = SPECS[0]
    inputs = [leaf.requires_grad_() for leaf in random_inputs(spec, 5, False)]
    out = GeneratedPair(spec).double()(*inputs).square().sum()
    everything = torch.autograd.grad(out, inputs, retain_graph=True)
    ran, run = [], pair_operator.code_for
    monkeypatch.setattr(pair_operator, "code_for", lambda *args: ran.append(args[-1]) or run(*args))
    found = torch.autograd.grad(out, [inputs[n] for n in asked])
    assert ran == ["".join(ROLES[n] for n in asked)]
    for n, gradient in zip(asked, found, strict=True):
        torch.testing.assert_close(gradient, everything[n], rtol=1e-13, atol=1e-13)


def test_rows_without_couplings_have_gradients_of_zero() -> None:
    spec = TensorProductSpec("24x1o+24x4e", "24x1o", "0e+1e")
    inputs = [leaf.requires_grad_() for leaf in random_inputs(spec, 3, True)]
    gradients = torch.autograd.grad(GeneratedPair(spec).double()(*inputs).square().sum(), inputs)
    assert not gradients[0][:, 3:].any()
    assert gradients[0][:, :3].any()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_code_has_as_many_operations_as_are_counted(spec: TensorProductSpec) -> None:
    assembly = PairLoops(table_of(name_of(spec)), torch.float64, shared=True).contract("z").finish()
    per_vector = len(re.findall(r"= f(?:add|mul) contract <", assembly))
    assert sum(cost(GeneratedPair(spec)).edge) == per_vector * spec.channels


def test_what_does_not_fit_is_refused() -> None:
    spec = SPECS[0]
    x, y, w = random_inputs(spec, 5, True)
    for wrong in ((x[:, :3], y, w), (x, y[:4], w), (x, y, w[1:]), (x, y, w.expand(4, -1, -1)), (x.float(), y, w)):
        with pytest.raises(ValueError, match="shapes or precisions do not fit together"):
            value(*wrong, name_of(spec))


def test_other_precisions_and_devices_take_the_form_in_torch() -> None:
    spec = SPECS[0]
    leaves = random_inputs(spec, 5, True, torch.bfloat16)
    module = GeneratedPair(spec).bfloat16()
    assert "cpu bfloat16: torch (generated kernels compute in float32 and float64)" in repr(module)
    assert torch.equal(module(*leaves), BatchedPair(spec).bfloat16()(*leaves))
    with pytest.raises(ValueError, match=r'`backend` "generated" has no kernel for the pair product .* in bfloat16'):
        GeneratedPair(spec, "generated").bfloat16()(*leaves)
    somewhere = module.float().to("meta")(*(leaf.float().to("meta") for leaf in leaves))
    assert somewhere.device.type == "meta"


def test_code_that_takes_long_to_make_is_announced_and_not_made_unasked(caplog) -> None:
    irreps = natural_irreps(5, 2)
    large = TensorProductSpec(irreps, irreps, natural_irreps(5))
    assert "cpu float32: torch (making its code takes about" in repr(ClebschGordan().pair(large))
    assert "generated (LLVM, 2 lanes)" in repr(ClebschGordan("generated").pair(large))
    pair_operator.announce.cache_clear()
    with caplog.at_level(logging.INFO, logger="equinet"):
        pair_operator.announce(name_of(large))
        pair_operator.announce(name_of(large))
    assert caplog.text.count("making machine code for the pair product 2x0e+2x1o") == 1
