"""What a compiler for GPUs makes of the edge kernels, on a machine without one: registers, spills, shuffled tiles."""

from __future__ import annotations

import pytest
import torch
from assembling import assemble, tiles_as_on_a_gpu

from equinet.ops import TensorProductSpec, natural_irreps
from equinet.ops.kernels.edge import gpu as edge_gpu
from equinet.ops.kernels.edge.couplings import name_of

pytest.importorskip("triton", reason="kernels for GPUs are written in Triton: pip install triton")


def assembled(*cases: tuple[str, int, str, int, int]) -> list[tuple[int, int, int, int]]:
    """Registers, spilled bytes, shared bytes and conversions within the inner loop, of every case's worst kernel."""
    found = []
    for function, degree, dtype, rows, capability in cases:
        spec = TensorProductSpec(natural_irreps(degree, 128), natural_irreps(3), natural_irreps(3))
        with tiles_as_on_a_gpu():
            kernels, _ = edge_gpu.kernels_for(function, name_of(spec), getattr(torch, dtype), True, rows)
        made = [assemble(kernel, capability) for kernel in kernels]
        numbers = [(each.registers, each.spilled, each.shared, each.looped) for each in made]
        found.append(tuple(map(max, *numbers, (0, 0, 0, 0))))
    return found


@pytest.mark.parametrize("capability", [80, 90])
def test_sums_stay_in_registers_and_no_tile_is_shuffled(capability: int) -> None:
    """128 registers leave 16 warps to a multiprocessor, enough to hide what they wait for."""
    cases = [("forward", degree, "float32", rows, capability) for degree in (0, 1) for rows in (1, 4)]
    for case, (registers, spilled, shared, shuffled) in zip(cases, assembled(*cases), strict=True):
        assert registers <= 128, case
        assert spilled == shuffled == 0, case
        assert shared <= 1024, case


@pytest.mark.parametrize("capability", [80, 90])
def test_gradients_do_not_spill(capability: int) -> None:
    cases = [(function, 1, "float32", 1, capability) for function in ("jvp", "backward", "double_backward")]
    cases += [("backward", 2, "float32", 1, capability), ("forward", 2, "float64", 1, capability)]
    for case, (registers, spilled, _, shuffled) in zip(cases, assembled(*cases), strict=True):
        assert registers <= 255, case
        assert spilled == shuffled == 0, case
