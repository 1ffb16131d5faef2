"""Straight code with loops and branches for the processor at hand: a thin layer over llvmlite for functions of whole numbers and bytes.

Expressions are written with Python's operators, variables live in memory until LLVM's optimiser puts them into registers::

    code = Function("total", ["data", "end"])
    p, total = code.variable(0), code.variable(0)
    with code.loop():
        code.leave_if(p.value >= code.argument["end"])
        total.value += code.byte(code.argument["data"], p.value)
        p.value += 1
    code.give(total.value)
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

try:
    from llvmlite import binding, ir
except ImportError as error:  # no wheel for this platform; the reference form reads as well, more slowly
    missing: str | None = f"llvmlite cannot be imported ({error})"
else:
    missing = None


class Number:
    """A whole number or a truth value while the function runs."""

    def __init__(self, code: Function, value: Any) -> None:
        self.code, self.value = code, value

    def _with(self, name: str, other: Number | int) -> Number:
        builder = self.code.builder
        operand = ir.Constant(self.value.type, other) if isinstance(other, int) else other.value
        return Number(self.code, getattr(builder, name)(self.value, operand))

    def _compared(self, sign: str, other: Number | int) -> Number:
        operand = ir.Constant(self.value.type, other) if isinstance(other, int) else other.value
        return Number(self.code, self.code.builder.icmp_signed(sign, self.value, operand))

    def __add__(self, other: Number | int) -> Number:
        return self._with("add", other)

    def __sub__(self, other: Number | int) -> Number:
        return self._with("sub", other)

    def __mul__(self, other: Number | int) -> Number:
        return self._with("mul", other)

    def __and__(self, other: Number | int) -> Number:
        return self._with("and_", other)

    def __or__(self, other: Number | int) -> Number:
        return self._with("or_", other)

    def __xor__(self, other: Number | int) -> Number:
        return self._with("xor", other)

    def __lshift__(self, other: Number | int) -> Number:
        return self._with("shl", other)

    def __rshift__(self, other: Number | int) -> Number:
        """Zeros come in from the left."""
        return self._with("lshr", other)

    def arithmetic_shift(self, other: int) -> Number:
        """Copies of the sign come in from the left."""
        return self._with("ashr", other)

    def __invert__(self) -> Number:
        return Number(self.code, self.code.builder.not_(self.value))

    def __lt__(self, other: Number | int) -> Number:
        return self._compared("<", other)

    def __le__(self, other: Number | int) -> Number:
        return self._compared("<=", other)

    def __gt__(self, other: Number | int) -> Number:
        return self._compared(">", other)

    def __ge__(self, other: Number | int) -> Number:
        return self._compared(">=", other)

    def equals(self, other: Number | int) -> Number:
        return self._compared("==", other)

    def below(self, other: int) -> Number:
        """0 <= the number < other, in one comparison of numbers without sign."""
        operand = ir.Constant(self.value.type, other)
        return Number(self.code, self.code.builder.icmp_unsigned("<", self.value, operand))

    def exceeds(self, other: Number) -> Number:
        """Comparison of 64 bits without sign."""
        return Number(self.code, self.code.builder.icmp_unsigned(">", self.value, other.value))

    def as_number(self) -> Number:
        """A truth value as 0 or 1."""
        return Number(self.code, self.code.builder.zext(self.value, ir.IntType(64)))


class Variable:
    """A whole number of 64 bits that the function changes."""

    def __init__(self, code: Function, memory: Any) -> None:
        self._code, self._memory = code, memory

    @property
    def value(self) -> Number:
        return Number(self._code, self._code.builder.load(self._memory))

    @value.setter
    def value(self, new: Number | int) -> None:
        stored = ir.Constant(ir.IntType(64), new) if isinstance(new, int) else new.value
        self._code.builder.store(stored, self._memory)


class Function:
    """A function of 64-bit numbers, among them addresses, that gives back one.

    Args:
        name: Name of the function.
        arguments: Names of its arguments.
    """

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.name = name
        self.module = ir.Module(name)
        integer = ir.IntType(64)
        self._function = ir.Function(self.module, ir.FunctionType(integer, [integer] * len(arguments)), name)
        self._entry = ir.IRBuilder(self._function.append_basic_block("entry"))
        self.builder = ir.IRBuilder(self._function.append_basic_block("body"))
        self.argument = {each: Number(self, value) for each, value in zip(arguments, self._function.args)}
        self._afters: list[Any] = []  # where the innermost loops end

    def number(self, value: int) -> Number:
        return Number(self, ir.Constant(ir.IntType(64), value))

    def variable(self, value: Number | int = 0) -> Variable:
        made = Variable(self, self._entry.alloca(ir.IntType(64)))
        made.value = value
        return made

    def choose(self, condition: Number, one: Number, other: Number) -> Number:
        return Number(self, self.builder.select(condition.value, one.value, other.value))

    # Memory

    def byte(self, address: Number, index: Number) -> Number:
        pointer = self.builder.inttoptr((address + index).value, ir.IntType(8).as_pointer())
        return Number(self, self.builder.zext(self.builder.load(pointer), ir.IntType(64)))

    def load(self, address: Number, index: Number) -> Number:
        """The 64-bit number ``index`` of an array."""
        return Number(self, self.builder.load(self._pointer(address, index, 64)))

    def store(self, value: Number, address: Number, index: Number, bits: int = 64) -> None:
        """Put a number into element ``index`` of an array of 64 or 8 bits."""
        narrow = value.value if bits == 64 else self.builder.trunc(value.value, ir.IntType(bits))
        self.builder.store(narrow, self._pointer(address, index, bits))

    def _pointer(self, address: Number, index: Number, bits: int) -> Any:
        place = address + index * (bits // 8)
        return self.builder.inttoptr(place.value, ir.IntType(bits).as_pointer())

    # Numbers of 128 bits

    def product(self, a: Number, b: Number) -> tuple[Number, Number]:
        """High and low half of the product of two numbers without sign."""
        wide, half = ir.IntType(128), ir.IntType(64)
        builder = self.builder
        whole = builder.mul(builder.zext(a.value, wide), builder.zext(b.value, wide))
        high = builder.trunc(builder.lshr(whole, ir.Constant(wide, 64)), half)
        return Number(self, high), Number(self, builder.trunc(whole, half))

    def leading_zeros(self, value: Number) -> Number:
        return Number(self, self.builder.ctlz(value.value, ir.Constant(ir.IntType(1), 1)))

    # Ways through the code

    @contextmanager
    def when(self, condition: Number) -> Iterator[None]:
        """Run what is written in this block if a condition holds."""
        with self.builder.if_then(condition.value):
            yield

    @contextmanager
    def loop(self) -> Iterator[None]:
        """Repeat what is written in this block until :meth:`leave_if`."""
        body = self.builder.append_basic_block("loop")
        after = self.builder.append_basic_block("after")
        self.builder.branch(body)
        self.builder.position_at_end(body)
        self._afters.append(after)
        yield
        self._afters.pop()
        self.builder.branch(body)
        self.builder.position_at_end(after)

    def leave_if(self, condition: Number) -> None:
        """Leave the innermost loop if a condition holds."""
        on = self.builder.append_basic_block("on")
        self.builder.cbranch(condition.value, self._afters[-1], on)
        self.builder.position_at_end(on)

    def label(self) -> Any:
        """A place that :meth:`go` and :meth:`go_if` lead to; :meth:`here` says where it is."""
        return self.builder.append_basic_block("label")

    def here(self, label: Any) -> None:
        if not self.builder.block.is_terminated:
            self.builder.branch(label)
        self.builder.position_at_end(label)

    def go(self, label: Any) -> None:
        self.builder.branch(label)

    def go_if(self, condition: Number, label: Any) -> None:
        on = self.builder.append_basic_block("on")
        self.builder.cbranch(condition.value, label, on)
        self.builder.position_at_end(on)

    def give(self, value: Number) -> None:
        """End the function with a value."""
        self.builder.ret(value.value)

    def compiled(self) -> Callable[..., int]:
        """The function in machine code, which takes whole numbers and does not hold Python's lock."""
        self._entry.branch(self._function.basic_blocks[1])
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        target = binding.Target.from_default_triple()
        machine = target.create_target_machine(binding.get_host_cpu_name(), opt=2, jit=True)
        module = binding.parse_assembly(str(self.module))
        module.verify()
        builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
        builder.getModulePassManager().run(module, builder)
        engine = binding.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        _engines.append(engine)
        integer = ctypes.c_int64
        prototype = ctypes.CFUNCTYPE(integer, *[integer] * len(self.argument))
        return prototype(engine.get_function_address(self.name))


_engines: list[Any] = []  # they own the code
