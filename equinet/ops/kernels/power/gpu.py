r"""Powers in a pointwise algebra for GPUs: to the points, multiplied there, and back, in one kernel and with no values in memory.

.. math:: \mathrm{out}_{n k} = \sum_g O_{g k} \, q_g \, w_g^{n-2}, \qquad q_g = \sum_{(s, t)} x^s_g x^t_g, \qquad
          x^s_g = \sum_i T^s_{g i} \, u_i \ \text{or} \ v_i, \qquad n = 2 \ldots N

x are the *slots* of a :class:`Form`, w is one of them. A thread owns a few pairs of a node and a channel, and keeps their inputs and
all sums in registers; it goes through the points, whose constants, one row of a table, are the same for all threads. No sum
depends on another program: results are the same bits in every run.

Most quadrature rules hold a point's opposite with the same weight. There a harmonic has :math:`(-1)^l` times its value, so the
sums over even and over odd rows, E and O, give both values, E + O and E - O, at the cost of one: a row of the table stands for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from equinet.ops.codegen.once import once
from equinet.ops.codegen.tiles import Kernel, Kind, Memory, Writer, interpreting

# What the slots read, which of them are multiplied and added up, and which multiplies that further.
KINDS: dict[str, tuple[str, tuple[tuple[int, int], ...], int]] = {
    "power": ("u", ((0, 0),), 0),  # of one field
    "product": ("uv", ((0, 1),), 1),  # of one field and powers of another
    "bracket": ("uuvvv", ((0, 2), (1, 3)), 4),  # D1 u, D2 u, D2 v, -D1 v, v
}

# 32-bit registers that a thread's own numbers may fill; the rest are for what it needs at one point, which is most for ``double_backward``.
ROOM = {"value": 144, "gradient": 144, "double_backward": 128}
# Warps that keep an H100 busy; with fewer, threads own one number each.
MANY_WARPS = 132 * 8
# Numbers of a program in the interpreter, whose cost is per operation, whatever their number.
NUMBERS_INTERPRETED = 4096


class Form(NamedTuple):
    """Form of a product at points: kind, irreps' parities, number of factors.

    Attributes:
        kind: See ``KINDS``.
        slots: A letter for each input row of each slot. ``e`` and ``o``: even and odd under inversion, and every row of the table
            stands for two points. ``.``: for one.
        highest: N, the most factors.
        out: A letter for each row of the result.
    """

    kind: str
    slots: tuple[str, ...]
    highest: int
    out: str

    def __str__(self) -> str:
        return f"{self.kind} {' '.join(self.slots)} ^ {self.highest} -> {self.out}"

    @property
    def columns(self) -> list[int]:
        """Widths of the parts of a table's row: those of every slot, then those of the result."""
        return [*map(len, self.slots), len(self.out)]

    @property
    def sides(self) -> str:
        """Points of a row: one, or two."""
        return "p" if "." in self.out else "pm"

    def rows(self, source: str) -> int:
        """Rows of the input ``u`` or ``v``; 0 if there is none."""
        return max((len(rows) for rows, name in zip(self.slots, KINDS[self.kind][0]) if name == source), default=0)


@cache
def form_of(text: str) -> Form:
    """The inverse of ``str(form)``."""
    inputs, rest = text.split(" ^ ")
    highest, out = rest.split(" -> ")
    kind, *slots = inputs.split(" ")
    return Form(kind, tuple(slots), int(highest), out)


def fold(
    tables: Sequence[Float[Tensor, "points _dim"]], letters: Sequence[str]
) -> tuple[Float[Tensor, "rows columns"], list[str]]:
    """Tables side by side, with opposite points as one row.

    Args:
        tables: Matrices of every slot, and of the result.
        letters: ``e`` or ``o`` for every column: what it should be under inversion.

    Returns:
        The table and the letters it has. If any point has no opposite they are dots.
    """
    table = torch.cat(list(tables), dim=1)
    opposite = table * _signs("".join(letters), table)
    close = torch.cdist(table, opposite, p=torch.inf) < 1e-12 * table.abs().max()
    # Of fields that are all odd, say, several points can be opposite to one; any of them will do, once.
    first, free = [], set(range(len(table)))
    while free:
        point = min(free)
        partner = next((other for other in close[point].nonzero().flatten().tolist() if other in free - {point}), None)
        if partner is None:
            return table, ["." * len(each) for each in letters]
        first.append(point)
        free -= {point, partner}
    return table[first], list(letters)


