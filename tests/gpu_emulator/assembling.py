"""What a compiler for GPUs makes of kernels, on a machine without one, and a block in which kernels run as what it made.

All compiling is done by one process, as Triton either compiles or interprets in a process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from ptx import Machine
from torch import Tensor

from equinet.ops.codegen import tiles
from equinet.ops.codegen.tiles import Kernel

SCRIPT = """
import json, sys, traceback, torch
from equinet.ops.codegen.tiles import Kernel

def assemble(name, parameters, dtype, source, warps, capability):
    kernel = Kernel(name, parameters, getattr(torch, dtype), source.split("\\n", 3)[3].removesuffix("\\n"), warps=warps)
    assert kernel.source == source, kernel.source
    made = kernel.assemble(capability)
    loop = made.texts["ttgir"].partition("scf.for")[2].split("scf.yield")[0].count("ttg.convert_layout")
    return made.registers, made.spilled, made.shared, made.conversions, loop, made.texts["ptx"]

for line in sys.stdin:
    try:
        found = assemble(*json.loads(line))
    except Exception:
        found = traceback.format_exc()
    print(json.dumps(found), flush=True)
"""


class Assembled(NamedTuple):
    """What a compiler made of a kernel.

    Attributes:
        registers: Of a thread.
        spilled: Bytes of a thread that did not fit into registers.
        shared: Bytes of shared memory of a program.
        conversions: How often tiles change their places among threads.
        looped: How often in the first loop.
        ptx: The text.
    """

    registers: int
    spilled: int
    shared: int
    conversions: int
    looped: int
    ptx: str


@cache
def _compiler() -> subprocess.Popen[str]:
    """It ends with its input, when this process does."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        cwd=Path(tiles.__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def assemble(kernel: Kernel, capability: int) -> Assembled:
    """Compile a kernel for GPUs of a capability, 80 or 90, unless that was done before."""
    dtype = str(kernel.dtype).removeprefix("torch.")
    return _assemble(kernel.name, tuple(kernel.parameters.items()), dtype, kernel.source, kernel.warps, capability)


@cache
def _assemble(
    name: str, parameters: tuple[tuple[str, str], ...], dtype: str, source: str, warps: int, capability: int
) -> Assembled:
    process = _compiler()
    assert process.stdin is not None
    assert process.stdout is not None
    print(json.dumps([name, dict(parameters), dtype, source, warps, capability]), file=process.stdin, flush=True)
    found = json.loads(process.stdout.readline())
    assert isinstance(found, list), found
    return Assembled(*found)


@contextmanager
def tiles_as_on_a_gpu() -> Iterator[None]:
    """Forget, before and after, the kernels that were written: those for the interpreter have other tiles."""

    def forget() -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith("equinet.") and vars(module).get("Kernel") is Kernel:
                for each in vars(module).values():
                    getattr(each, "cache_clear", lambda: None)()

    assert not tiles.interpreting()
    forget()
    try:
        yield
    finally:
        forget()


@contextmanager
def emulated(capability: int) -> Iterator[list[str]]:
    """Run kernels on CPU tensors in this block as a GPU of a capability would: compiled, by the machine of :mod:`ptx`.

    New memory is not a number until it is written. Gives the names of the kernels that ran.
    """
    ran: list[str] = []

    def run(self: Kernel, grid: Sequence[int], *arguments: Tensor | int) -> None:
        if not all(grid):
            return
        ran.append(self.name)
        assert all(each.is_contiguous() for each in arguments if isinstance(each, Tensor))
        made = assemble(self, capability)
        values = [each.detach().numpy() if isinstance(each, Tensor) else each for each in arguments]
        Machine(made.ptx, grid, values, made.shared).run()

    def runs_on(*tensors: Tensor) -> bool:
        return not tiles.formulas_only() and all(each.dtype in tiles.TYPES for each in tensors)

    before = torch.are_deterministic_algorithms_enabled()
    with pytest.MonkeyPatch.context() as patch, tiles_as_on_a_gpu():
        patch.setattr(tiles, "runs_on", runs_on)
        patch.setattr(Kernel, "__call__", run)
        torch.use_deterministic_algorithms(True)  # which fills new memory
        try:
            yield ran
        finally:
            torch.use_deterministic_algorithms(before)
