"""e3nn's TensorProduct, with the gather and the sum that MACE and NequIP put around it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from e3nn import o3
from torch import Tensor

from equinet.bench.products import reference
from equinet.bench.products.contenders import Bound, all_couplings, pair_inputs
from equinet.bench.products.problems import Problem
from equinet.ops.layout import from_mul_ir, to_mul_ir
from equinet.ops.spec import ManyBodySpec, TensorProductSpec


@dataclass(frozen=True)
class E3nn:
    """``o3.TensorProduct`` with ``uvu`` instructions, one per path in our order, weights of their own for each pair.

    A pair product has ``uuu`` instructions, one per path into the output of its irrep, and weights that all rows share.
    """

    name: str = "e3nn"
    absent: str | None = None

    def build(self, spec: TensorProductSpec | ManyBodySpec, dtype: torch.dtype, device: torch.device) -> MulIrBuilt:
        assert isinstance(spec, TensorProductSpec)
        product: Any = o3.TensorProduct(
            spec.irreps_in1,
            spec.irreps_in2,
            pair_irreps(spec) if spec.pair else path_irreps(spec),
            uuu_instructions(spec) if spec.pair else uvu_instructions(spec),
            shared_weights=spec.pair,
            internal_weights=False,
            irrep_normalization="component",
            path_normalization="none" if spec.pair else "element",
        )
        product = product.to(dtype).to(device)
        # It makes its couplings in torch's default dtype; with those of float32 it would err by 1e-8 in float64.
        for name, buffer in product.named_buffers():
            if match := re.search(r"_w3j_(\d+)_(\d+)_(\d+)$", name):
                degrees = map(int, match.groups())
                buffer.copy_(o3.wigner_3j(*degrees, dtype=dtype, device=device))

        def convolution(x: Tensor, y: Tensor, weight: Tensor, index: Tensor) -> Tensor:
            messages = product(x[index[0]], y, weight)
            return torch.zeros(len(x), messages.shape[1], dtype=x.dtype, device=x.device).index_add_(
                0, index[1], messages
            )

        def pairs(x: Tensor, y: Tensor, weight: Tensor, index: Tensor) -> Tensor:
            result: Tensor = product(x, y, weight)
            return result

        if spec.pair:
            return MulIrPairBuilt(spec, dtype, device, {"tp": pairs})
        return MulIrBuilt(spec, dtype, device, {"tp": pairs, "conv": convolution})


def path_irreps(spec: TensorProductSpec) -> o3.Irreps:
    """The output of every path, with its channels."""
    return o3.Irreps([(spec.channels, path.out) for path in spec.paths])


def uvu_instructions(spec: TensorProductSpec) -> list[tuple[int, int, int, str, bool]]:
    """Every path with an output and weights of its own."""
    return [(path.i1, path.i2, n, "uvu", True) for n, path in enumerate(spec.paths)]


def pair_irreps(spec: TensorProductSpec) -> o3.Irreps:
    """Every output once, with its channels."""
    return o3.Irreps([(spec.channels, out) for out in spec.copies])


def uuu_instructions(spec: TensorProductSpec) -> list[tuple[int, int, int, str, bool]]:
    """Every path into the output of its irrep, with weights of its own."""
    places = list(spec.copies)
    return [(path.i1, path.i2, places.index(path.out), "uuu", True) for path in spec.paths]


class MulIrBuilt:
    """A product in e3nn's layout, with outputs and weights path after path: its leaves become ours by transposing."""

    same_function = True

    def __init__(self, spec: TensorProductSpec, dtype: torch.dtype, device: torch.device, calls: Any) -> None:
        self.spec, self.dtype, self.device, self._calls = spec, dtype, device, calls
        self.expressivity = all_couplings(spec)

    def flops(self, problem: Problem) -> float | None:
        return None

    def bind(self, problem: Problem) -> Bound:
        spec, index = self.spec, problem.edge_index().to(self.device)
        x, y, vectors = pair_inputs(problem, self.dtype, self.device)
        weight = torch.randn(problem.edges, len(spec.paths) * spec.channels, dtype=self.dtype, device=self.device)
        call = self._calls[problem.kind]

        def expected(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
            ours = from_mul_ir(x, spec.irreps_in1), y, w.unflatten(1, (-1, spec.channels))
            rows = [row for n in range(len(spec.paths)) for row in spec.row_of(n)]
            return to_mul_ir(reference.convolution(spec, *ours, index)[:, rows], path_irreps(spec))

        return Bound(
            (to_mul_ir(x, spec.irreps_in1), y, weight), lambda x, y, w: call(x, y, w, index), expected, vectors
        )


class MulIrPairBuilt(MulIrBuilt):
    """The same of a pair product."""

    def bind(self, problem: Problem) -> Bound:
        spec = self.spec
        x, y, _ = pair_inputs(problem, self.dtype, self.device)
        weight = torch.randn(len(spec.paths) * spec.channels, dtype=self.dtype, device=self.device)
        call = self._calls[problem.kind]

        def expected(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
            ours = from_mul_ir(x, spec.irreps_in1), from_mul_ir(y, spec.irreps_in2), w.view(-1, spec.channels)
            return to_mul_ir(reference.pair(spec, *ours), pair_irreps(spec))

        leaves = to_mul_ir(x, spec.irreps_in1), to_mul_ir(y, spec.irreps_in2), weight
        return Bound(leaves, lambda x, y, w: call(x, y, w, x), expected, weights_stay=True)
