"""The pair product in torch: path by path, the oracle of tests, and in batches of matrix products."""

from __future__ import annotations

import math
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from equinet.ops.constants import ConstantModule
from equinet.ops.coupling.clebsch_gordan import clebsch_gordan
from equinet.ops.kernels.choice import REFERENCE, TORCH, KernelChoice, WithKernels
from equinet.ops.protocols import Pair
from equinet.ops.spec import Path, TensorProductSpec


class ExactPair(WithKernels, ConstantModule):
    """Base of the executors with exact couplings, a weight for each path.

    Args:
        spec: Specification of the product.
    """

    initial_scale: Tensor

    def __init__(self, spec: TensorProductSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight_numel = len(spec.paths)
        counts = [spec.paths_per_output[path.out] for path in spec.paths]
        self.register_constant("initial_scale", torch.tensor(counts, dtype=torch.float64).rsqrt())

    def path_weights(self, weight: Float[Tensor, "*rows weights channels"]) -> Float[Tensor, "*rows paths channels"]:
        return weight

    def extra_repr(self) -> str:
        return f"{self.spec}; {self.kernel}"


def coupling_of(spec: TensorProductSpec, path: Path) -> Float[Tensor, "dim1 dim2 dim_out"]:
    """The coupling tensor of one path, scaled so that inputs of unit variance give a result of unit variance."""
    l1, l2 = spec.irreps_in1[path.i1].ir.l, spec.irreps_in2[path.i2].ir.l
    return math.sqrt(path.out.dim) * clebsch_gordan(l1, l2, path.out.l)


class ReferencePair(ExactPair):
    """The formula of :class:`TensorProductSpec` for a pair product, path by path. The oracle of tests.

    Args:
        spec: Specification of the product.
        like: An executor whose result is to be computed, by its ``path_weights``; by default every path has a weight.
    """

    kernels = REFERENCE

    def __init__(self, spec: TensorProductSpec, like: Pair | None = None) -> None:
        super().__init__(spec)
        self.like = like  # a module within this one, so that its constants have the same precision
        if like is not None:
            self.weight_numel = like.weight_numel
            self.register_constant("initial_scale", like.initial_scale.double())
        for n, path in enumerate(spec.paths):
            self.register_constant(f"coupling_{n}", coupling_of(spec, path))

    def forward(
        self,
        x: Float[Tensor, "rows dim1 channels"],
        y: Float[Tensor, "rows dim2 channels"],
        weight: Float[Tensor, "*rows_or_none weights channels"],
    ) -> Float[Tensor, "rows out channels"]:
        parts1 = x.split([ir.dim for _, ir in self.spec.irreps_in1], dim=1)
        parts2 = y.split([ir.dim for _, ir in self.spec.irreps_in2], dim=1)
        terms: dict[object, list[Tensor]] = {}
        for n, (path, w) in enumerate(zip(self.spec.paths, self.path_weights(weight).unbind(-2))):
            z = torch.einsum("ijk,nic,njc->nkc", getattr(self, f"coupling_{n}"), parts1[path.i1], parts2[path.i2])
            terms.setdefault(path.out, []).append(z * w.unsqueeze(-2))
        return torch.cat([torch.stack(found).sum(0) for found in terms.values()], dim=1)

    def path_weights(self, weight: Tensor) -> Tensor:
        return weight if self.like is None else self.like.path_weights(weight)


class BatchedPair(ExactPair):
    """The same, all couplings of two irreps at once: one matrix of couplings times the products of their components.

    Args:
        spec: Specification of the product.
        kernels: Request that torch answers, with the reason if that was ``"auto"``; shown by ``repr``.
    """

    def __init__(self, spec: TensorProductSpec, kernels: KernelChoice = TORCH) -> None:
        super().__init__(spec)
        self.kernels = kernels
        by_inputs = sorted(range(len(spec.paths)), key=lambda n: (*spec.paths[n][:2], n))
        self.groups: list[tuple[int, int, list[int]]] = []  # both inputs, and the paths between them
        for (i1, i2), found in groupby(by_inputs, key=lambda n: spec.paths[n][:2]):
            paths = list(found)
            tables = [coupling_of(spec, spec.paths[n]).permute(2, 0, 1).flatten(1) for n in paths]
            self.register_constant(f"table_{len(self.groups)}", torch.cat(tables))  # (components, dim1 * dim2)
            self.groups.append((i1, i2, paths))

    def forward(
        self,
        x: Float[Tensor, "rows dim1 channels"],
        y: Float[Tensor, "rows dim2 channels"],
        weight: Float[Tensor, "*rows_or_none weights channels"],
    ) -> Float[Tensor, "rows out channels"]:
        spec, weights = self.spec, weight.unsqueeze(-3).unbind(-2)
        parts1 = x.split([ir.dim for _, ir in spec.irreps_in1], dim=1)
        parts2 = y.split([ir.dim for _, ir in spec.irreps_in2], dim=1)
        sums: dict[object, Tensor] = {}
        for g, (i1, i2, paths) in enumerate(self.groups):
            products = (parts1[i1].unsqueeze(2) * parts2[i2].unsqueeze(1)).flatten(1, 2)
            coupled = getattr(self, f"table_{g}") @ products
            outs = [spec.paths[n].out for n in paths]
            for n, out, z in zip(paths, outs, coupled.split([out.dim for out in outs], dim=1)):
                sums[out] = torch.addcmul(sums[out], z, weights[n]) if out in sums else z * weights[n]
        return torch.cat([sums[out] for out in spec.copies], dim=1)
