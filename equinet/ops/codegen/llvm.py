"""Machine code for the processor at hand, written as loops over vectors of channels: the only file that knows LLVM."""

from __future__ import annotations

import ctypes
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from equinet.ops.cache import cached
from equinet.ops.codegen.once import once
from equinet.ops.precision import formulas_only

try:
    from llvmlite import binding, ir
except ImportError as error:  # optional on platforms without a wheel; `unavailable` passes the reason on
    _reason: str | None = f"llvmlite cannot be imported ({error}); `pip install llvmlite`"
else:
    _reason = None

VECTOR_BYTES = 64
# Seconds; machine code that is made faster is not kept on the disk.
WORTHWHILE = 0.03
DTYPES = (torch.float32, torch.float64)

Value = Any  # an LLVM value; llvmlite has no types


def unavailable() -> str | None:
    """Reason why no machine code can be generated here; None if it can."""
    return _reason


def runs_on(values: torch.Tensor) -> bool:
    """True if machine code can work on ``values``: on the CPU, in float32 or float64, unless formulas alone are asked for."""
    return values.device.type == "cpu" and values.dtype in DTYPES and _reason is None and not formulas_only()


def lanes_for(channels: int, dtype: torch.dtype) -> int:
    """Channels worked on at a time: as many as a vector of 64 bytes holds, less if they do not divide ``channels``."""
    lanes = VECTOR_BYTES // dtype.itemsize
    while channels % lanes:
        lanes //= 2
    return lanes


