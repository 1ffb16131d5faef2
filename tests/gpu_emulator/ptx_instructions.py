"""The instructions of the machine in :mod:`ptx`: a table of patterns of names, and what each makes of its operands.

A rule is given the machine, the match of its pattern and the operands, and returns the destinations and a function that computes
what is written to them; where something goes wrong the function raises, or the machine when it reads the operands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ptx import Machine

Array = np.ndarray[Any, Any]
Group = Any  # index of the programs that go: all, or some of them
Read = Callable[[Group], Array]
# Of the programs that go and of the guard, an array or None: what to write to the destinations.
Rule = tuple[Sequence[str], Callable[[Group, Any], Sequence[Array]]]

TYPES: dict[str, Any] = {"pred": np.dtype(bool)}
TYPES |= {f"{kind}{8 * size}": np.dtype(f"u{size}") for kind in "bu" for size in (1, 2, 4, 8)}
TYPES |= {f"s{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)} | {
    "f32": np.dtype("f4"),
    "f64": np.dtype("f8"),
}
T = "([bus](?:8|16|32|64)|f32|f64|pred)"

RULES: list[tuple[str, Callable[[Machine, Any, list[str]], Rule]]] = []


def rule(pattern: str) -> Callable[[Any], Any]:
    """Enter a function for instructions with such names."""

    def enter(function: Any) -> Any:
        RULES.append((pattern, function))
        return function

    return enter


def names_in(operand: str) -> list[str]:
    """Of one register, or of several in braces."""
    return [each.strip() for each in operand.strip("{}").split(",")]


def divide(a: Array, b: Array) -> Array:
    if a.dtype.kind != "i":
        return a / b if a.dtype.kind == "f" else a // np.maximum(b, 1)
    quotient = np.abs(a) // np.maximum(np.abs(b), 1)
    return np.where((a < 0) != (b < 0), -quotient, quotient)


def high_half(a: Array, b: Array) -> Array:
    """Of the product of two numbers."""
    if a.dtype.itemsize == 4:
        double = np.dtype(f"{a.dtype.kind}8")
        return (a.astype(double) * b.astype(double) >> double.type(32)).astype(a.dtype)
    if a.dtype.kind == "i":
        whole = high_half(a.view(np.uint64), b.view(np.uint64)).view(np.int64)
        return whole - np.where(a < 0, b, 0) - np.where(b < 0, a, 0)
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    middle = (a >> half) * (b & low) + ((a & low) * (b & low) >> half)
    return (a >> half) * (b >> half) + (middle >> half) + ((a & low) * (b >> half) + (middle & low) >> half)


OF_ONE: dict[str, Any] = {
    "neg": np.negative,
    "abs": np.abs,
    "not": np.invert,
    "sqrt": np.sqrt,
    "rcp": np.reciprocal,
    "ex2": np.exp2,
}
OF_TWO: dict[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "mul.lo": np.multiply,
    "mul.hi": high_half,
    "div": divide,
    "min": np.fmin,
    "max": np.fmax,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
COMPARE: dict[str, Any] = {
    "eq": np.equal,
    "ne": lambda a, b: (a < b) | (a > b),
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
}


@rule(rf"(neg|abs|not|sqrt|rcp|ex2)(?:\.rn|\.approx)?(?:\.ftz)?\.{T}")
def one(m: Machine, found: Any, operands: list[str]) -> Rule:
    read = m.reader(operands[1], found[2])
    return operands[:1], lambda g, _: [OF_ONE[found[1]](read(g))]


@rule(rf"(add|sub|mul|mul\.lo|div|min|max|and|or|xor)(?:\.rn|\.full)?(?:\.ftz)?\.{T}|(mul\.hi)\.([us](?:32|64))")
def two(m: Machine, found: Any, operands: list[str]) -> Rule:
    a, b = m.readers(operands[1:], found[2] or found[4])
    function = OF_TWO[found[1] or found[3]]
    return operands[:1], lambda g, _: [function(a(g), b(g))]


@rule(r"(mul|mad)\.wide\.([us](?:16|32))")
def wide(m: Machine, found: Any, operands: list[str]) -> Rule:
    a, b = m.readers(operands[1:3], found[2])
    double = f"{found[2][0]}{2 * int(found[2][1:])}"
    c = m.reader(operands[3] if found[1] == "mad" else "0", double)
    return operands[:1], lambda g, _: [a(g).astype(TYPES[double]) * b(g).astype(TYPES[double]) + c(g)]


@rule(rf"mad\.lo\.{T}|fma\.rn(?:\.ftz)?\.(f32|f64)")
def multiply_and_add(m: Machine, found: Any, operands: list[str]) -> Rule:
    """In float64 this rounds twice."""
    a, b, c = m.readers(operands[1:], found[1] or found[2])
    if found[2] != "f32":
        return operands[:1], lambda g, _: [a(g) * b(g) + c(g)]
    return operands[:1], lambda g, _: [(a(g).astype(float) * b(g) + c(g)).astype(np.float32)]


@rule(r"(shl|shr)\.([bus])(16|32|64)")
def shift(m: Machine, found: Any, operands: list[str]) -> Rule:
    bits = int(found[3])
    a, by = m.reader(operands[1], found[2] + found[3]), m.reader(operands[2], "u32")

    def compute(g: Group, _: Any) -> list[Array]:
        value, places = a(g), by(g).astype(TYPES[found[2] + found[3]])
        some = (np.left_shift if found[1] == "shl" else np.right_shift)(value, np.minimum(places, bits - 1))
        return [some if found[2] == "s" else np.where(places < bits, some, 0).astype(value.dtype)]

    return operands[:1], compute


@rule(r"bfe\.([us])32")
def cut_out(m: Machine, found: Any, operands: list[str]) -> Rule:
    a, first, length = m.reader(operands[1], found[1] + "32"), *m.readers(operands[2:], "u32")

    def compute(g: Group, _: Any) -> list[Array]:
        count = length(g).astype(np.int64)
        part = (a(g).astype(np.int64) >> first(g)) & ((1 << count) - 1)
        if found[1] == "s":
            part -= ((part >> (count - 1)) & 1) << count
        return [part.astype(np.uint32)]

    return operands[:1], compute


@rule(r"mov\.([bu](?:16|32|64)|f32|f64|pred)")
def move(m: Machine, found: Any, operands: list[str]) -> Rule:
    if operands[0].startswith("{"):
        names, bits = names_in(operands[0]), TYPES[found[1]].itemsize * 8
        whole, part = m.reader(operands[1], f"u{bits}"), TYPES[f"u{bits // len(names)}"]
        return names, lambda g, _: [(whole(g) >> n * bits // len(names)).astype(part) for n in range(len(names))]
    if operands[1].startswith("{"):
        names, whole_type = names_in(operands[1]), TYPES[found[1]]
        bits = whole_type.itemsize * 8 // len(names)
        parts = m.readers(names, f"u{bits}")
        return operands[:1], lambda g, _: [
            reduce(np.bitwise_or, [read(g).astype(whole_type) << n * bits for n, read in enumerate(parts)])
        ]
    read = m.reader(operands[1], found[1])
    return operands[:1], lambda g, _: [read(g)]


@rule(rf"selp\.{T}")
def select(m: Machine, found: Any, operands: list[str]) -> Rule:
    a, b = m.readers(operands[1:3], found[1])
    condition = m.reader(operands[3], "pred")
    return operands[:1], lambda g, _: [np.where(condition(g), a(g), b(g))]


@rule(rf"setp\.({'|'.join(COMPARE)})(?:\.ftz)?\.{T}")
def compare(m: Machine, found: Any, operands: list[str]) -> Rule:
    a, b = m.readers(operands[1:], found[2])
    return operands[:1], lambda g, _: [COMPARE[found[1]](a(g), b(g))]


@rule(r"cvta\.(?:to\.global|to\.shared|local)\.u64")
def same_address(m: Machine, found: Any, operands: list[str]) -> Rule:
    read = m.reader(operands[1], "u64")
    return operands[:1], lambda g, _: [read(g)]


@rule(rf"cvt(?:\.(rn|rni|rzi|rmi))?(?:\.ftz)?\.{T}\.{T}")
def convert(m: Machine, found: Any, operands: list[str]) -> Rule:
    """To the nearest number, or the nearest integer, the next towards zero or the next below."""
    read, dtype = m.reader(operands[1], found[3]), TYPES[found[2]]
    rounded = {"rni": np.rint, "rmi": np.floor}.get(found[1], np.asarray)
    return operands[:1], lambda g, _: [rounded(read(g)).astype(dtype)]


def to_bf16(value: Array) -> Array:
    """Upper halves, rounded to even."""
    bits = value.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


@rule(r"cvt\.rna\.tf32\.f32|cvt\.rn\.(bf16|bf16x2)\.f32|cvt\.(f32)\.bf16")
def convert_short(m: Machine, found: Any, operands: list[str]) -> Rule:
    if found[2]:
        (read,) = m.readers(operands[1:], "u16")
        return operands[:1], lambda g, _: [read(g).astype(np.uint32) << 16]
    if found[1]:
        parts = m.readers(operands[:0:-1], "f32")  # the last is the lowest
        return operands[:1], lambda g, _: [
            reduce(np.bitwise_or, [to_bf16(read(g)).astype(np.uint32) << 16 * n for n, read in enumerate(parts)])
        ]
    (read,) = m.readers(operands[1:], "u32")
    return operands[:1], lambda g, _: [(read(g) + 0x1000) & 0xFFFFE000]


# Among the threads of a warp.


@rule(r"shfl\.sync\.(up|down|bfly|idx)\.b32")
def shuffle(m: Machine, found: Any, operands: list[str]) -> Rule:
    value, by, limits = m.readers(operands[1:4], "u32")
    lane = np.arange(32)

    def compute(g: Group, _: Any) -> list[Array]:
        warps, b, c = (m.spread(g, read(g)).reshape(-1, 32) for read in (value, by, limits))
        b, segment, last = b.astype(int) & 31, c >> 8 & 31, c & 31
        end = (lane & segment) | (last & ~segment)
        source = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": (lane & segment) | (b & ~segment)}[
            found[1]
        ]
        source = np.where(source >= end if found[1] == "up" else source <= end, source, lane)
        return [np.take_along_axis(warps, source.astype(int), axis=1).reshape(-1, m.threads)]

    return operands[:1], compute


@rule(r"mma\.sync\.aligned\.m(8|16)n8k(\d+)\.row\.col\.(f32|f64)\.(tf32|bf16|f64)\.\4\.\3")
def multiply_matrices(m: Machine, found: Any, operands: list[str]) -> Rule:
    """A B + C. Tensor cores ignore the last 13 bits of what should be tf32."""
    height, depth, kind = int(found[1]), int(found[2]), found[4]
    a, b = (m.readers(names_in(each), "f64" if kind == "f64" else "u32") for each in operands[1:3])
    c = m.readers(names_in(operands[3]), found[3])
    lane = np.arange(32)
    group, thread = lane // 4, lane % 4
    packed = 2 if kind == "bf16" else 1

    def parts(value: Array) -> list[Array]:
        if kind == "f64":
            return [value]
        if kind == "tf32":
            return [(value & 0xFFFFE000).view(np.float32)]
        return [(value << 16).view(np.float32), (value & 0xFFFF0000).view(np.float32)]

    def compute(g: Group, _: Any) -> list[Array]:
        warps = len(m.thread[g]) * m.threads // 32
        A, B, C = np.zeros((warps, height, depth)), np.zeros((warps, depth, 8)), np.zeros((warps, height, 8))
        halves = height // 8
        for n, read in enumerate(a):
            for k, value in enumerate(parts(m.spread(g, read(g)))):
                A[:, group + 8 * (n % halves), packed * (thread + 4 * (n // halves)) + k] = value.reshape(-1, 32)
        for n, read in enumerate(b):
            for k, value in enumerate(parts(m.spread(g, read(g)))):
                B[:, packed * (thread + 4 * n) + k, group] = value.reshape(-1, 32)
        for n, read in enumerate(c):
            C[:, group + 8 * (n // 2), 2 * thread + n % 2] = m.spread(g, read(g)).reshape(-1, 32)
        D = (A @ B + C).astype(TYPES[found[3]])
        return [D[:, group + 8 * (n // 2), 2 * thread + n % 2].reshape(-1, m.threads) for n in range(len(c))]

    return names_in(operands[0]), compute
