"""What runs is what ``repr`` says: the choice between generated kernels and torch, and the refusal of what cannot be met."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from equinet.ops import (
    SO2,
    Bracket,
    ClebschGordan,
    CPDecomposed,
    GauntFourier,
    GauntGrid,
    ManyBodySpec,
    MatrixProduct,
    SpeciesGroups,
    TensorProductSpec,
    describe_executor,
    natural_irreps,
    tensor_product,
)
from equinet.ops.codegen import llvm, tiles
from equinet.ops.kernels.choice import KernelChoice, refusal_of
from equinet.ops.kernels.edge import executor as edge_executor
from equinet.ops.kernels.edge import operator as edge_operator
from equinet.ops.kernels.node import executor as node_executor
from equinet.ops.kernels.node import operator as node_operator
from equinet.ops.precision import formulas

SPEC = TensorProductSpec("8x0e+8x1o", "0e+1o", "0e+1o")
ODD = TensorProductSpec("8x0e+8x1o", "0e+1o", "1e")
MANY = ManyBodySpec("8x0e+8x1o", "8x0e+8x1o", 3, 2)
VECTORS = ManyBodySpec("8x1o+8x2e", "8x1o+8x2o", 3, 2)
GENERATED = [ClebschGordan, GauntGrid, GauntFourier, MatrixProduct]


def spec_for(method: Any, role: str) -> Any:
    if isinstance(method, Bracket):
        return ODD if role == "convolution" else VECTORS
    return SPEC if role == "convolution" else MANY


def build(method: Any, role: str) -> Any:
    return getattr(method, role)(spec_for(method, role))


def inputs(executor: Any, dtype: torch.dtype) -> list[Any]:
    spec = executor.spec
    if isinstance(spec, ManyBodySpec):
        weight = torch.randn(2, executor.weight_numel, 8, dtype=dtype)
        groups = SpeciesGroups(torch.tensor([0, 1, 1]))
        return [torch.randn(3, spec.irreps_in.dim // 8, 8, dtype=dtype), weight, groups]
    weight = torch.randn(5, executor.weight_numel, 8, dtype=dtype)
    return [torch.randn(3, 4, 8, dtype=dtype), torch.randn(5, 4, dtype=dtype), weight, torch.randint(3, (2, 5))]


@pytest.fixture
def machine_code(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Operators that ran machine code."""
    ran: list[str] = []
    for module, name in ((edge_operator, "run_in_parts"), (node_operator, "_run_machine_code")):
        run = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, run=run, name=name, **more: (ran.append(name), run(*given, **more))
        )
    return ran


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("role", ["convolution", "many_body"])
@pytest.mark.parametrize(
    "method",
    [
        *(kind(backend=backend) for kind in GENERATED for backend in ("auto", "torch", "reference")),
        *(Bracket(backend=backend) for backend in ("auto", "torch")),
        GauntGrid(bracket=True),
        CPDecomposed(rank=6),
        SO2(),
    ],
    ids=str,
)
def test_machine_code_runs_where_repr_says_so_and_nowhere_else(
    method: Any, role: str, dtype: torch.dtype, machine_code: list[str]
) -> None:
    if isinstance(method, SO2) and role == "many_body":
        pytest.skip("the frame of an edge makes no many-body product")
    if isinstance(method, GauntFourier) and dtype is torch.bfloat16:
        pytest.skip("torch has no Fourier transform in bfloat16")
    executor = build(method, role).to(dtype)
    assert executor.kernel.startswith(f"cpu {str(dtype).removeprefix('torch.')}: ")
    if method.backend == "auto" or not isinstance(method, GauntGrid):  # which are made of others
        assert executor.kernel in repr(executor)
    executor(*inputs(executor, dtype))
    assert bool(machine_code) == ("generated (LLVM" in executor.kernel)


@pytest.mark.parametrize("role", ["convolution", "many_body"])
@pytest.mark.parametrize("kind", GENERATED)
def test_generated_computes_what_auto_computes_and_refuses_what_it_cannot(kind: Any, role: str) -> None:
    explicit, auto = build(kind(backend="generated"), role), build(kind(), role)
    given = inputs(explicit, torch.float32)
    assert torch.equal(explicit(*given), auto(*given))
    assert refusal_of(explicit) is None
    coarse = explicit.bfloat16()
    message = (
        r'`backend` "generated" has no kernel for the .* on cpu in bfloat16: generated kernels compute in float32 and float64; '
        r'take `backend="auto"`, which computes in torch there, or "torch"$'
    )
    assert "cpu bfloat16: refused (generated kernels compute in float32 and float64)" in repr(coarse)
    assert re.search(message, str(refusal_of(coarse)))
    with pytest.raises(ValueError, match=message):
        coarse(*inputs(coarse, torch.bfloat16))


def test_formulas_are_computed_in_torch_even_where_kernels_are_asked_for(machine_code: list[str]) -> None:
    for role in ("convolution", "many_body"):
        explicit = build(ClebschGordan("generated"), role)
        given = inputs(explicit, torch.float32)
        with formulas():
            found = explicit(*given)
        assert machine_code == []
        assert torch.equal(found, build(ClebschGordan("torch"), role)(*given))