class Function:
    """One function under construction: straight-line arithmetic on vectors of channels inside counted loops.

    It works on the items ``begin`` to ``end`` of something, so that several threads may share a call; all other arguments are
    pointers, to numbers of ``dtype`` or to int64, no two of them to the same memory.

    Args:
        name: Name of the function.
        pointers: Names of the arguments after ``begin`` and ``end``.
        dtype: float32 or float64.
        lanes: Length of a vector.
    """

    def __init__(self, name: str, pointers: Sequence[str], dtype: torch.dtype, lanes: int) -> None:
        self.name, self.dtype, self.lanes = name, dtype, lanes
        self.integer_type = ir.IntType(64)
        self.real = ir.FloatType() if dtype == torch.float32 else ir.DoubleType()
        self.vector_type = ir.VectorType(self.real, lanes)
        self.module = ir.Module(name)
        types = [self.integer_type] * 2 + [ir.PointerType()] * len(pointers)
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), types), name)
        for argument in function.args[2:]:
            argument.add_attribute("noalias")
        self.begin, self.end = function.args[:2]
        self.pointer: dict[str, Value] = dict(zip(pointers, function.args[2:]))
        self._entry = function.append_basic_block("entry")
        self._builder = ir.IRBuilder(function.append_basic_block("body"))
        self._zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)

    def finish(self) -> str:
        """The function as LLVM assembly."""
        self._builder.ret_void()
        entry = ir.IRBuilder(self._entry)
        entry.position_at_end(self._entry)
        entry.branch(self._builder.function.basic_blocks[1])
        return str(self.module)

    # Integers

    def integer(self, value: int | Value) -> Value:
        return ir.Constant(self.integer_type, value) if isinstance(value, int) else value

    def load_integer(self, array: str, index: int | Value) -> Value:
        address = self._builder.gep(self.pointer[array], [self.integer(index)], source_etype=self.integer_type)
        return self._builder.load(address, typ=self.integer_type, align=8)

    def at(self, *terms: tuple[int | Value, int] | int | Value) -> Value:
        """Sum of ``factor * value`` over pairs and of single values: where in an array something is."""
        total = self.integer(0)
        for term in terms:
            value, factor = term if isinstance(term, tuple) else (term, 1)
            scaled = (
                self._builder.mul(self.integer(value), self.integer(factor)) if factor != 1 else self.integer(value)
            )
            total = self._builder.add(total, scaled)
        return total

    def divided(self, value: Value, by: int) -> Value:
        return self._builder.sdiv(value, self.integer(by))

    def product(self, a: Value, b: Value) -> Value:
        return self._builder.mul(a, b)

    def larger(self, a: Value, b: Value) -> Value:
        return self._builder.select(self._builder.icmp_signed(">", a, b), a, b)

    def smaller(self, a: Value, b: Value) -> Value:
        return self._builder.select(self._builder.icmp_signed("<", a, b), a, b)

    def halved(self, code: Value) -> tuple[Value, Value]:
        """An integer divided by two, and its last bit."""
        return self._builder.ashr(code, self.integer(1)), self._builder.and_(code, self.integer(1))

    @contextmanager
    def loop(self, begin: int | Value, end: int | Value, step: int = 1) -> Iterator[Value]:
        """Run what is written in this block for begin, begin + step, ... below end."""
        b = self._builder
        before = b.block
        head, body, after = (b.append_basic_block(name) for name in ("head", "loop", "after"))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(self.integer_type)
        index.add_incoming(self.integer(begin), before)
        b.cbranch(b.icmp_signed("<", index, self.integer(end)), body, after)
        b.position_at_end(body)
        yield index
        index.add_incoming(b.add(index, self.integer(step)), b.block)
        b.branch(head)
        b.position_at_end(after)

    # Numbers. `contract` lets a product and a sum become one instruction; nothing else about rounding is left open.

    def constant(self, value: float) -> Value:
        return ir.Constant(self.real, value)

    def zero(self) -> Value:
        return ir.Constant(self.vector_type, [0.0] * self.lanes)

    def load_number(self, array: str | Value, index: int | Value) -> Value:
        return self._builder.load(self._address(array, index), typ=self.real, align=self.dtype.itemsize)

    def load(self, array: str | Value, index: int | Value) -> Value:
        """A vector from ``array``, beginning with element ``index``."""
        return self._builder.load(self._address(array, index), typ=self.vector_type, align=self.dtype.itemsize)

    def store(self, value: Value, array: str | Value, index: int | Value) -> None:
        """A number or a vector to ``array``."""
        self._builder.store(value, self._address(array, index), align=self.dtype.itemsize)

    def gather(self, array: str, index: Value, stride: int) -> Value:
        """A vector of every ``stride``-th element, beginning with element ``index``."""
        if stride == 1:
            return self.load(array, index)
        vector = ir.Constant(self.vector_type, ir.Undefined)
        for lane in range(self.lanes):
            element = self.load_number(array, self.at(index, lane * stride))
            vector = self._builder.insert_element(vector, element, self._lane(lane))
        return vector

    def scatter(self, value: Value, array: str, index: Value, stride: int) -> None:
        """A vector to every ``stride``-th element, beginning with element ``index``."""
        if stride == 1:
            self.store(value, array, index)
            return
        for lane in range(self.lanes):
            element = self._builder.extract_element(value, self._lane(lane))
            self.store(element, array, self.at(index, lane * stride))

    def accumulate(self, value: Value, array: str | Value, index: int | Value) -> None:
        """Add a vector to what is in ``array``."""
        self.store(self.add(self.load(array, index), value), array, index)

    def add(self, a: Value, b: Value) -> Value:
        return self._builder.fadd(a, b, flags=("contract",))

    def subtract(self, a: Value, b: Value) -> Value:
        return self._builder.fsub(a, b, flags=("contract",))

    def multiply(self, a: Value, b: Value) -> Value:
        return self._builder.fmul(a, b, flags=("contract",))

    def sum_of_products(self, factors: Sequence[tuple[Value, Value]], start: Value | None = None) -> Value:
        """``start`` plus the products, one after the other; the first product if there is no start."""
        for a, b in factors:
            product = self.multiply(a, b)
            start = product if start is None else self.add(start, product)
        return start

    def divide(self, a: Value, b: Value) -> Value:
        return self._builder.fdiv(a, b)

    def exponential(self, x: Value) -> Value:
        """e to the power of a vector, to rounding; what would overflow or vanish stays at the edge of what numbers can be.

        x = n log 2 + r with an integer n: 2^n is written into the exponent of a number, e^r is its Taylor series.
        """
        b, single = self._builder, self.dtype == torch.float32
        degree, most, bits, bias = (7, 87.0, 23, 127) if single else (13, 708.0, 52, 1023)
        # log 2 in two parts, the first with so few digits that n times it is exact.
        high, low = (
            (0.693359375, -2.12194440054690583e-4) if single else (0.693147180369123816490, 1.90821492927058770002e-10)
        )
        for limit, worse in ((most, ">"), (-most, "<")):
            edge = self.constants(limit)
            x = b.select(b.fcmp_ordered(worse, x, edge), edge, x)
        n = self._intrinsic("rint", self.multiply(x, self.constants(1 / math.log(2))))
        r = self.add(self.add(x, self.multiply(n, self.constants(-high))), self.multiply(n, self.constants(-low)))
        power = self.constants(1 / math.factorial(degree))
        for k in range(degree - 1, -1, -1):
            power = self.add(self.multiply(power, r), self.constants(1 / math.factorial(k)))
        integers = ir.VectorType(ir.IntType(8 * self.dtype.itemsize), self.lanes)
        exponent = b.add(b.fptosi(n, integers), ir.Constant(integers, [bias] * self.lanes))
        scale = b.bitcast(b.shl(exponent, ir.Constant(integers, [bits] * self.lanes)), self.vector_type)
        return self.multiply(power, scale)

    def sine(self, x: Value, *, ahead: int = 0) -> Value:
        """The sine of a vector, ``ahead`` quarters of a turn further (one makes it the cosine), to rounding for |x| < 1000.

        x = n pi/2 + r with an integer n, which says which of the Taylor series of sine and cosine of r it is, and its sign.
        """
        b, single = self._builder, self.dtype == torch.float32
        terms = 5 if single else 9
        # pi / 2 in parts, all but the last with so few digits that n times them is exact.
        parts = (
            (1.5703125, 4.837512969970703e-4, 7.549789954891882e-8)
            if single
            else (1.570796325802803, 9.920935791635221e-10, 5.170182981794105e-19)
        )
        n = self._intrinsic("rint", self.multiply(x, self.constants(2 / math.pi)))
        r = x
        for part in parts:
            r = self.add(r, self.multiply(n, self.constants(-part)))
        square = self.multiply(r, r)
        odd, even = (self._series(square, first, terms) for first in (1, 0))
        integers = ir.VectorType(ir.IntType(8 * self.dtype.itemsize), self.lanes)
        quarter = b.add(b.fptosi(n, integers), ir.Constant(integers, [ahead] * self.lanes))

        odd_quarter, second_half = (
            b.icmp_signed("!=", b.and_(quarter, ir.Constant(integers, [bit] * self.lanes)), ir.Constant(integers, None))
            for bit in (1, 2)
        )
        value = b.select(odd_quarter, even, self.multiply(r, odd))
        return b.select(second_half, self.subtract(self.zero(), value), value)

    def _series(self, square: Value, first: int, terms: int) -> Value:
        """Taylor series of cos x (``first`` = 0) or of sin x / x (``first`` = 1), of x²."""
        total = self.constants((-1) ** terms / math.factorial(first + 2 * terms))
        for k in range(terms - 1, -1, -1):
            total = self.add(self.multiply(total, square), self.constants((-1) ** k / math.factorial(first + 2 * k)))
        return total

    def square_root(self, x: Value) -> Value:
        return self._intrinsic("sqrt", x)

    def where_at_least(self, x: Value, edge: float, then: Value, otherwise: Value) -> Value:
        """``then`` where x is at least ``edge``, ``otherwise`` where it is less or no number."""
        return self._builder.select(self._builder.fcmp_ordered(">=", x, self.constants(edge)), then, otherwise)

    def constants(self, value: float) -> Value:
        """A vector that holds ``value`` everywhere."""
        return ir.Constant(self.vector_type, [value] * self.lanes)

    @staticmethod
    def _lane(number: int) -> Value:
        return ir.Constant(ir.IntType(32), number)

    def _intrinsic(self, name: str, vector: Value) -> Value:
        name = f"llvm.{name}.v{self.lanes}f{8 * self.dtype.itemsize}"
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(self.vector_type, [self.vector_type]), name)
        return self._builder.call(function, [vector])

    def splat(self, number: Value) -> Value:
        """A vector that holds ``number`` everywhere."""
        undefined = ir.Constant(self.vector_type, ir.Undefined)
        first = self._builder.insert_element(undefined, number, self._lane(0))
        return self._builder.shuffle_vector(first, undefined, self._zeros)

    def total(self, vector: Value) -> Value:
        """Sum of the elements of a vector."""
        suffix = f"v{self.lanes}f{8 * self.dtype.itemsize}"
        name = f"llvm.vector.reduce.fadd.{suffix}"
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(self.real, [self.real, self.vector_type]), name)
        return self._builder.call(function, [self.constant(0.0), vector], fastmath=("reassoc",))

    def choose(self, condition: Value, if_one: float, if_zero: float) -> Value:
        """One of two numbers by an integer that is 1 or 0."""
        is_one = self._builder.icmp_signed("==", condition, self.integer(1))
        return self._builder.select(is_one, self.constant(if_one), self.constant(if_zero))

    def scratch(self, vectors: int) -> Value:
        """Memory for some vectors, as an array."""
        entry = ir.IRBuilder(self._entry)
        entry.position_at_end(self._entry)
        memory = entry.alloca(ir.ArrayType(self.real, vectors * self.lanes))
        memory.align = VECTOR_BYTES
        memory.type = ir.PointerType()  # llvmlite still gives it the type of what it points to
        return memory

    def _address(self, array: str | Value, index: int | Value) -> Value:
        pointer = self.pointer[array] if isinstance(array, str) else array
        return self._builder.gep(pointer, [self.integer(index)], source_etype=self.real)


