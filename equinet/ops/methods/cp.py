"""The product with a tensor of couplings in CP form: exact from some rank on, approximate below."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn

from equinet.ops.codegen import tiles
from equinet.ops.constants import FRESH_DTYPE, ConstantModule, Float64Buffers
from equinet.ops.coupling.cp import coupling_tensor, cp_factors
from equinet.ops.coupling.pairings import Pairing, uniform
from equinet.ops.factorised.algebra import Pointwise
from equinet.ops.factorised.chains import Chain, DenseChain, rows_of, where_streamed
from equinet.ops.kernels.power import operator
from equinet.ops.kernels.power.gpu import Form
from equinet.ops.layout import is_true, one_of_each
from equinet.ops.spec import ManyBodySpec

from .arguments import require_one_of, require_whole
from .factorised import FactorisedMethod, Product

# Every coupling up to degree 3 is exact from 92 terms on; 256 take 7 s to find for these (one thread), 512 more than a minute.
MOST_TERMS = 256

_fit: ContextVar[bool] = ContextVar("fit", default=True)


@contextmanager
def factors_to_be_loaded() -> Iterator[None]:
    """Within it, executors start without factors (NaN): a saved model brings its own, and finding them takes seconds."""
    token = _fit.set(False)
    try:
        yield
    finally:
        _fit.reset(token)


@dataclass(frozen=True, kw_only=True)
class CPDecomposed(FactorisedMethod):
    r"""All couplings with the same strength, as a sum of ``rank`` products of one number of each input (Tensor Decomposition Networks).

    .. math:: z_k = \sum_{r=1}^{\text{rank}} A_{rk} \, (B_r \cdot x) \, (C_r \cdot y)

    Below the rank at which the decomposition becomes exact the product is equivariant only up to its error, a number that
    :func:`equinet.ops.explain` states. Couplings between true tensors are found exact from
    rank 6, 20 and 64 for degrees 1, 2 and 3; with all couplings, odd ones too, from 8, 32 and 92.

    Args:
        rank: Number of terms, up to 256.
        factors: ``"als"``: alternating least squares, then fixed and saved with the model. ``"trainable"``: the same as a start,
            then trained with the model, which gives up equivariance for whatever the data prefer.
        copies, weights, backend: See :class:`equinet.ops.methods.factorised.FactorisedMethod`. ``weights="shared"`` is the
            path-weight sharing of the source. ``backend="reference"`` has no decomposition: the exact tensor it stands for.

    Source:
        Lin et al. 2025, arXiv 2507.01131.
    """

    approximates: ClassVar[bool] = True  # its reference form is the exact tensor, which is another function
    rank: int
    factors: Literal["als", "trainable"] = "als"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("rank", self.rank, MOST_TERMS)
        require_one_of("factors", self.factors, ("als", "trainable"))

    def products(self) -> tuple[Product, ...]:
        return (OfTerms(self.rank, self.factors == "trainable"),)

    def why_not(self, path: str) -> str:
        raise AssertionError(f"{path}: a decomposition has every path")


@dataclass(frozen=True)
class OfTerms(Product):
    """Product by the terms of a decomposition."""

    rank: int
    trainable: bool

    def pairing(self, highest: int) -> Pairing:
        return uniform

    def algebra(self, irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps) -> CPTerms:
        return CPTerms(irreps1, irreps2, irreps_out, self.rank, self.trainable)

    def chain(self, spec: ManyBodySpec) -> Chain:
        return TermChain(spec, self.rank, self.trainable)

    def streamed_chain(self, spec: ManyBodySpec) -> Chain:
        # Factors that are trained need gradients, which the kernels do not have.
        return TermChain(spec, self.rank, self.trainable, in_kernel=not self.trainable)

    def reference_chain(self, spec: ManyBodySpec) -> Chain:
        kept = {ir for _, ir in kept_irreps(spec)}
        return DenseChain(spec, uniform, keep=kept.__contains__)

    def tensors(self, spec: ManyBodySpec) -> DenseChain | None:
        # The factors are an approximation of the exact tensor, which has few entries where they have all.
        return None

    def commutes(self, spec: ManyBodySpec) -> bool:
        # Couplings with odd l1 + l2 + l3 are antisymmetric; between true tensors there are none.
        return all(is_true(ir) for _, ir in spec.irreps_in + spec.irreps_out)

    def calibration_chain(self, spec: ManyBodySpec) -> Chain:
        # Of the exact tensor: sizes must not depend on factors that are not there yet.
        return self.reference_chain(spec)


def kept_irreps(spec: ManyBodySpec) -> o3.Irreps:
    """Irreps of products that are multiplied further: those of features and result, one of each."""
    return o3.Irreps([(1, ir) for ir in sorted({ir for _, ir in spec.irreps_in + spec.irreps_out})])


class CPTerms(Pointwise):
    """Terms of a CP decomposition, found when built and saved with the model: no other machine need find the same ones."""

    def __init__(
        self, irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps, rank: int, trainable: bool
    ) -> None:
        ConstantModule.__init__(self)
        self.rank, self.trainable = rank, trainable
        self._irreps = tuple(one_of_each(irreps) for irreps in (irreps1, irreps2, irreps_out))
        shapes = [(rank, irreps.dim) for irreps in self._irreps]
        if _fit.get():
            found = cp_factors(self.exact(), rank)
            values = [torch.tensor(f, dtype=torch.float64) for f in (found.left, found.right, found.out)]
        else:
            values = [torch.full(shape, torch.nan, dtype=torch.float64) for shape in shapes]
        self.factors = TrainedFactors(values) if trainable else FixedFactors(values)
        self.register_constant("row_scale", torch.ones(self._irreps[2].dim, dtype=torch.float64))

    def exact(self) -> np.ndarray:
        """The tensor that the terms stand for."""
        return coupling_tensor(*self._irreps)

    @property
    def to_left(self) -> Tensor:  # type: ignore[override]
        return self.factors(0, self.row_scale.dtype)

    @property
    def to_right(self) -> Tensor:  # type: ignore[override]
        return self.factors(1, self.row_scale.dtype)

    @property
    def to_out(self) -> Tensor:  # type: ignore[override]
        return (self.factors(2, self.row_scale.dtype) * self.row_scale).T

    def scale_out(self, factors: Float[Tensor, " dim_out"]) -> None:
        self.register_constant("row_scale", self.originals["row_scale"] * factors)

    def extra_repr(self) -> str:
        return f"{self.rank} terms" + (", trained" if self.trainable else "")


class FixedFactors(Float64Buffers):
    """Three matrices kept, and saved, in float64."""

    def __init__(self, values: list[Tensor]) -> None:
        super().__init__()
        for n, value in enumerate(values):
            self.register_buffer(f"factor_{n}", value)

    def forward(self, n: int, dtype: torch.dtype) -> Tensor:
        return getattr(self, f"factor_{n}").to(dtype)


class TrainedFactors(nn.Module):
    """Three matrices as parameters, in float32 until the module is moved to another precision."""

    def __init__(self, values: list[Tensor]) -> None:
        super().__init__()
        self.values = nn.ParameterList([value.to(FRESH_DTYPE) for value in values])

    def forward(self, n: int, dtype: torch.dtype) -> Tensor:
        return self.values[n]


class TermChain(ConstantModule, Chain):
    """Products of several factors, back in irreps after each: the terms of a decomposition are no space to stay in.

    Args:
        spec: Irreps and number of factors.
        rank: Number of terms, up to 256.
        trainable: True if the factors are parameters.
        in_kernel: True if on GPUs each product is to be one kernel, which leaves no terms in memory; for fixed factors.
    """

    of_factor: Tensor
    of_out: Tensor

    def __init__(self, spec: ManyBodySpec, rank: int, trainable: bool, in_kernel: bool = False) -> None:
        super().__init__()
        factor, outputs = one_of_each(spec.irreps_in), one_of_each(spec.irreps_out)
        kept = kept_irreps(spec)
        self.algebra, self.in_kernel = CPTerms(kept, factor, kept, rank, trainable), in_kernel
        self.register_constant("of_factor", torch.tensor(rows_of(factor, kept)))
        self.register_constant("of_out", torch.tensor(rows_of(outputs, kept)))

    def products(self, u: Tensor, v: Tensor, highest: int) -> list[Tensor]:
        if self.in_kernel and tiles.runs_on(u, v):
            return self._products_in_kernels(u, v, highest)
        factor, results = self.algebra.right(v), []
        product = self.algebra.to_left.index_select(1, self.of_factor) @ u
        for _ in range(2, highest + 1):
            irreps = self.algebra.back(self.algebra.multiply(product, factor))
            results.append(irreps.index_select(1, self.of_out))
            product = self.algebra.left(irreps)
        return results

    def _products_in_kernels(self, u: Tensor, v: Tensor, highest: int) -> list[Tensor]:
        # Made anew in every call, as factors may be loaded or moved in between; they are small.
        left, right, back = self.algebra.to_left, self.algebra.to_right, self.algebra.to_out.T
        product, to_left, results = u, left.index_select(1, self.of_factor), []
        for _ in range(2, highest + 1):
            table = torch.cat([to_left, right, back], dim=1)
            slots = "." * to_left.shape[1], "." * right.shape[1]
            product = operator.value([product, v], table, Form("product", slots, 2, "." * back.shape[1])).squeeze(1)
            results.append(product.index_select(1, self.of_out))
            to_left = left
        return results

    def extra_repr(self) -> str:
        return where_streamed() if self.in_kernel else ""