def unfold(table: Float[Tensor, "rows columns"], form: Form) -> list[Float[Tensor, "points _dim"]]:
    """The tables of the slots and of the result, with a row for every point."""
    if form.sides == "pm":
        table = torch.cat([table, table * _signs("".join(form.slots) + form.out, table)])
    return list(table.split(form.columns, dim=1))


def _signs(letters: str, like: Tensor) -> Tensor:
    return torch.tensor([-1.0 if letter == "o" else 1.0 for letter in letters], dtype=like.dtype, device=like.device)


class PowerTiles:
    """Writes the kernels for one form.

    Args:
        form: Form of the product.
        dtype: float32 or float64.
        points: Rows of the table.
        channels: Channels of inputs and result.
        numbers: Pairs of a node and a channel of a program, a power of two; a warp shares them.
    """

    def __init__(self, form: Form, dtype: torch.dtype, points: int, channels: int, numbers: int) -> None:
        self.form, self.dtype, self.points, self.channels, self.numbers = form, dtype, points, channels, numbers
        sources, self.terms, self.further = KINDS[form.kind]
        self.inputs = [name for name in "uv" if name in sources]
        self._memory = Memory(dtype)
        self.factors = range(2, form.highest + 1)
        self.starts = [sum(form.columns[:n]) for n in range(len(form.columns))]
        needed = {s for term in self.terms for s in term} | ({self.further} if form.highest > 2 else set())
        self.slots = [(s, sources[s], form.slots[s]) for s in sorted(needed)]

    def value(self) -> Kernel:
        """``out`` of inputs."""
        w = self._begin(self.inputs, "o")
        with self._points(w):
            self._slots(w, "x", self.inputs)
            for side in self.form.sides:
                self._sum_of_terms(w, f"p2{side}", side)
                for n in self.factors[1:]:
                    w(f"p{n}{side} = p{n - 1}{side} * x{self.further}{side}")
            self._add_to_out(w, "o")
        return self._end(w, "power_value", self.inputs, {"o": "out"})

    def gradient(self) -> Kernel:
        r"""Gradients of :math:`\langle g, \mathrm{out} \rangle` in the inputs.

        With :math:`h_n = \sum_k O_k g_{nk}` at a point, that of q is :math:`A = \sum_n h_n w^{n-2}` and that of w is :math:`q A'(w)`.
        """
        w = self._begin([*self.inputs, "g"], *(f"d{name}" for name in self.inputs))
        with self._points(w):
            self._slots(w, "x", self.inputs)
            self._from_out(w)
            for side in self.form.sides:
                w(f"A = {self._series(side, 0)}")
                begun: set[str] = set()
                for s, t in self.terms:
                    w.add(f"c{s}{side}", f"A * x{t}{side}", begun)
                    w.add(f"c{t}{side}", f"A * x{s}{side}", begun)
                if len(self.factors) > 1:
                    self._sum_of_terms(w, "q", side)
                    w.add(f"c{self.further}{side}", f"q * ({self._series(side, 1)})", begun)
            self._add_to_inputs(w)
        return self._end(w, "power_gradient", [*self.inputs, "g"], {f"d{name}": f"d{name}" for name in self.inputs})

    def double_backward(self) -> Kernel:
        r"""Gradients of what ``gradient`` gives along changes a of u and b of v, in g, u and v.

        The change of the values along (a, b) is y; that of q is :math:`\dot q = \sum x^s y^t + y^s x^t`, and that of ``<g, out>``
        is :math:`A \dot q + q A' \dot w`, whose gradients these are.
        """
        changes = [{"u": "a", "v": "b"}[name] for name in self.inputs]
        w = self._begin([*changes, *self.inputs, "g"], "z", *(f"d{name}" for name in self.inputs))
        with self._points(w):
            self._slots(w, "x", self.inputs)
            self._slots(w, "y", changes)
            self._from_out(w)
            for side in self.form.sides:
                self._double_backward_at(w, side)
            self._add_to_out(w, "z")
            self._add_to_inputs(w)
        results = {"z": "dg"} | {f"d{name}": f"d{name}" for name in self.inputs}
        return self._end(w, "power_double_backward", [*changes, *self.inputs, "g"], results)

    def _double_backward_at(self, w: Writer, side: str) -> None:
        """At one point: changes of all products, ``p``, and gradients of all slots, ``c``."""
        w("dq = " + " + ".join(f"x{s}{side} * y{t}{side} + y{s}{side} * x{t}{side}" for s, t in self.terms))
        w(f"p2{side} = dq")
        w(f"A = {self._series(side, 0)}")
        if len(self.factors) > 1:
            self._sum_of_terms(w, "q", side)
            w(f"B = {self._series(side, 1)}")
            w(f"Bw = B * y{self.further}{side}")
            w("product = q")
        for n in self.factors[1:]:
            w(f"p{n}{side} = p{n - 1}{side} * x{self.further}{side} + product * y{self.further}{side}")
            if n < self.form.highest:
                w(f"product = product * x{self.further}{side}")
        begun: set[str] = set()
        for s, t in self.terms:
            for one, other in ((s, t), (t, s)):
                w.add(f"c{one}{side}", f"A * y{other}{side}", begun)
                if len(self.factors) > 1:
                    w.add(f"c{one}{side}", f"Bw * x{other}{side}", begun)
        if len(self.factors) > 1:
            w.add(f"c{self.further}{side}", "B * dq", begun)
        if len(self.factors) > 2:
            w.add(f"c{self.further}{side}", f"({self._series(side, 2)}) * y{self.further}{side} * q", begun)

    def _series(self, side: str, order: int) -> str:
        """A(w), or a derivative of it, by Horner's rule."""
        text = ""
        for n in reversed(self.factors[order:]):
            factor = 1
            for k in range(order):
                factor *= n - 2 - k
            term = f"h{n}{side}" if factor == 1 else f"{float(factor)} * h{n}{side}"
            text = f"{term} + x{self.further}{side} * ({text})" if text else term
        return text

    def _sum_of_terms(self, w: Writer, name: str, side: str) -> None:
        w(f"{name} = " + " + ".join(f"x{s}{side} * x{t}{side}" for s, t in self.terms))

    def _slots(self, w: Writer, name: str, inputs: Sequence[str]) -> None:
        """Values of all slots, ``name``, of inputs in place of u and v."""
        for s, source, letters in self.slots:
            rows = [f"{inputs['uv'.index(source)]}{i}" for i in range(len(letters))]
            self._to_points(w, f"{name}{s}", letters, self.starts[s], rows)

    def _from_out(self, w: Writer) -> None:
        """``h``: g at the points."""
        for n in self.factors:
            rows = [f"g{n}_{k}" for k in range(len(self.form.out))]
            self._to_points(w, f"h{n}", self.form.out, self.starts[-1], rows)

    def _add_to_out(self, w: Writer, name: str) -> None:
        """Products ``p`` at the points to sums of the result's rows."""
        for n in self.factors:
            rows = [f"{name}{n}_{k}" for k in range(len(self.form.out))]
            self._from_points(w, f"p{n}", self.form.out, self.starts[-1], rows)

    def _add_to_inputs(self, w: Writer) -> None:
        """Gradients ``c`` of the slots to sums of those of the inputs."""
        for s, source, letters in self.slots:
            self._from_points(w, f"c{s}", letters, self.starts[s], [f"d{source}{i}" for i in range(len(letters))])

    def _to_points(self, w: Writer, name: str, letters: str, start: int, rows: Sequence[str]) -> None:
        """Sums over rows, for the point of a row of the table (``p``), and its opposite (``m``)."""
        terms: dict[str, list[str]] = {}
        for i, (letter, row) in enumerate(zip(letters, rows)):
            terms.setdefault(letter, []).append(f"tl.load(place + {start + i}) * {row}")
        for letter, found in terms.items():
            w(f"{self._by_letter(name)[letter]} = {' + '.join(found)}")
        if "." not in terms:
            even, odd = "even" if "e" in terms else "", "odd" if "o" in terms else ""
            w(f"{name}p = {' + '.join(filter(None, (even, odd)))}")
            w(f"{name}m = {even}{' - ' + odd if odd else ''}")

    def _from_points(self, w: Writer, name: str, letters: str, start: int, rows: Sequence[str]) -> None:
        """Add to sums over points what a row of the table has."""
        if self.form.sides == "pm":
            w(f"even = {name}p + {name}m")
            w(f"odd = {name}p - {name}m")
        for i, (letter, row) in enumerate(zip(letters, rows)):
            w(f"{row} += tl.load(place + {start + i}) * {self._by_letter(name)[letter]}")

    def _by_letter(self, name: str) -> dict[str, str]:
        """Name of the part of the values ``name`` that rows of one parity use."""
        return {"e": "even", "o": "odd", ".": f"{name}p"}

    def _rows(self, name: str) -> list[str]:
        """Names of the rows of an input or result."""
        if name in ("g", "o", "z"):
            return [f"{name}{n}_{k}" for n in self.factors for k in range(len(self.form.out))]
        source = {"a": "u", "b": "v"}.get(name, name[-1])
        return [f"{name}{i}" for i in range(self.form.rows(source))]

    def _begin(self, inputs: Sequence[str], *sums: str) -> Writer:
        """Write the beginning of a kernel: indices, inputs, and sums of zero."""
        w = Writer()
        w(f"number_ = tl.program_id(0).to(tl.int64) * {self.numbers} + tl.arange(0, {self.numbers})")
        # What is beyond the last does what the last does, and writes it again.
        w("number_ = tl.minimum(number_, count - 1)")
        w(f"node = number_ // {self.channels}")
        w(f"channel = number_ - node * {self.channels}")
        for name in inputs:
            w(f"at = {name} + node * {len(self._rows(name)) * self.channels} + channel")
            for n, row in enumerate(self._rows(name)):
                w(f"{row} = {self._memory.load('at', n * self.channels)}")
        for name in sums:
            for row in self._rows(name):
                w(f"{row} = tl.zeros([{self.numbers}], dtype=number)")
        return w

    @contextmanager
    def _points(self, w: Writer) -> Iterator[None]:
        """The loop over rows of the table."""
        with w.block(f"for point in range({self.points}):"):
            w(f"place = table + point * {sum(self.form.columns)}")
            yield

    def _end(self, w: Writer, name: str, inputs: Sequence[str], results: dict[str, str]) -> Kernel:
        """Store the sums; ``results`` names the argument of each."""
        for sums, result in results.items():
            w(f"at = {result} + node * {len(self._rows(sums)) * self.channels} + channel")
            for n, row in enumerate(self._rows(sums)):
                w(self._memory.store("at", n * self.channels, row))
        parameters: dict[str, Kind] = dict.fromkeys((*inputs, "table", *results.values()), "numbers")
        return Kernel(name, parameters | {"count": "size"}, self.dtype, w.text, warps=1)


