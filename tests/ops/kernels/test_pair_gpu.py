"""The pair product on a GPU: against the form in torch, in every derivative, and as a torch operator."""

from __future__ import annotations

import pytest
import torch
from assembling import assemble, emulated, tiles_as_on_a_gpu
from torch import Tensor, library

from equinet.ops import GauntGrid, TensorProductSpec, natural_irreps
from equinet.ops.codegen import tiles
from equinet.ops.kernels.pair import gpu as pair_gpu
from equinet.ops.kernels.pair.executor import GeneratedPair
from equinet.ops.kernels.pair.operator import contract, mask_of, value
from equinet.ops.kernels.pair.reference import BatchedPair, ReferencePair
from equinet.ops.kernels.pair.table import name_of

WIDE = TensorProductSpec("40x0e+40x1o", "40x0e+40x1o", "0e+1o")
BOTH_PARITIES = TensorProductSpec("3x0e+3x1o+3x1e", "3x1o+3x4e", "0e+1o+1e")  # the second input's 4e meets nothing
SCALARS = TensorProductSpec("1x0e", "1x0e", "0e", pair=True)
SHARED = pytest.mark.parametrize("shared", [True, False], ids=["shared weights", "weights of each row"])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def random_inputs(spec: TensorProductSpec, rows: int, shared: bool, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    x, y = (
        torch.randn(rows, irreps.dim // spec.channels, spec.channels, dtype=dtype)
        for irreps in (spec.irreps_in1, spec.irreps_in2)
    )
    return [x, y, torch.randn(*([] if shared else [rows]), len(spec.paths), spec.channels, dtype=dtype)]


def derivatives(run, leaves: list[Tensor], order: int) -> list[Tensor]:
    """The result, and the gradients of a combination of gradients of ... of it."""
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    out = run(*inputs)
    found, total = [out], (out * weights_like(out)).sum() + out.square().sum()
    for _ in range(order):
        gradients = torch.autograd.grad(total, inputs, create_graph=True)
        found += gradients
        total = torch.stack([(gradient * weights_like(gradient)).sum() for gradient in gradients]).sum()
    return found


def weights_like(values: Tensor) -> Tensor:
    """Numbers between -1 and 1 that are the same on every device."""
    return torch.linspace(-9, 7, values.numel(), dtype=torch.float64).cos().to(values).view(values.shape)


def require_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for found, expected in zip(ours, theirs, strict=True):
        scale = 1 + float(expected.detach().norm())
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-12, atol=1e-12 * scale)


@SHARED
@pytest.mark.parametrize(
    ("spec", "rows", "order"),
    [(WIDE, 5, 2), (BOTH_PARITIES, 70, 2), (BOTH_PARITIES, 0, 2), (SCALARS, 3, 3)],
    ids=["wide", "both parities", "no rows", "scalars"],
)
def test_values_and_derivatives_are_those_of_the_form_in_torch(gpu, spec, rows, order, shared) -> None:
    leaves = random_inputs(spec, rows, shared)
    ours = derivatives(GeneratedPair(spec).double().to(gpu), [leaf.to(gpu) for leaf in leaves], order)
    require_close(ours, derivatives(BatchedPair(spec).double(), leaves, order))


def test_code_by_a_tensor_runs_there_too(gpu) -> None:
    spec = TensorProductSpec("3x0e+3x1o", "3x0e+3x1o", "0e+1o")
    on_gpu, in_torch = (GauntGrid(backend=name).pair(spec).double() for name in ("generated", "torch"))
    x, y, _ = random_inputs(spec, 5, True)
    weight = torch.randn(5, on_gpu.weight_numel, 3, dtype=torch.float64)
    found = on_gpu.to(gpu)(x.to(gpu), y.to(gpu), weight.to(gpu))
    torch.testing.assert_close(found.cpu(), in_torch(x, y, weight), rtol=1e-12, atol=1e-12)


@SHARED
def test_several_kernels_give_what_one_gives(gpu, shared, monkeypatch) -> None:
    """Blocks are divided among kernels where registers would not do."""
    leaves = [leaf.to(gpu) for leaf in random_inputs(BOTH_PARITIES, 70, shared)]
    module = GeneratedPair(BOTH_PARITIES).double().to(gpu)
    whole = [each.cpu() for each in derivatives(module, leaves, 1)]
    monkeypatch.setattr(pair_gpu, "MOST_ENTRIES", 6)
    pair_gpu.kernels_for.cache_clear()
    kernels, _ = pair_gpu.kernels_for(name_of(BOTH_PARITIES), torch.float64, shared, "xyw")
    assert len(kernels) > 2
    parts = derivatives(module, leaves, 1)
    pair_gpu.kernels_for.cache_clear()
    require_close(parts, whole)


def test_single_precision_errs_no_more_than_the_formula_does(gpu) -> None:
    leaves = random_inputs(WIDE, 60, True, torch.float32)
    exact = derivatives(ReferencePair(WIDE).double(), [leaf.double() for leaf in leaves], 1)
    theirs = derivatives(ReferencePair(WIDE), leaves, 1)
    ours = derivatives(GeneratedPair(WIDE).to(gpu), [leaf.to(gpu) for leaf in leaves], 1)
    for mine, other, right in zip(ours, theirs, exact):
        assert 0 < (mine.cpu() - right).norm() < 2 * (other - right).norm()


def test_two_runs_give_the_same_bits(gpu) -> None:
    leaves = [leaf.to(gpu) for leaf in random_inputs(WIDE, 200, True, torch.float32)]
    first, second = (derivatives(GeneratedPair(WIDE).to(gpu), leaves, 1) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second))


