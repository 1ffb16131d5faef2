r"""Couplings of a pair product as what generated code runs through, and the steps of the code for any of its derivatives.

With the weights as a third array a pair product and a cotangent z of its result are one form, linear in each of four arrays, or *roles*,

.. math:: F(x, y, w, z) = \sum_{n c} \sum_p w_{p c} \sum_{ijk} t^p_{ijk} \, x_{n i c} \, y_{n j c} \, z_{n k c}

The product is its derivative in z, gradients are its derivatives in x, y and w, and derivatives of these are derivatives of F again, with
a cotangent in the place of one of the arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple, TypeVar

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from equinet.ops.devices import made_on_cpu
from equinet.ops.layout import one_of_each
from equinet.ops.spec import TensorProductSpec

from .reference import coupling_of

ROLES = "xywz"
Part = TypeVar("Part")


class Entry(NamedTuple):
    """A coefficient t that is not zero, between rows of x, y and z."""

    x: int
    y: int
    z: int
    t: float


class Block(NamedTuple):
    """Entries between three irreps, which one weight multiplies."""

    weight: int
    entries: list[Entry]


class Table:
    """All couplings of a pair product.

    Args:
        channels: Channels of all arrays.
        sizes: Rows of each array, by role.
        blocks: Couplings by irreps.
    """

    def __init__(self, channels: int, sizes: dict[str, int], blocks: list[Block]) -> None:
        self.channels, self.sizes, self.blocks = channels, sizes, blocks

    @classmethod
    def of_paths(cls, spec: TensorProductSpec) -> Table:
        """Every path with a weight of its own."""
        starts1, starts2 = (
            [part.start for part in one_of_each(i).slices()] for i in (spec.irreps_in1, spec.irreps_in2)
        )
        blocks = []
        for n in sorted(range(len(spec.paths)), key=lambda n: (*spec.paths[n][:2], n)):  # by the irreps that are read
            path = spec.paths[n]
            starts = starts1[path.i1], starts2[path.i2], spec.row_of(n)[0]
            blocks.append(Block(n, _entries(coupling_of(spec, path), starts)))
        return cls(spec.channels, _sizes(spec, len(spec.paths)), blocks)

    @classmethod
    def of_tensor(
        cls,
        spec: TensorProductSpec,
        tensor: Float[Tensor, "dim1 dim2 rows"],
        part_of: Callable[[tuple[int, int, int]], Part],
    ) -> tuple[Table, list[Part]]:
        """The entries of a tensor between one copy of each irrep, and the parts of it that have a weight each, in the order of these.

        Args:
            spec: Irreps.
            tensor: In float64; its last axis are the rows of the result.
            part_of: Part to which the couplings of three irreps belong, by their places in both inputs and the result.
        """
        axes = [one_of_each(irreps) for irreps in (spec.irreps_in1, spec.irreps_in2)]
        axes.append(o3.Irreps([(1, out) for out in spec.copies]))
        blocks: list[Block] = []
        parts: list[Part] = []
        for places in product(*(range(len(irreps)) for irreps in axes)):
            slices = [irreps.slices()[n] for irreps, n in zip(axes, places)]
            entries = _entries(tensor[tuple(slices)], [each.start for each in slices])
            if entries:
                part = part_of(places)  # type: ignore[arg-type]  # three, as there are three axes
                if part not in parts:
                    parts.append(part)
                blocks.append(Block(parts.index(part), entries))
        return cls(spec.channels, _sizes(spec, len(parts)), blocks), parts

    def rows_with_couplings(self, role: str) -> set[int]:
        """Rows of an array that some coupling is with."""
        if role == "w":
            return {block.weight for block in self.blocks}
        return {getattr(entry, role) for block in self.blocks for entry in block.entries}

    @property
    def name(self) -> str:
        """Name of this table, as operators take it."""
        return hashlib.sha256(repr(vars(self)).encode()).hexdigest()


def _sizes(spec: TensorProductSpec, weights: int) -> dict[str, int]:
    dims = (one_of_each(irreps).dim for irreps in (spec.irreps_in1, spec.irreps_in2))
    return dict(zip(ROLES, (*dims, weights, spec.rows)))


def _entries(tensor: Float[Tensor, "dim1 dim2 dim_out"], starts: Sequence[int]) -> list[Entry]:
    found = torch.nonzero(~(tensor.abs() <= 1e-12)).tolist()  # what is no number yet may become one
    first, second, third = starts
    return [Entry(first + i, second + j, third + k, float(tensor[i, j, k])) for i, j, k in found]


_remembered: dict[str, Table] = {}


def name_of(spec: TensorProductSpec) -> str:
    """The exact couplings of a spec as the argument ``product`` of the operator."""
    return " x ".join(map(str, (spec.irreps_in1, spec.irreps_in2, spec.outputs)))


def remember(table: Table) -> str:
    """Any couplings as the argument ``product`` of the operator."""
    name = table.name
    _remembered.setdefault(name, table)
    return name


@cache
@made_on_cpu
def table_of(name: str) -> Table:
    """Table by the name that the operator takes."""
    if name in _remembered:
        return _remembered[name]
    irreps1, irreps2, outputs = name.split(" x ")
    return Table.of_paths(TensorProductSpec(irreps1, irreps2, outputs, pair=True))


class Step(NamedTuple):
    """``target += first * second`` of vectors of channels; ``first`` may be a number. A target that is new begins at zero.

    ``x3`` is row 3 of x, ``dx3`` that of the derivative in x; all other names are of one block.
    """

    target: str
    first: str | float
    second: str


def steps(block: Block, wanted: str) -> Iterator[Step]:
    """Add what one block has to the derivatives of F in the ``wanted`` roles.

    Of two derivatives wanted (of x, y and z) the couplings are contracted with the third array once for both,
    G_ij = sum_k t_ijk z_k; what its sums with one array are is then multiplied by the weight. With the array of the same role they are the
    derivative in the weight.
    """
    others = [role for role in "xyz" if role in wanted]
    rest = wanted
    if len(others) > 1:
        first, second = others[:2]
        yield from _of_two(block, first, second, weight="w" in wanted)
        rest = others[2] if len(others) == 3 else ""
    if rest:
        yield from _of_one(block, next((role for role in rest if role != "w"), "z"), wanted=rest)


def _of_two(block: Block, a: str, b: str, *, weight: bool) -> Iterator[Step]:
    """Derivatives in a and b, and with ``weight`` in w."""
    (pivot,) = set("xyz") - {a, b}
    pairs: dict[tuple[int, int], list[Entry]] = {}
    for entry in block.entries:
        pairs.setdefault((getattr(entry, a), getattr(entry, b)), []).append(entry)
    for (i, j), entries in pairs.items():
        for entry in entries:
            yield Step(f"g{i}_{j}", entry.t, f"{pivot}{getattr(entry, pivot)}")
        yield Step(f"s{a}{i}", f"{b}{j}", f"g{i}_{j}")
        yield Step(f"s{b}{j}", f"{a}{i}", f"g{i}_{j}")
    for role, rows in ((a, {i for i, _ in pairs}), (b, {j for _, j in pairs})):
        for i in sorted(rows):
            yield Step(f"d{role}{i}", f"w{block.weight}", f"s{role}{i}")
            if weight and role == a:
                yield Step(f"dw{block.weight}", f"{role}{i}", f"s{role}{i}")


def _of_one(block: Block, role: str, wanted: str) -> Iterator[Step]:
    """Derivatives in one role or, through it, in w, or in both."""
    a, b = (each for each in "xyz" if each != role)
    pairs: set[tuple[int, int]] = set()
    for entry in block.entries:
        i, j, k = (getattr(entry, each) for each in (a, b, role))
        if (i, j) not in pairs:
            yield Step(f"p{i}_{j}", f"{a}{i}", f"{b}{j}")
            pairs.add((i, j))
        yield Step(f"r{k}", entry.t, f"p{i}_{j}")
    for k in sorted({getattr(entry, role) for entry in block.entries}):
        if role in wanted:
            yield Step(f"d{role}{k}", f"w{block.weight}", f"r{k}")
        if "w" in wanted:
            yield Step(f"dw{block.weight}", f"{role}{k}", f"r{k}")


def operands(wanted: str) -> str:
    """Roles whose arrays derivatives depend on: all but one that is wanted alone."""
    return ROLES if len(wanted) > 1 else ROLES.replace(wanted, "")
