"""NVIDIA's cuequivariance: its torch forms, and its CUDA kernels where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from e3nn import o3
from torch import Tensor

from equinet.bench.products import reference
from equinet.bench.products.contenders import Bound, all_couplings, pair_inputs
from equinet.bench.products.problems import Problem
from equinet.ops.external.cuequivariance import kernels_unavailable, unavailable
from equinet.ops.kernels.node.reference import ReferenceManyBody
from equinet.ops.layout import one_of_each
from equinet.ops.spec import ManyBodySpec, TensorProductSpec
from equinet.ops.species import SpeciesGroups


@dataclass(frozen=True)
class CuEquivariance:
    """``ChannelWiseTensorProduct`` and ``SymmetricContraction``, by one of the library's methods."""

    method: str
    device: str

    @property
    def name(self) -> str:
        return f"cuequivariance {self.method}"

    @property
    def absent(self) -> str | None:
        if self.method == "naive" or unavailable():
            return unavailable()
        if self.device != "cuda":
            return "its kernels are for CUDA, and this is measured on the processor"
        return kernels_unavailable()

    def build(
        self, spec: TensorProductSpec | ManyBodySpec, dtype: torch.dtype, device: torch.device
    ) -> PairsBuilt | ContractionBuilt:
        if isinstance(spec, ManyBodySpec):
            return ContractionBuilt(spec, dtype, device, self.method)
        return PairsBuilt(spec, dtype, device, self.method)


def _irreps(irreps: o3.Irreps) -> Any:
    import cuequivariance as cue

    return cue.Irreps("O3", "+".join(f"{mul}x{ir}" for mul, ir in irreps))


class PairsBuilt:
    """The product of pairs, and with indices for gather and sum the convolution; channels innermost, as ours."""

    same_function = True

    def __init__(self, spec: TensorProductSpec, dtype: torch.dtype, device: torch.device, method: str) -> None:
        import cuequivariance as cue
        import cuequivariance_torch as cuet

        self.spec, self.dtype, self.device = spec, dtype, device
        self.expressivity = all_couplings(spec)
        wanted = [cue.O3(out.l, out.p) for out in spec.paths_per_output]
        irreps = _irreps(spec.irreps_in1), _irreps(spec.irreps_in2)
        self._product: Any = cuet.ChannelWiseTensorProduct(
            *irreps,
            wanted,
            layout=cue.ir_mul,
            shared_weights=False,
            internal_weights=False,
            device=device,
            dtype=dtype,
            math_dtype=dtype,
            method=method,
        )
        described = cue.descriptors.channelwise_tensor_product(*irreps, wanted)
        outputs = [o3.Irrep(ir.l, ir.p) for _, ir in described.outputs[0].irreps]
        ((_, terms),) = described.polynomial.operations
        places = {path: n for n, path in enumerate(spec.paths)}
        weights, results = {}, {}
        for path in terms.paths:
            weight, i1, i2, out = path.indices
            weights[weight] = results[out] = places[type(spec.paths[0])(i1, i2, outputs[out])]
        self._weights: Sequence[int] = [weights[n] for n in range(len(weights))]  # ours, in their order
        self._rows = [row for n in range(len(results)) for row in spec.row_of(results[n])]

    def flops(self, problem: Problem) -> float | None:
        return None

    def bind(self, problem: Problem) -> Bound:
        spec, product, nodes = self.spec, self._product, problem.nodes
        index = problem.edge_index().to(self.device)
        x, y, vectors = pair_inputs(problem, self.dtype, self.device)
        weight = torch.randn(problem.edges, len(spec.paths) * spec.channels, dtype=self.dtype, device=self.device)
        dims = [ir.dim for _, ir in spec.irreps_in1]
        back = torch.tensor(self._weights, device=self.device).argsort()

        def call(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
            result: Tensor
            if problem.kind == "tp":
                result = product(x, y, w)
            else:
                result = product(x, y, w, indices_1=index[0], indices_out=index[1], size_out=nodes)
            return result

        def expected(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
            weights = w.unflatten(1, (-1, spec.channels)).index_select(1, back)
            ours = reference.convolution(spec, x.unflatten(1, (sum(dims), -1)), y, weights, index)
            return ours[:, self._rows].flatten(1)

        return Bound((x.flatten(1), y, weight), call, expected, vectors)


class ContractionBuilt:
    """The many-body product on cuequivariance's reduced basis: other weights than ours, the same functions."""

    same_function = True

    def __init__(self, spec: ManyBodySpec, dtype: torch.dtype, device: torch.device, method: str) -> None:
        import cuequivariance as cue
        import cuequivariance_torch as cuet

        self.spec, self.dtype, self.device = spec, dtype, device
        self.expressivity = all_couplings(spec)
        orders = tuple(range(1, spec.correlation + 1))
        described = cue.descriptors.symmetric_contraction(_irreps(spec.irreps_in), _irreps(spec.irreps_out), orders)
        # what their `SymmetricContraction` calls, without its parameter
        self._product: Any = cuet.SegmentedPolynomial(described.polynomial, method=method, math_dtype=dtype).to(device)
        small = [_irreps(one_of_each(irreps)) for irreps in (spec.irreps_in, spec.irreps_out)]
        polynomial = cue.descriptors.symmetric_contraction(*small, orders).polynomial
        count = polynomial.inputs[0].size

        def evaluate(x: Tensor) -> Tensor:
            (values,) = polynomial(np.eye(count)[:, None, :], x.numpy()[None])  # one weight at a time
            return torch.from_numpy(np.ascontiguousarray(values))

        self._change = reference.same_polynomials(spec, evaluate).to(device)
        self._naive = ReferenceManyBody(spec).double().to(device)

    def flops(self, problem: Problem) -> float | None:
        return None

    def bind(self, problem: Problem) -> Bound:
        spec, product = self.spec, self._product
        species = problem.species().to(self.device)
        to: Any = {"dtype": self.dtype, "device": self.device}
        x = torch.randn(problem.nodes, spec.irreps_in.dim, **to)
        weight = torch.randn(spec.species, self._change.shape[1] * spec.channels, **to)
        groups = SpeciesGroups(species)

        def call(x: Tensor, w: Tensor) -> Tensor:
            result: Tensor = product([w, x], input_indices={0: species})[0]
            return result

        def expected(x: Tensor, w: Tensor) -> Tensor:
            ours = torch.einsum("pq,zqc->zpc", self._change, w.unflatten(1, (-1, spec.channels)))
            return self._naive(x.unflatten(1, (-1, spec.channels)), ours, groups).flatten(1)

        return Bound((x, weight), call, expected, weights_stay=True)