def numbers_for(form: Form, function: str, dtype: torch.dtype, count: int) -> int:
    """Pairs of a node and a channel of a program that are best for so many.

    A constant is loaded once for all numbers of a thread, so they should be many, as far as there are registers and threads.
    """
    if interpreting():
        return NUMBERS_INTERPRETED
    inputs, results = form.rows("u") + form.rows("v"), (form.highest - 1) * len(form.out)
    kept = {"value": inputs + results, "gradient": 2 * inputs + results, "double_backward": 3 * inputs + 2 * results}[
        function
    ]
    room = ROOM[function] // (kept * dtype.itemsize // 4)
    each = next((each for each in (4, 2) if each <= room and count >= 32 * each * MANY_WARPS), 1)
    return 32 * each


@once
def kernel_for(function: str, text: str, dtype: torch.dtype, points: int, channels: int, numbers: int) -> Kernel:
    """The kernel of one of the three functions."""
    return getattr(PowerTiles(form_of(text), dtype, points, channels, numbers), function)()


def run(function: str, inputs: Sequence[Tensor], table: Tensor, text: str, results: Sequence[Tensor]) -> None:
    """Fill ``results`` by one of the three functions; all tensors contiguous."""
    nodes, channels = inputs[0].shape[0], inputs[0].shape[-1]
    numbers = numbers_for(form_of(text), function, table.dtype, nodes * channels)
    kernel = kernel_for(function, text, table.dtype, len(table), channels, numbers)
    kernel((-(-nodes * channels // numbers),), *inputs, table, *results, nodes * channels)
