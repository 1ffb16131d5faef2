"""Runs on a CPU what a compiler for GPUs made of a kernel: a machine for PTX, NVIDIA's assembly, in numpy.

::

    Machine(ptx, (nodes, 2), [pointers, x, out, 5], shared=512).run()  # arrays are changed in place, integers are sizes

Most tests want ``with assembling.emulated(90): ...``, in which all our operators run so on CPU tensors.

The threads of a program are columns of arrays, and programs are rows. Of all threads those that are behind the others go next,
together, so that they may leave loops at different times.

A :class:`Fault` is raised where a GPU might do anything: at a load or store beside the arrays or across their grain, where one warp
reads what another writes, or two write different numbers to one place (in shared memory: with no barrier between them), where
not all threads of a program come to a barrier, a shuffle or the like, and at instructions that are not here. What never was written
is not a number.

Asynchronous copies are done at once, and tensor cores add without rounding; so both are better here than they are. Tiny numbers are kept.

This emulator can go when the test suite runs on a machine with a GPU: the same test bodies then run there (fixture ``gpu``).

Source: Parallel Thread Execution ISA 8.7, whose words are used for instructions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from ptx_instructions import RULES, TYPES, Array, Group, Read, Rule
from ptx_memory import Fault, Memory

GAP = 1 << 16  # bytes between arrays
Step = Callable[
    [Group, Any, Array], None
]  # programs that go, which of their threads (or None: all), and where all threads are


class Machine:
    """One launch of one kernel, by :meth:`run`.

    Args:
        ptx: Its text.
        grid: How many programs, in up to three directions.
        arguments: Arrays and sizes; parameters that the compiler added after them are zero.
        shared: Bytes of shared memory of a program.
    """

    def __init__(self, ptx: str, grid: Sequence[int], arguments: Sequence[Array | int], shared: int) -> None:
        self.arguments = arguments
        head = re.search(r"\.entry (\w+)\((.*?)\)(.*?)^\{(.*?)^\}", re.sub("//.*", "", ptx), re.DOTALL | re.MULTILINE)
        assert head is not None
        self.name, parameters, directives, body = head.groups()
        self.threads = int(re.findall(r"\.(?:req|max)ntid (\d+)", directives)[0])
        self.programs = int(np.prod(grid))
        self._place(parameters, ptx)
        self.shared = Memory(self.programs, shared, 1)
        depot = re.search(r"__local_depot0\[(\d+)\]", body)
        self.local = Memory(self.programs * self.threads, int(depot[1]) if depot else 0, 4)
        self.shared.there[:] = self.local.there[:] = True
        self._registers(body, [*grid, 1, 1][:3])
        self.blocks: list[list[tuple[str, Read | None, Step]]] = [[]]
        self.labels: dict[str, int] = {}
        for label, guard, name, operands in self._statements(body):
            if label:
                self.blocks.append([])
                self.labels[label] = len(self.blocks) - 1
                continue
            jump = name.startswith("bra") or name == "ret"
            try:
                step = self._jump(name, operands) if jump else self._step(name, operands)
            except Fault as fault:
                step = partial(_refuse, str(fault))
            where = self._guard(guard) if guard else None
            self.blocks[-1].append((f"{guard} {name} {operands}".strip(), where, step))
            if jump:
                self.blocks.append([])

    def _place(self, parameters: str, ptx: str) -> None:
        """Arrays and tables into memory, and addresses and sizes into what ``ld.param`` finds."""
        tables = re.findall(r"\.global \.align \d+ \.b8 (\S+)\[(\d+)\] = \{(.*?)\};", ptx)
        known = [
            np.array([*map(int, text.split(",")), *[0] * int(size)], np.uint8)[: int(size)] for _, size, text in tables
        ]
        self.starts: list[int] = []
        end = GAP
        for each in [*self.arguments, *known]:
            self.starts.append(end)
            end += -(-each.nbytes // 256) * 256 + GAP if isinstance(each, np.ndarray) else 0
        self.memory = Memory(1, end, 4)
        for each, start in zip([*self.arguments, *known], self.starts):
            if isinstance(each, np.ndarray):
                self.memory.bytes[start : start + each.nbytes] = np.frombuffer(each.tobytes(), np.uint8)
                self.memory.there[start // 4 : (start + each.nbytes) // 4] = True
        names = [line.split()[-1] for line in parameters.split(",")]
        self.parameters: dict[str, int] = dict.fromkeys(names, 0)
        for name, each, start in zip(names, self.arguments, self.starts):
            self.parameters[name] = start if isinstance(each, np.ndarray) else each
        # Shared memory, and the local memory of a thread, begin at zero.
        self.symbols = {"global_smem": 0, "__local_depot0": 0}
        self.symbols |= {table[0]: start for table, start in zip(tables, self.starts[len(self.arguments) :])}

    def _registers(self, body: str, grid: Sequence[int]) -> None:
        """Rows for programs, columns for threads."""
        shape = (self.programs, self.threads)
        self.registers: dict[str, Array] = {}
        for kind, names in re.findall(r"\.reg\s+\.(\w+)\s+([^;]*);", body):
            bits = TYPES[kind] if kind == "pred" else np.dtype(f"u{TYPES[kind].itemsize}")
            for name, count in re.findall(r"([%\w$]+)(?:<(\d+)>)?", names):
                for each in [f"{name}{n}" for n in range(int(count))] if count else [name]:
                    self.registers[each] = np.full(shape, -1).astype(bits)  # not a number
        self.thread = np.broadcast_to(np.arange(self.threads), shape)
        self.program = np.broadcast_to(np.arange(self.programs)[:, None], shape)
        self.warp = (self.program * self.threads + self.thread) // 32
        special = {"%tid.x": self.thread, "%laneid": self.thread % 32, "%ntid.x": self.threads}
        for axis, place in zip("xyz", np.unravel_index(self.program, grid[::-1])[::-1]):
            special |= {f"%ctaid.{axis}": place, f"%nctaid.{axis}": grid["xyz".index(axis)]}
        for name, value in special.items():
            self.registers[name] = np.broadcast_to(value, shape).astype(np.uint32)

    def _statements(self, body: str) -> list[tuple[str, str, str, str]]:
        """Labels, guards, names and operands; the braces of scopes and directives are left out."""
        text = re.sub(r"(?m)^\s*\.(loc|pragma).*|(?<!\w)\.(reg|param|local)\b[^;]*;", "", body)
        pattern = re.compile(r"\s*(?:([$\w]+):|(@!?[%\w]+)?\s*([a-z][\w.:]*)\s*([^;]*);|[{}])\s*")
        found, place = [], 0
        while place < len(text.rstrip()):
            match = pattern.match(text, place)
            if match is None:
                raise Fault(f"{self.name}: {text[place : place + 60]!r} cannot be read")
            place = match.end()
            if match[1] or match[3]:
                found.append(tuple(each or "" for each in match.groups()))
        return found  # type: ignore[return-value]

    def run(self) -> None:
        """All programs, to their ends."""
        at = np.zeros(self.thread.shape, int)
        with np.errstate(all="ignore"):
            while (block := at.min(initial=len(self.blocks))) < len(self.blocks):
                group = np.flatnonzero((at == block).any(axis=1))
                here: Group = slice(None) if len(group) == self.programs else group
                live = at[here] == block
                at[here] = np.where(live, block + 1, at[here])
                together = live.all()
                for text, guard, step in self.blocks[block]:
                    allowed = None if together else live
                    if guard is not None:
                        allowed = guard(here) & live
                    try:
                        step(here, allowed, at)
                    except Fault as fault:
                        raise Fault(f"{self.name}: {text}: {fault} (arguments begin at {self.starts})") from None
        for each, start in zip(self.arguments, self.starts):
            if isinstance(each, np.ndarray):
                each[...] = self.memory.bytes[start : start + each.nbytes].view(each.dtype).reshape(each.shape)

    def reader(self, text: str, kind: str) -> Read:
        """The values of a register, or a number in the text."""
        dtype = TYPES[kind]
        if text in self.registers:
            array = self.registers[text]
            if dtype.itemsize < array.itemsize:
                narrow = np.dtype(f"u{dtype.itemsize}")
                return lambda g: array[g].astype(narrow).view(dtype)
            return lambda g: array[g].view(dtype)
        if text.startswith(("0f", "0d")):
            number = np.frombuffer(bytes.fromhex(text[2:])[::-1], f"u{len(text) // 2 - 1}")[0]
        elif text in self.symbols:
            number = np.uint64(self.symbols[text])
        elif re.fullmatch(r"-?\d+|0x[0-9a-fA-F]+", text):
            number = np.uint64(int(text, 0) & 0xFFFFFFFFFFFFFFFF)
        else:
            raise Fault(f"{text!r} is no register")
        value = np.array(bool(number)) if kind == "pred" else number.astype(f"u{dtype.itemsize}").view(dtype)
        return lambda g: value

    def readers(self, operands: Sequence[str], kind: str) -> list[Read]:
        return [self.reader(each, kind) for each in operands]

    def address(self, text: str) -> Read:
        """Of ``[register + offset]``."""
        base, _, offset = text.strip("[] ").replace(" ", "").partition("+")
        bits = 8 * self.registers[base].itemsize if base in self.registers else 64
        read, more = self.reader(base, f"u{bits}"), int(offset or 0)
        return lambda g: read(g).astype(np.int64) + more

    def spread(self, g: Group, value: Array) -> Array:
        """A column for every thread."""
        return np.broadcast_to(value, self.thread[g].shape)

    def _guard(self, guard: str) -> Read:
        predicate, wanted = self.reader(guard.lstrip("@!"), "pred"), "!" not in guard
        return lambda g: predicate(g) == wanted

    def _step(self, name: str, operands: str) -> Step:
        destinations, compute = self._decode(name, re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,\s]*", operands))
        arrays = [None if each == "_" else self.registers[each] for each in destinations]

        def step(g: Group, allowed: Any, _: Array) -> None:
            if allowed is not None and ".sync" in name:
                raise Fault("threads of a program do not come here together")
            for array, value in zip(arrays, compute(g, allowed)):
                if array is None:
                    continue
                if value.dtype.kind == "f":
                    value = value.view(f"u{value.dtype.itemsize}")
                array[g] = value if allowed is None else np.where(allowed, value.astype(array.dtype), array[g])

        return step

    def _decode(self, name: str, operands: list[str]) -> Rule:
        for pattern, rule in RULES:
            match = re.fullmatch(pattern, name)
            if match:
                return rule(self, match, operands)
        raise Fault("this instruction is not known")

    def _jump(self, name: str, operands: str) -> Step:
        label = operands.strip()

        def jump(g: Group, allowed: Any, at: Array) -> None:
            there = len(self.blocks) if name == "ret" else self.labels[label]
            at[g] = there if allowed is None else np.where(allowed, there, at[g])

        return jump


def _refuse(why: str, *_: Any) -> None:
    raise Fault(why)
