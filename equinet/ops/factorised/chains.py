"""Products of several factors in an algebra, one after the other: in torch, and for GPUs in one kernel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn

from equinet.ops.codegen import tiles
from equinet.ops.constants import ConstantModule
from equinet.ops.coupling.pairings import Pairing, dense_tensor
from equinet.ops.kernels.power import gpu, operator
from equinet.ops.layout import one_of_each
from equinet.ops.spec import ManyBodySpec

from .algebra import Algebra, Pointwise, parity_letters


class Chain(nn.Module, ABC):
    """Products :math:`u * v`, :math:`u * v * v`, ... of features, one after the other.

    Attributes:
        in_kernel: True if on GPUs there is a kernel for all of it.
    """

    in_kernel = False

    @abstractmethod
    def products(
        self, u: Float[Tensor, "nodes dim channels"], v: Float[Tensor, "nodes dim channels"], highest: int
    ) -> list[Float[Tensor, "nodes out channels"]]:
        """The products of 2, 3, ... ``highest`` factors."""


class StreamedPowers(ConstantModule):
    """Products at points in one kernel, which leaves no values there in memory, for GPUs (:mod:`.kernels.power_tiles`).

    Args:
        kind: Kind of the products, see :data:`.kernels.power_tiles.KINDS`.
        tables: Matrices to the points, for every slot of that kind, and, transposed, back.
        letters: For every column of the tables whether it is even or odd under inversion: opposite points are then worked out
            together, if every point has its opposite.
    """

    table: Tensor

    def __init__(self, kind: str, tables: Sequence[Float[Tensor, "points _dim"]], letters: Sequence[str]) -> None:
        super().__init__()
        table, letters = gpu.fold(tables, letters)
        self._kind, self._slots, self._out = kind, tuple(letters[:-1]), letters[-1]
        self.register_constant("table", table)

    def form(self, highest: int) -> gpu.Form:
        """Form of the kernel for up to ``highest`` factors."""
        return gpu.Form(self._kind, self._slots, highest, self._out)

    def forward(
        self, fields: Sequence[Float[Tensor, "nodes _dim channels"]], highest: int
    ) -> list[Float[Tensor, "nodes out channels"]]:
        return list(operator.value(fields, self.table, self.form(highest)).unbind(1))

    def extra_repr(self) -> str:
        sides = len(self.form(2).sides)
        return f"{sides * len(self.table)} points{', in pairs' if sides == 2 else ''}; {where_streamed()}"


def where_streamed() -> str:
    """Devices on which products are computed by kernels, in words."""
    reason = tiles.unavailable()
    return "on GPUs by kernels" if reason is None else f"on GPUs by torch too: {reason}"


class PointKernels(nn.Module):
    """Products by values at points, each chain of them one kernel on GPUs.

    Args:
        points: The product at points, which best are in pairs of opposite ones.
        factor: Irreps of the inputs, one of each.
        out: Irreps of the result.

    Raises:
        ValueError: If ``points`` takes its two inputs to values in two ways.
    """

    def __init__(self, points: Pointwise, factor: o3.Irreps, out: o3.Irreps) -> None:
        super().__init__()
        left, right, back = (points.originals[name] for name in ("to_left", "to_right", "to_out"))
        if not torch.equal(left, right):
            raise ValueError("`points` must take both of its inputs to values in the same way")
        rows, out_rows = parity_letters(factor), parity_letters(out)
        self.of_one = StreamedPowers("power", [left, back.T], [rows, out_rows])
        self.of_two = StreamedPowers("product", [left, left, back.T], [rows, rows, out_rows])

    def forward(self, u: Tensor, v: Tensor, highest: int) -> list[Tensor]:
        result: list[Tensor] = self.of_one([u], highest) if u is v else self.of_two([u, v], highest)
        return result


class AlgebraChain(Chain):
    """Products in one algebra, taken back after every factor; the running product itself stays there.

    Args:
        algebra: The product in torch.
        on_gpu: The same product for GPUs; by default torch computes there too.
    """

    def __init__(self, algebra: Algebra, on_gpu: PointKernels | None = None) -> None:
        super().__init__()
        self.algebra, self.on_gpu = algebra, on_gpu
        self.in_kernel = on_gpu is not None

    def products(self, u: Tensor, v: Tensor, highest: int) -> list[Tensor]:
        if self.on_gpu is not None and tiles.runs_on(u, v):
            result: list[Tensor] = self.on_gpu(u, v, highest)
            return result
        return self.products_in_torch(u, v, highest)

    def products_in_torch(self, u: Tensor, v: Tensor, highest: int) -> list[Tensor]:
        """The products of 2, 3, ... ``highest`` factors by torch, on any device."""
        factor = self.algebra.right(v)
        product, results = self.algebra.left(u), []
        for _ in range(2, highest + 1):
            product = self.algebra.multiply(product, factor)
            results.append(self.algebra.back(product))
        return results


class DenseChain(ConstantModule, Chain):
    """The reference form of every chain: coupling tensors between irreps, one for each further factor.

    Args:
        spec: Irreps and number of factors.
        first: Strengths of the couplings of the first two factors.
        then: Strengths of the couplings of a product with a further factor; by default ``first``.
        keep: Irreps of products that are multiplied further; by default all.
    """

    def __init__(
        self,
        spec: ManyBodySpec,
        first: Pairing,
        then: Pairing | None = None,
        keep: Callable[[o3.Irrep], bool] = lambda _: True,
    ) -> None:
        super().__init__()
        factor, outputs = one_of_each(spec.irreps_in), one_of_each(spec.irreps_out)
        so_far = factor
        for nu in range(2, spec.correlation + 1):
            # From higher degrees further factors do not lead down to the result.
            highest = outputs.lmax + (spec.correlation - nu) * factor.lmax
            reached = {
                out for _, ir1 in so_far for _, ir2 in factor for out in ir1 * ir2 if keep(out) and out.l <= highest
            }
            product = o3.Irreps([(1, ir) for ir in sorted(reached | {ir for _, ir in outputs})])
            pairing = first if nu == 2 else then or first
            self.register_constant(f"tensor_{nu}", dense_tensor(so_far, factor, product, pairing))
            self.register_constant(f"rows_{nu}", torch.tensor(rows_of(outputs, product)))
            so_far = product

    def products(self, u: Tensor, v: Tensor, highest: int) -> list[Tensor]:
        product, results = u, []
        for nu in range(2, highest + 1):
            product = torch.einsum("ijk,nic,njc->nkc", getattr(self, f"tensor_{nu}"), product, v)
            results.append(product.index_select(1, getattr(self, f"rows_{nu}")))
        return results


def rows_of(some: o3.Irreps, among: o3.Irreps) -> list[int]:
    """Rows that hold ``some`` irreps, in their order, among others; one channel each."""
    where = {ir: part for (_, ir), part in zip(among, among.slices())}
    return [row for _, ir in some for row in range(where[ir].start, where[ir].stop)]