def test_the_operator_keeps_the_rules_of_torch(gpu) -> None:
    spec = TensorProductSpec("4x0e+4x1o", "4x1o", "0e+1o")
    x, y, w = (leaf.to(gpu).requires_grad_() for leaf in random_inputs(spec, 3, True))
    g = torch.randn(3, spec.rows, 4, dtype=torch.float64, device=gpu, requires_grad=True)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    library.opcheck(contract, (x, y, w, g, name_of(spec), mask_of("xyw")), test_utils=checks)


def test_arrays_need_not_be_contiguous(gpu) -> None:
    leaves = [leaf.to(gpu) for leaf in random_inputs(SCALARS, 5, False)]
    scattered = [torch.stack([leaf, leaf], dim=-1)[..., 0] for leaf in leaves]
    assert torch.equal(value(*scattered, name_of(SCALARS)), value(*leaves, name_of(SCALARS)))


def test_the_kernels_are_what_runs(gpu, monkeypatch) -> None:
    calls: list[str] = []
    real = tiles.Kernel.__call__
    monkeypatch.setattr(tiles.Kernel, "__call__", lambda self, *a: calls.append(self.name) or real(self, *a))
    leaves = [leaf.to(gpu) for leaf in random_inputs(SCALARS, 5, True)]
    derivatives(GeneratedPair(SCALARS).double().to(gpu), leaves, 1)
    assert calls == ["pair_contract", "pair_contract"]


@pytest.mark.parametrize("capability", [80, 90])
def test_compiled_kernels_do_not_spill_and_no_tile_is_shuffled(capability: int) -> None:
    pytest.importorskip("triton", reason="kernels for GPUs are written in Triton: pip install triton")
    cases = [(2, torch.float32, "z", True, 1), (2, torch.float32, "xyw", False, 1), (2, torch.float64, "xyw", True, 2)]
    for degree, dtype, wanted, shared, count in cases:
        irreps = natural_irreps(degree, 128)
        name = name_of(TensorProductSpec(irreps, irreps, natural_irreps(degree)))
        with tiles_as_on_a_gpu():
            kernels, _ = pair_gpu.kernels_for(name, dtype, shared, wanted)
        assert len(kernels) == count
        for made in (assemble(kernel, capability) for kernel in kernels):
            assert made.registers <= (128 if dtype == torch.float32 else 255)
            assert made.spilled == made.looped == 0


@SHARED
def test_compiled_kernels_do_what_the_formula_says(shared: bool) -> None:
    """Run by an emulator of the GPU's instructions, which reports races and reads of what was never written."""
    pytest.importorskip("triton", reason="kernels for GPUs are written in Triton: pip install triton")
    spec = TensorProductSpec("3x0e+3x1o", "3x1o", "0e+1o")
    leaves = random_inputs(spec, 18, shared)
    expected = derivatives(BatchedPair(spec).double(), leaves, 1)
    with emulated(90) as ran:
        found = derivatives(GeneratedPair(spec).double(), leaves, 1)
    assert ran == ["pair_contract", "pair_contract"]
    require_close(found, expected)