@cache
def processor() -> str:
    """The processor that code is made for."""
    return str(binding.get_host_cpu_name())


def registers_hold(vectors: int) -> bool:
    """True if that many vectors of 64 bytes fit into the registers at once."""
    wide = binding.get_host_cpu_features().get("avx512f", False)
    return vectors <= (30 if wide else 7)


@once
def _machine() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(processor(), _features(), opt=3, jit=True)


@cache
def _features() -> str:
    """Instructions that the processor has, as LLVM names them."""
    return str(binding.get_host_cpu_features().flatten())


_engines: list[Any] = []  # they own the code


def compile_function(function: Function, announce: Callable[[], object] = lambda: None) -> Callable[..., None]:
    """A callable ``(begin, end, *addresses)`` in machine code, which does not hold Python's lock.

    Takes about 0.1 s, or a few milliseconds if the code is in the cache (:mod:`equinet.ops.cache`) for this processor and this LLVM.

    Args:
        function: The function.
        announce: Called before code is made that is not in the cache.
    """
    text, machine = function.finish(), _machine()

    def make() -> dict[str, torch.Tensor]:
        announce()
        return {"code": torch.frombuffer(bytearray(_machine_code(text)), dtype=torch.uint8)}

    found = cached(
        "machine_code",
        {
            "assembly": hashlib.sha256(text.encode()).hexdigest(),
            "processor": processor(),
            "features": _features(),
            "triple": binding.get_process_triple(),
            "llvm": list(binding.llvm_version_info),
        },
        make,
        worthwhile=WORTHWHILE,
    )
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(found["code"].numpy().tobytes()))
    engine.finalize_object()
    _engines.append(engine)
    types = [ctypes.c_int64] * 2 + [ctypes.c_void_p] * len(function.pointer)
    return ctypes.CFUNCTYPE(None, *types)(engine.get_function_address(function.name))


def _machine_code(text: str) -> bytes:
    """An object file, made of LLVM assembly."""
    module = binding.parse_assembly(text)
    module.verify()
    options = binding.create_pipeline_tuning_options(speed_level=3)
    # The loops are written as they should be.
    options.slp_vectorization = options.loop_vectorization = options.loop_unrolling = False
    builder = binding.create_pass_builder(_machine(), options)
    builder.getModulePassManager().run(module, builder)
    return bytes(_machine().emit_object(module))
