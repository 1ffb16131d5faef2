"""Functions of the few numbers of a row, and their derivatives, as machine code and as kernels for GPUs.

``value``, ``gradient`` and ``double_backward`` of a function f are one sweep over the rows each: f(x); the gradient in x of g f(x); the gradients in g and,
if they are wanted, in x of a times that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equinet.ops.codegen import scalars
from equinet.ops.codegen.llvm import VECTOR_BYTES, Function, compile_function
from equinet.ops.codegen.once import once
from equinet.ops.codegen.scalars import Number, Program
from equinet.ops.codegen.threads import run_in_parts
from equinet.ops.codegen.tiles import Kernel, Writer, blocks, parameters

# Rows of a program on a GPU, and its warps.
ROWS, WARPS = 256, 4


class RowFunction(NamedTuple):
    """A function of a row of numbers.

    Attributes:
        width: Number of inputs.
        widths: Widths of the results, each an array.
        define: Makes steps of it: from the numbers to all results side by side.
    """

    width: int
    widths: tuple[int, ...]
    define: Callable[[list[Number]], list[Number]]

    @property
    def of_one(self) -> bool:
        """True if the function maps one number to one number."""
        return self.width == 1 and self.widths == (1,)

    @property
    def outputs(self) -> int:
        """Numbers in a row of all results."""
        return sum(self.widths)


class Sweep(NamedTuple):
    """Program of one sweep over a row: inputs, outputs, instructions.

    Attributes:
        name: For profilers.
        inputs: Width of every array, by name. Their numbers are inputs of the program, named after array and column.
        results: Numbers of every array, by name.
    """

    name: str
    inputs: dict[str, int]
    results: dict[str, list[Number]]

    @property
    def arrays(self) -> list[str]:
        return [*self.inputs, *self.results]


def sweep(function: RowFunction, what: str) -> Sweep:
    """``value``, ``gradient``, ``double_backward`` or, without gradients in x, ``double_backward_outputs``."""
    program = Program()

    def inputs(array: str, width: int) -> list[Number]:
        return [program.input(f"{array} {column}") for column in range(width)]

    x = inputs("x", function.width)
    values = function.define(x)
    if what == "value":
        return Sweep("row_value", {"x": function.width}, _split("out", values, function.widths))
    g = inputs("g", function.outputs)
    gradient = scalars.gradient(values, g, x)
    wide = {f"g{n}": width for n, width in enumerate(function.widths)}
    if what == "gradient":
        return Sweep("row_gradient", {**wide, "x": function.width}, {"dx": gradient})
    a = inputs("a", function.width)
    double_backward = scalars.gradient(gradient, a, [*g, *x] if what == "double_backward" else g)
    results = _split("dg", double_backward[: function.outputs], function.widths)
    if what == "double_backward":
        results["dx"] = double_backward[function.outputs :]
    return Sweep("row_double_backward", {"a": function.width, **wide, "x": function.width}, results)


def _split(name: str, numbers: list[Number], widths: Sequence[int]) -> dict[str, list[Number]]:
    found, begin = {}, 0
    for n, width in enumerate(widths):
        found[f"{name}{n}"] = numbers[begin : begin + width]
        begin += width
    return found


def _columns(sweep: Sweep) -> dict[str, tuple[str, int]]:
    """Array and column of every input of the program. Those of all g are numbered together."""
    found: dict[str, tuple[str, int]] = {}
    together = 0
    for array, width in sweep.inputs.items():
        for column in range(width):
            if array.startswith("g"):
                found[f"g {together}"] = array, column
                together += 1
            else:
                found[f"{array} {column}"] = array, column
    return found


def in_machine_code(sweep: Sweep, dtype: torch.dtype, lanes: int) -> Function:
    """A function for the rows ``begin`` to ``end`` in vectors of rows; the last vector may reach back to rows of the one before."""
    f = Function(sweep.name, ["count", *sweep.arrays], dtype, lanes)
    columns = _columns(sweep)
    operations: dict[str, Callable[..., Any]] = {
        "+": f.add,
        "-": f.subtract,
        "*": f.multiply,
        "sin": f.sine,
        "cos": lambda x: f.sine(x, ahead=1),
        "sqrt": f.square_root,
        "reciprocal": lambda x: f.divide(f.constants(1.0), x),
        "sigmoid": lambda x: f.divide(
            f.constants(1.0), f.add(f.constants(1.0), f.exponential(f.subtract(f.zero(), x)))
        ),
        "at_most_one": lambda x: f.where_at_least(x, 1.0, f.constants(1.0), x),
        "if_below_one": lambda x, y: f.where_at_least(x, 1.0, f.zero(), y),
    }
    results = [number for numbers in sweep.results.values() for number in numbers]
    last = f.at(f.load_integer("count", 0), -lanes)
    with f.loop(f.begin, f.end) as block:
        row = f.smaller(f.at((block, lanes)), last)
        value: dict[int, Any] = {}
        for place in results[0].program.needed(results):
            operation, arguments = results[0].program.steps[place]
            if operation == "input":
                array, column = columns[arguments[0]]
                value[place] = f.gather(array, f.at((row, sweep.inputs[array]), column), sweep.inputs[array])
            elif operation == "constant":
                value[place] = f.constants(arguments[0])
            else:
                value[place] = operations[operation](*(value[each] for each in arguments))
        for array, numbers in sweep.results.items():
            for column, number in enumerate(numbers):
                f.scatter(value[number.place], array, f.at((row, len(numbers)), column), len(numbers))
    return f


def in_kernel(sweep: Sweep, dtype: torch.dtype) -> Kernel:
    """The same for a GPU, for a grid of blocks of rows."""
    w, columns, name = Writer(), _columns(sweep), dict[int, str]()
    w(f"row = tl.program_id(0).to(tl.int64) * {ROWS} + tl.arange(0, {ROWS})")
    w("here = row < count")
    results = [number for numbers in sweep.results.values() for number in numbers]
    for place in results[0].program.needed(results):
        operation, arguments = results[0].program.steps[place]
        of = [name.get(each, "") for each in arguments]
        if operation == "input":
            array, column = columns[arguments[0]]
            text = f"tl.load({array} + (row * {sweep.inputs[array]} + {column}), mask=here, other=1.0)"
        elif operation == "constant":
            name[place] = repr(arguments[0])
            continue
        elif operation in "+-*":
            text = f"{of[0]} {operation} {of[1]}"
        elif operation == "sigmoid" and dtype == torch.float32:
            text = _sigmoid_in_float32(w, of[0])
        else:
            text = {
                "reciprocal": "1.0 / {0}",
                "sqrt": "tl.sqrt_rn({0})" if dtype == torch.float32 else "tl.sqrt({0})",
                "sigmoid": "1.0 / (1.0 + tl.exp(-{0}))",
                "at_most_one": "tl.where({0} >= 1.0, 1.0, {0})",
                "if_below_one": "tl.where({0} >= 1.0, 0.0, {1})",
            }.get(operation, f"tl.{operation}({{0}})").format(*of)
        name[place] = f"s{place}"
        w(f"{name[place]} = {text}")
    for array, numbers in sweep.results.items():
        for column, number in enumerate(numbers):
            w(f"tl.store({array} + (row * {len(numbers)} + {column}), {name[number.place]}, mask=here)")
    return Kernel(sweep.name, parameters((), sweep.arrays, "count"), dtype, w.text, warps=WARPS)


def _sigmoid_in_float32(w: Writer, x: str) -> str:
    """As :meth:`Function.exponential` has it: Triton's own exponential loses three bits far from zero."""
    w(f"e = tl.where({x} > 87.0, -87.0, tl.where({x} < -87.0, 87.0, -{x}))")
    w(f"n = tl.floor(e * {1 / math.log(2)!r} + 0.5)")
    w("r = (e - n * 0.693359375) + n * 2.12194440054690583e-4")
    w(f"p = r * {1 / math.factorial(7)!r} + {1 / math.factorial(6)!r}")
    for k in range(5, -1, -1):
        w(f"p = p * r + {1 / math.factorial(k)!r}")
    return "1.0 / (1.0 + p * tl.exp2(n))"


