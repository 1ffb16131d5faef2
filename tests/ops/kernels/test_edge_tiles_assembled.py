"""What a compiler for GPUs makes of the edge kernels, on a machine without one: registers, spills, shuffled tiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="kernels for GPUs are written in Triton: pip install triton")

# In a process of its own, as Triton either compiles or interprets.
SCRIPT = """
import json, sys, torch
from equinet.ops import TensorProductSpec, natural_irreps
from equinet.ops.kernels import edge_kernels
from equinet.ops.kernels.couplings import name_of

def show(function, degree, dtype, rows, capability):
    spec = TensorProductSpec(natural_irreps(degree, 128), natural_irreps(3), natural_irreps(3))
    kernels, _ = edge_kernels.kernels_for(function, name_of(spec), getattr(torch, dtype), True, rows)
    worst = [0, 0, 0, 0]
    for kernel in kernels:
        made = kernel.assemble(capability)
        loop = made.texts["ttgir"].split("scf.for", 1)[1].split("scf.yield")[0]
        found = made.registers, made.spilled, made.shared, loop.count("ttg.convert_layout")
        worst = list(map(max, worst, found))
    return worst

print(json.dumps([show(*case) for case in json.loads(sys.argv[1])]))
"""


def assembled(*cases: tuple[str, int, str, int, int]) -> list[tuple[int, int, int, int]]:
    """Registers, spilled bytes, shared bytes and conversions within the inner loop, of every case's worst kernel."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", SCRIPT, json.dumps(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [tuple(made) for made in json.loads(done.stdout)]


@pytest.mark.parametrize("capability", [80, 90])
def test_sums_stay_in_registers_and_no_tile_is_shuffled(capability: int) -> None:
    """128 registers leave 16 warps to a multiprocessor, enough to hide what they wait for."""
    cases = [("forward", degree, "float32", rows, capability) for degree in (0, 1) for rows in (1, 4)]
    for case, (registers, spilled, shared, shuffled) in zip(cases, assembled(*cases), strict=True):
        assert registers <= 128, case
        assert spilled == shuffled == 0, case
        assert shared <= 1024, case


@pytest.mark.parametrize("capability", [80, 90])
def test_slopes_do_not_spill(capability: int) -> None:
    cases = [(function, 1, "float32", 1, capability) for function in ("tangent", "backward", "bend")]
    cases += [("backward", 2, "float32", 1, capability), ("forward", 2, "float64", 1, capability)]
    for case, (registers, spilled, _, shuffled) in zip(cases, assembled(*cases), strict=True):
        assert registers <= 255, case
        assert spilled == shuffled == 0, case
