"""Couplings of a convolution as what generated code runs through: which number times which adds to which."""

from __future__ import annotations

import hashlib
import math
from functools import cache
from typing import NamedTuple

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.devices import made_on_cpu
from equinet.ops.spec import TensorProductSpec


class Entry(NamedTuple):
    """A non-zero T of one path: from component ``i`` of the features to component ``k`` of the result, number ``t`` of all."""

    t: int
    i: int
    k: int


class Block(NamedTuple):
    """Couplings that one weight multiplies, such as a path: places of features and results, and coefficients.

    Attributes:
        weight: Row of the weights.
        inputs: Rows of the features.
        outputs: Rows of the result.
        sign: -1 if T changes sign with the direction of the edge, else 1.
        entries: The non-zero T.
    """

    weight: int
    inputs: list[int]
    outputs: list[int]
    sign: int
    entries: list[Entry]


class Couplings:
    """The non-zero couplings of a convolution, as numbers of rows and columns.

    Args:
        channels: Channels of features and result.
        dim, harmonics, rows, weights: Rows of the features, numbers of the harmonics, rows of the result, weights of an edge.
        odd: Harmonics that change sign with the direction of the edge.
        blocks: Couplings that share a weight.
        terms: For each T the harmonics and coefficients of which it is the sum.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        harmonics: int,
        rows: int,
        weights: int,
        odd: list[bool],
        blocks: list[Block],
        terms: list[list[tuple[int, float]]],
    ) -> None:
        self.channels, self.dim, self.harmonics, self.rows, self.weights = channels, dim, harmonics, rows, weights
        self.odd, self.blocks, self.terms = odd, blocks, terms

    @classmethod
    def of_paths(cls, spec: TensorProductSpec) -> Couplings:
        """Every path with a weight and rows of its own."""
        blocks: list[Block] = []
        terms: list[list[tuple[int, float]]] = []
        starts1 = [part.start // spec.channels for part in spec.irreps_in1.slices()]
        starts2 = [part.start for part in spec.irreps_in2.slices()]
        for n, path in enumerate(spec.paths):
            ir1, ir2 = spec.irreps_in1[path.i1].ir, spec.irreps_in2[path.i2].ir
            table = math.sqrt(path.out.dim) * clebsch_gordan(ir1.l, ir2.l, path.out.l)
            entries = _entries(table, starts2[path.i2], terms)
            inputs = [starts1[path.i1] + i for i in range(ir1.dim)]
            blocks.append(Block(n, inputs, spec.row_of(n), (-1) ** ir2.l, entries))
        dim = spec.irreps_in1.dim // spec.channels
        return cls(
            spec.channels, dim, spec.irreps_in2.dim, spec.rows, len(spec.paths), _odd(spec.irreps_in2), blocks, terms
        )

    @classmethod
    def of_tensor(
        cls,
        spec: TensorProductSpec,
        tensor: Float[Tensor, "dim1 dim2 dim_out"],
        parts: list[tuple[slice, slice, slice]],
        outputs: list[list[int]],
    ) -> Couplings:
        """Parts of a tensor, each with a weight, into the same rows; and that several times with weights of their own.

        Args:
            spec: Irreps of features and harmonics.
            tensor: Coupling tensor between one copy of each irrep, float64.
            parts: Ranges of its three axes; each begins and ends with irreps, and its harmonics are all of even or all of odd degree.
            outputs: For each copy the rows of the result that its components are.
        """
        terms: list[list[tuple[int, float]]] = []
        scale = float(tensor.abs().max())
        irrep_of = [ir for _, ir in spec.irreps_in2 for _ in range(ir.dim)]
        blocks: list[Block] = []
        for first, second, third in parts:
            (sign,) = {(-1) ** ir.l for ir in irrep_of[second]}
            entries = _entries(tensor[first, second, third] / scale, second.start, terms, scale)
            inputs = list(range(tensor.shape[0]))[first]
            blocks += [
                Block(copy * len(parts) + len(blocks) // len(outputs), inputs, rows[third], sign, entries)
                for copy, rows in enumerate(outputs)
            ]
        weights, rows, (dim, harmonics, _) = len(parts) * len(outputs), sum(map(len, outputs)), tensor.shape
        return cls(spec.channels, dim, harmonics, rows, weights, _odd(spec.irreps_in2), blocks, terms)

    @property
    def name(self) -> str:
        """Name of these couplings, as operators take it."""
        content = repr((vars(self), self.blocks))
        return hashlib.sha256(content.encode()).hexdigest()


def _entries(
    table: Float[Tensor, "dim1 dim2 dim_out"], start: int, terms: list[list[tuple[int, float]]], scale: float = 1.0
) -> list[Entry]:
    """The non-zero T of one block; what they are made of goes to the end of ``terms``."""
    entries = []
    for i, k in torch.nonzero(~(table.abs().amax(1) <= 1e-12)).tolist():  # what is no number yet may become one
        entries.append(Entry(len(terms), i, k))
        found = [(start + j, value) for j, value in enumerate(table[i, :, k].tolist())]
        terms.append([(j, scale * value) for j, value in found if not abs(value) <= 1e-12])
    return entries


def _odd(irreps: o3.Irreps) -> list[bool]:
    """Y_lm(-r) = (-1)^l Y_lm(r), whatever parity the irrep is labelled with."""
    return [ir.l % 2 == 1 for _, ir in irreps for _ in range(ir.dim)]


_remembered: dict[str, Couplings] = {}


def name_of(spec: TensorProductSpec) -> str:
    """The couplings of all paths of a spec as the argument ``product`` of the operators."""
    return " x ".join(map(str, (spec.irreps_in1, spec.irreps_in2, spec.outputs)))


def remember(couplings: Couplings) -> str:
    """Any couplings as the argument ``product`` of the operators."""
    name = couplings.name
    _remembered.setdefault(name, couplings)
    return name


@cache
@made_on_cpu
def couplings_of(product: str) -> Couplings:
    """Couplings by the name that operators take."""
    if product in _remembered:
        return _remembered[product]
    irreps1, irreps2, outputs = product.split(" x ")
    return Couplings.of_paths(TensorProductSpec(irreps1, irreps2, outputs))
