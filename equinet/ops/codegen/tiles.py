"""Kernels for GPUs, written as Triton source at run time. Nothing else in the package imports Triton.

A kernel is text that :class:`Writer` makes from lists of couplings: straight-line code on tiles of rows by channels, whose sizes are
written into it. Triton reads it as it reads a file, so no file is made.
"""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from equinet.ops.precision import formulas_only

# What a kernel is given: numbers in the kernel's precision, int64 numbers, or a size.
Kind = Literal["numbers", "integers", "size"]
TYPES = {torch.float32: "fp32", torch.float64: "fp64"}

# Rows of a tile in the interpreter, whose cost is per operation, whatever their number.
ROWS_INTERPRETED = 64

_interpreted = False


@cache
def unavailable() -> str | None:
    """Reason why there are no GPU kernels here; None if there are."""
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported ({error}); it comes with torch's builds for CUDA, or: pip install triton"
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    return None if version >= (3, 4) else f"Triton {triton.__version__} is too old; 3.4 or newer is needed (torch 2.8)"


def runs_on(*tensors: Tensor) -> bool:
    """True if kernels can be given these tensors."""
    return (
        not formulas_only()
        and all(
            (each.is_cuda or (_interpreted and each.device.type == "cpu")) and each.dtype in TYPES for each in tensors
        )
        and (unavailable() is None)
    )


def interpreting() -> bool:
    """True if kernels are run by Triton's interpreter at the moment."""
    return _interpreted


@contextmanager
def interpreted() -> Iterator[None]:
    """Run kernels on CPU tensors in this block, by Triton's interpreter: slow, for tests.

    Raises:
        RuntimeError: If Triton was imported without ``TRITON_INTERPRET=1`` in the environment.
    """
    global _interpreted
    from triton.runtime.interpreter import InterpretedFunction

    if not isinstance(Kernel("probe", {}, torch.float32, "    pass", warps=1).function, InterpretedFunction):
        raise RuntimeError("set TRITON_INTERPRET=1 before Triton is imported to run kernels by its interpreter")
    _interpreted, before = True, _interpreted
    try:
        yield
    finally:
        _interpreted = before


class Tile(NamedTuple):
    """Shape of a tile.

    Attributes:
        rows: Edges side by side.
        channels: Channels side by side, a power of two.
        warps: Warps of the program.
    """

    rows: int
    channels: int
    warps: int