def in_torch(function: RowFunction, x: Tensor) -> list[Tensor]:
    """The values, step by step: slow, and differentiable to any order."""
    found = sweep(function, "value")
    results = [number for numbers in found.results.values() for number in numbers]
    operations: dict[str, Callable[..., Tensor]] = {
        "+": torch.add,
        "-": torch.sub,
        "*": torch.mul,
        "sin": torch.sin,
        "cos": torch.cos,
        "sqrt": torch.sqrt,
        "reciprocal": torch.reciprocal,
        "sigmoid": torch.sigmoid,
        "at_most_one": lambda x: torch.where(x >= 1, torch.ones_like(x), x),
    }
    columns = [x] if function.of_one else x.unbind(1)
    value: dict[int, Tensor] = {}
    for place in results[0].program.needed(results):
        operation, arguments = results[0].program.steps[place]
        if operation == "input":
            value[place] = columns[int(arguments[0].split()[1])]
        elif operation == "constant":
            value[place] = torch.full_like(columns[0], arguments[0])
        else:
            value[place] = operations[operation](*(value[each] for each in arguments))
    if function.of_one:
        return [value[results[0].place]]
    return [
        torch.stack([value[number.place] for number in numbers], 1) if numbers else x.new_empty(x.shape[0], 0)
        for numbers in found.results.values()
    ]


@once
def _code_for(function: RowFunction, what: str, dtype: torch.dtype, lanes: int) -> Any:
    return compile_function(in_machine_code(sweep(function, what), dtype, lanes))


@once
def kernel_for(function: RowFunction, what: str, dtype: torch.dtype) -> Kernel:
    """One of the sweeps for a GPU."""
    return in_kernel(sweep(function, what), dtype)


def run(
    function: RowFunction, what: str, count: int, inputs: Sequence[Tensor], results: Sequence[Tensor], on_tiles: bool
) -> None:
    """One of the sweeps of ``count`` rows, of contiguous arrays."""
    dtype = inputs[0].dtype
    if not count:
        return
    if on_tiles:
        kernel_for(function, what, dtype)((blocks(count, ROWS),), *inputs, *results, count)
        return
    lanes = VECTOR_BYTES // dtype.itemsize if count * dtype.itemsize >= VECTOR_BYTES else 1
    arrays = [torch.tensor([count], device="cpu"), *inputs, *results]
    run_in_parts(_code_for(function, what, dtype, lanes), blocks(count, lanes), arrays, smallest=64)