def test_cuda_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "unavailable", lambda: "Triton is not there")
    cuda, numbers = torch.device("cuda"), torch.float32
    choice = KernelChoice("auto", product="the product")
    assert choice.describe(cuda, numbers, 8) == "torch (Triton is not there)"
    assert choice.refusal(cuda, numbers) is None
    choice = KernelChoice("generated", product="the product")
    assert choice.describe(cuda, numbers, 8) == "refused (Triton is not there)"
    assert str(choice.refusal(cuda, numbers)).startswith(
        '`backend` "generated" has no kernel for the product on cuda in float32: Triton is not there; take'
    )
    with pytest.raises(
        ValueError, match=r"for the many-body product .*: on cpu, too many terms .*; on cuda, Triton is not"
    ):
        CPDecomposed(rank=6, backend="generated").many_body(MANY)
    monkeypatch.undo()
    if tiles.unavailable() is None:
        assert choice.describe(cuda, numbers, 8) == "generated (Triton)"


def test_a_product_too_large_for_a_kernel_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_executor, "MOST_TERMS", 10)
    for method in (ClebschGordan(), GauntFourier()):
        kernels = method.many_body(MANY).kernels
        assert re.fullmatch(
            r"torch \(\d+ terms are above 10, the most that a kernel holds\)",
            kernels.describe(torch.device("cuda"), torch.float32, 8),
        )
        assert kernels.describe(torch.device("cpu"), torch.float32, 8) == "generated (LLVM, 8 lanes)"
    assert GauntGrid().many_body(MANY).kernels.cuda is None  # whose chain is a kernel of its own


def test_code_that_takes_long_to_make_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_executor, "LONGEST", 1e-3)
    reason = r'making its code takes about \d+ s, above 0\.001 s; `backend="generated"` makes it'
    for method in (ClebschGordan(), GauntGrid()):
        assert re.search(rf"cpu float32: torch \({reason}\)", repr(method.convolution(SPEC)))
    assert "generated (LLVM" in ClebschGordan("generated").convolution(SPEC).kernel


@pytest.mark.parametrize("method", [ClebschGordan(), MatrixProduct(), GauntGrid(weights="degrees")])
def test_auto_makes_code_by_what_it_costs(method: ClebschGordan | MatrixProduct | GauntGrid) -> None:
    def kernel(highest: int, filters: int) -> str:
        high = natural_irreps(highest, 8)
        return str(method.convolution(TensorProductSpec(high, natural_irreps(filters), high)).kernel)

    for highest, filters in ((1, 3), (2, 3), (3, 3)):  # of MACE
        assert "generated (LLVM" in kernel(highest, filters)
    assert re.fullmatch(r"cpu float32: torch \(making its code takes about [\d,]+ s, above 10 s; .*\)", kernel(6, 6))


def test_copies_cost_as_much_as_products() -> None:
    high = natural_irreps(3, 8)
    spec = TensorProductSpec(high, natural_irreps(3), high)
    assert "generated (LLVM" in GauntGrid().convolution(spec).kernel
    assert "torch (making its code takes" in GauntGrid(copies=20).convolution(spec).kernel


def test_a_long_wait_for_code_is_announced_once_before_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_operator, "LONG", 1e-3)
    spec = TensorProductSpec("13x0e+13x1o", "0e+1o", "0e+1o")  # of no other test
    product = tensor_product(spec, ClebschGordan("generated"))
    with caplog.at_level("INFO", logger="equinet"):
        for _ in range(2):
            x = torch.ones(2, 4, 13, requires_grad=True)
            product(x, torch.ones(2, 4), torch.ones(2, product.weight_numel, 13)).sum().backward()
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert re.fullmatch(
        r"making machine code for the convolution 13x0e\+13x1o x 1x0e\+1x1o x 1x0e\+1x1o takes about \d+ s in all, once in a process; "
        r'`backend="torch"` of the tensor product needs none',
        record.getMessage(),
    )


def test_without_llvm_nor_triton_repr_gives_both_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvm, "unavailable", lambda: "no llvmlite")
    monkeypatch.setattr(tiles, "unavailable", lambda: "no Triton")
    for method in (ClebschGordan(), GauntGrid()):
        for role in ("convolution", "many_body"):
            assert "cpu float32: torch (no llvmlite; no Triton)" in repr(build(method, role))


def test_a_decomposition_has_kernels_on_cuda_only() -> None:
    if tiles.unavailable() is not None:
        pytest.skip(str(tiles.unavailable()))
    executor = CPDecomposed(rank=6, backend="generated").many_body(MANY)
    assert executor.kernels.describe(torch.device("cuda"), torch.float32, 8) == "generated (Triton)"
    with pytest.raises(ValueError, match=r"on cpu in float32: too many terms as polynomials; take"):
        executor(*inputs(executor, torch.float32))
    trained = CPDecomposed(rank=6, factors="trainable").many_body(MANY).kernels
    assert trained.describe(torch.device("cuda"), torch.float32, 8).startswith("torch (")


def test_executors_are_described_in_one_line() -> None:
    for method in (ClebschGordan(), GauntGrid(bracket=True), CPDecomposed(rank=6)):
        for role in ("convolution", "many_body"):
            executor = build(method, role)
            line = describe_executor(executor)
            assert line == f"{type(executor).__name__}, {executor.kernel}"
            assert "\n" not in line
    assert repr(ClebschGordan().convolution(SPEC)) == (
        f"GeneratedConvolution({SPEC}; cpu float32: generated (LLVM, 8 lanes))"
    )
    assert describe_executor(torch.nn.Identity()) == "Identity"  # one of other people, which does not say