def tile_for(channels: int, rows: int) -> Tile:
    """A tile with one number per thread: a warp for 32 channels of an edge, or for several edges of fewer channels."""
    width = min(32, 1 << (channels - 1).bit_length())
    if _interpreted:
        return Tile(ROWS_INTERPRETED, width, 1)
    return Tile(rows * 32 // width, width, rows)


def blocks(number: int, size: int) -> int:
    """Number of blocks of ``size`` in ``number``."""
    return -(-number // size)


def parameters(integers: Sequence[str], numbers: Sequence[str], size: str) -> dict[str, Kind]:
    """Parameters of a kernel in their order."""
    kinds: dict[str, Kind] = dict.fromkeys(integers, "integers")
    kinds.update(dict.fromkeys(numbers, "numbers"))
    kinds[size] = "size"
    return kinds


class Writer:
    """Lines of Python, indented by blocks."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 1

    def __call__(self, line: str) -> None:
        self._lines.append("    " * self._depth + line)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """A loop or condition around what is written inside."""
        self(head)
        self._depth += 1
        yield
        self._depth -= 1

    def add(self, name: str, value: str, begun: set[str], sign: int = 1) -> None:
        """``name += value`` (or -=), where names that are not ``begun`` start here."""
        if name in begun:
            self(f"{name} {'+' if sign > 0 else '-'}= {value}")
        else:
            self(f"{name} = {value}" if sign > 0 else f"{name} = -({value})")
            begun.add(name)

    @property
    def text(self) -> str:
        return "\n".join(self._lines)


class Memory:
    """Loads and stores of numbers, as text of a kernel.

    By instructions and not by ``tl.load`` and ``tl.store``: for every one of those Triton (3.7) looks at all that depends on anything
    that it depends on, which in straight-line code is everything, and would take three to ten times as long to compile.

    Pointers have the full shape of the tile they are used in: of what has another, Triton loads copies for several shapes. They point
    at something that is there, also beyond the last row or channel, so loads need no mask. Stores need one only where it would
    be wrong that several threads write the same: where that is added to what is there.

    A load stays where it is written; outside of a loop, all that it loads would have to be kept. Memory that a kernel has written
    may be read by none but the thread that wrote it.

    Args:
        dtype: float32, float64 or int64.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._type, self._register = {
            torch.float32: ("f32", "f"),
            torch.float64: ("f64", "d"),
            torch.int64: ("b64", "l"),
        }[dtype]
        self._by_instruction = not interpreting() and torch.version.hip is None

    def load(self, pointers: str, offset: int = 0) -> str:
        """Load the numbers ``offset`` places after ``pointers``."""
        if not self._by_instruction:
            return f"tl.load({pointers} + {offset})"
        code = f"'ld.global.{self._type} $0, [$1 + {offset * self.dtype.itemsize}];', '={self._register},l'"
        kind = f"dtype=tl.{str(self.dtype).removeprefix('torch.')}, is_pure=False, pack=1"
        return f"tl.inline_asm_elementwise({code}, [{pointers}], {kind})"

    def store(self, pointers: str, offset: int, value: str, mask: str | None = None) -> str:
        """The line that puts a value there, where a mask is true; pointers have a tile's full shape."""
        if not self._by_instruction:
            return f"tl.store({pointers} + {offset}, {value}" + (f", mask={mask})" if mask else ")")
        store = f"st.global.{self._type} [$1 + {offset * self.dtype.itemsize}], $2;"
        if mask:
            store = f"{{ .reg .pred there; setp.ne.s32 there, $3, 0; @there {store} }}"
        # It must have a result. Pointers and numbers do not go together, unless pointers are numbers too.
        code = f"'{store} mov.b32 $0, 0;', '=r,l,{self._register}{',r' if mask else ''}'"
        inputs = f"[{pointers}.to(tl.int64), {value}{f', ({mask}).to(tl.int32)' if mask else ''}]"
        return f"tl.inline_asm_elementwise({code}, {inputs}, dtype=tl.int32, is_pure=False, pack=1)"


class Assembly(NamedTuple):
    """Assembly of a compiled kernel, with its registers and spills.

    Attributes:
        registers: Registers of a thread, 255 at most.
        spilled: Bytes of a thread that did not fit into registers.
        shared: Bytes of shared memory of a program.
        conversions: Number of times that tiles change places among threads, each through shared memory or shuffles.
        texts: Every stage by name, ``"ttgir"``, ``"ptx"``, ...
    """

    registers: int
    spilled: int
    shared: int
    conversions: int
    texts: Mapping[str, Any]


class Kernel:
    """A kernel from its source.

    Args:
        name: For profilers.
        parameters: Names and kinds of its arguments.
        dtype: Dtype of its numbers.
        body: Lines of Python that use the parameters, ``tl``, and ``number`` (the type of its numbers).
        warps: Threads of a program, in units of 32.
    """

    def __init__(self, name: str, parameters: Mapping[str, Kind], dtype: torch.dtype, body: str, *, warps: int) -> None:
        import triton
        from triton import language

        self.name, self.parameters, self.dtype, self.warps = name, dict(parameters), dtype, warps
        sizes = [each for each, kind in parameters.items() if kind == "size"]
        self.source = (
            f"@triton.jit(do_not_specialize={sizes})\ndef {name}({', '.join(parameters)}):\n"
            f"    number: tl.constexpr = tl.{str(dtype).removeprefix('torch.')}\n{body}\n"
        )
        place = f"<equinet kernel {name} {hashlib.sha256(self.source.encode()).hexdigest()[:12]}>"
        linecache.cache[place] = (len(self.source), None, self.source.splitlines(keepends=True), place)
        names: dict[str, Any] = {"triton": triton, "tl": language, "__name__": "equinet.ops.generated"}
        exec(compile(self.source, place, "exec"), names)  # text from our own tables, as in `dataclasses`
        self.function = names[name]

    def __call__(self, grid: Sequence[int], *arguments: Tensor | int) -> None:
        """Run ``grid`` programs; tensors must be contiguous and on one device."""
        if not all(grid):
            return
        device = next(each.device for each in arguments if isinstance(each, Tensor))
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self.function[tuple(grid)](*arguments, num_warps=self.warps)

    def assemble(self, capability: int) -> Assembly:
        """Compile for a GPU that need not be there, e.g. 80 or 90."""
        import subprocess
        import tempfile
        from pathlib import Path

        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        types = {"numbers": f"*{TYPES[self.dtype]}", "integers": "*i64", "size": "i32"}
        signature = {name: types[kind] for name, kind in self.parameters.items()}
        aligned: Any = {
            (n,): [["tt.divisibility", 16]] for n, kind in enumerate(self.parameters.values()) if kind != "size"
        }
        compiled = triton.compile(
            ASTSource(self.function, signature, attrs=aligned),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": self.warps},
        )
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            command = [str(tool), "--dump-resource-usage", file.name]
            usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = dict(item.split(":") for item in usage.split() if item.count(":") == 1 and item.split(":")[1].isdigit())
        return Assembly(
            int(found["REG"]),
            int(found["STACK"]) + int(found.get("LOCAL", 0)),
            compiled.metadata.shared,
            compiled.asm["ttgir"].count("ttg.convert_layout"),
            compiled.asm,
        )
