"""Which kernel runs is chosen when a product is built, shown, and never silently another one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from equinet.ops import ClebschGordan, ManyBodySpec, TensorProductSpec, natural_irreps
from equinet.ops.codegen import llvm, tiles
from equinet.ops.kernels.edge.executor import GeneratedConvolution
from equinet.ops.kernels.edge.reference import EdgeMatrixConvolution
from equinet.ops.kernels.node.reference import HornerManyBody

SPEC = TensorProductSpec("8x0e+8x1o", "0e+1o", "0e+1o")
MANY = ManyBodySpec("8x0e+8x1o", "8x0e", 2, 1)


def test_machine_code_is_chosen_where_it_can_be_made() -> None:
    assert llvm.unavailable() is None
    for backend in ("auto", "generated"):
        assert repr(ClebschGordan(backend).convolution(SPEC)).startswith("GeneratedConvolution")
        assert repr(ClebschGordan(backend).many_body(MANY)).startswith("GeneratedManyBody")


def test_without_llvm_auto_is_torch_and_an_explicit_request_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (llvm,):
        monkeypatch.setattr(module, "unavailable", lambda: "llvmlite cannot be imported; `pip install llvmlite`")
    monkeypatch.setattr(tiles, "unavailable", lambda: "nor can Triton")
    assert type(ClebschGordan().convolution(SPEC)) is EdgeMatrixConvolution
    assert type(ClebschGordan().many_body(MANY)) is HornerManyBody
    with pytest.raises(ValueError, match='`backend` "generated" cannot run here: llvmlite cannot be imported; `pip'):
        ClebschGordan("generated")


def test_what_would_take_minutes_to_make_is_left_to_torch_unless_asked_for() -> None:
    high = natural_irreps(6)
    spec = TensorProductSpec(high, high, high)
    assert type(ClebschGordan().convolution(spec)) is EdgeMatrixConvolution
    assert type(ClebschGordan("generated").convolution(spec)) is GeneratedConvolution


@pytest.mark.parametrize(
    ("channels", "dtype", "lanes"),
    [
        (64, torch.float32, 16),
        (64, torch.float64, 8),
        (24, torch.float32, 8),
        (10, torch.float32, 2),
        (7, torch.float64, 1),
    ],
)
def test_vectors_divide_the_channels(channels: int, dtype: torch.dtype, lanes: int) -> None:
    assert llvm.lanes_for(channels, dtype) == lanes


def test_machine_code_from_the_disk_computes_the_same_and_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUINET_CACHE", str(tmp_path))
    monkeypatch.setattr(llvm, "WORTHWHILE", 0.0)

    def doubled() -> list[float]:
        f = llvm.Function("doubled", ["x", "out"], torch.float64, 2)
        with f.loop(f.begin, f.end) as n:
            place = f.at((n, 2))
            x = f.load("x", place)
            f.store(f.add(x, x), "out", place)
        x, out = torch.arange(4.0, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        llvm.compile_function(f, lambda: made.append(1))(0, 2, x.data_ptr(), out.data_ptr())
        return out.tolist()

    made: list[int] = []
    assert doubled() == [0, 2, 4, 6]
    assert len(list(tmp_path.glob("machine_code-*"))) == len(made) == 1
    assert doubled() == [0, 2, 4, 6]
    assert len(made) == 1
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)  # damaged code is not run
    assert doubled() == [0, 2, 4, 6]
    assert len(made) == 2
    monkeypatch.setattr(llvm, "processor", lambda: "x86-64")  # another processor has code of its own
    assert doubled() == [0, 2, 4, 6]
    assert len(made) == 3
