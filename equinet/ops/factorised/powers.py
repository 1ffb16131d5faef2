"""The many-body product of factorised methods: powers of one node's features in an algebra."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn

from equinet.ops.codegen import tiles
from equinet.ops.constants import FRESH_DTYPE, ConstantModule
from equinet.ops.kernels.choice import TORCH, KernelChoice, WithKernels
from equinet.ops.kernels.node.executor import why_not_on_cuda
from equinet.ops.spec import ManyBodySpec
from equinet.ops.species import SpeciesGroups

from .chains import Chain, DenseChain
from .generated_powers import PolynomialCode

# Draws by which products are brought to unit size. numpy keeps this generator's stream the same for ever, as saved weights
# rely on it. Relative to the mean square of a cubic product the error is a few per cent.
CALIBRATION_DRAWS = 4096
# Spread of the factors by which each irrep is multiplied before it enters a product; their mean is 1.
MODULATION_SPREAD = 0.5
# Mean square below which a product counts as zero by symmetry, in units of one or of the largest product of as many factors: rounding
# leaves 1e-25, a coupling 1e-4 and more.
VANISHES = 1e-16


class PowerManyBody(WithKernels, ConstantModule):
    r"""Weighted sum of the products of a chain, with a factor of its own on every irrep, per species and channel.

    .. math:: B_k = w_{1k} A_k + \sum_{r=1}^{R} \sum_{\nu=2}^{\text{correlation}} w^{r}_{\nu k} \, s_{\nu k} \,
              \big( (a^r A) * (b^r A) * \cdots * (b^r A) \big)_k

    a and b hold one number per irrep; they are the same where the product commutes. The constants s bring every product to
    unit size for features of unit variance; means are not zero and variances differ, so s is found by drawing features.
    Products that vanish by symmetry have no weight.

    The chain, in torch or by a kernel of its own on GPUs, is one form of it. With generated code it computes the same as polynomials of
    the features (:class:`~.generated_powers.PolynomialCode`), where ``kernels`` says so and the chain has no kernel.

    Args:
        spec: Specification of the product. Not all its polynomials are reached; :func:`equinet.ops.explain` counts them.
        chain: The products.
        modulations: 1 if a and b are the same, 2 if not.
        copies: R.
        linear: True if the linear term is there.
        calibrate_on: Products by which to find s, if not by ``chain`` itself.
        kernels: Choice between torch and generated code.
        dense: The products by coupling tensors, of which polynomials are made; None if there is to be no such code.

    Raises:
        ValueError: Valueerror in a call, if ``kernels`` demands generated code and there is none for the device or precision.

    Source:
        Powers of one signal: Luo et al. 2024, arXiv 2401.10216, section 3.4; the sum over copies with factors on every
        degree is a symmetric CP decomposition over degrees.
    """

    column_scale: Tensor
    irrep_of_row: Tensor
    linear_rows: Tensor

    def __init__(
        self,
        spec: ManyBodySpec,
        chain: Chain,
        *,
        modulations: int,
        copies: int,
        linear: bool = True,
        calibrate_on: Chain | None = None,
        kernels: KernelChoice = TORCH,
        dense: DenseChain | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.chain, self.modulations, self.rank = spec, chain, modulations, copies
        irreps_in = [ir for _, ir in spec.irreps_in]
        self._outputs = [ir for _, ir in spec.irreps_out]
        starts = [part.start // spec.channels for part in spec.irreps_in.slices()]
        self.register_constant(
            "irrep_of_row", torch.tensor([n for n, ir in enumerate(irreps_in) for _ in range(ir.dim)])
        )
        self.linear = [k for k, out in enumerate(self._outputs) if linear and out in irreps_in]
        rows = [starts[irreps_in.index(self._outputs[k])] + m for k in self.linear for m in range(self._outputs[k].dim)]
        self.register_constant("linear_rows", torch.tensor(rows, dtype=torch.int64))
        sizes = self._sizes(calibrate_on or chain)
        # The products there are: factors nu and output k, in the order of the weights of a copy.
        self.terms = [
            (nu, k)
            for nu, row in zip(range(2, spec.correlation + 1), sizes)
            for k, size in enumerate(row)
            if size > VANISHES * max(1.0, *row)
        ]
        scale = [1 / math.sqrt(sizes[nu - 2][k]) for nu, k in self.terms]
        self._per_copy = (modulations * len(irreps_in) if self.terms else 0, len(self.terms))
        columns = [1.0] * len(self.linear) + ([1.0] * self._per_copy[0] + scale) * copies
        self.register_constant("column_scale", torch.tensor(columns, dtype=torch.float64))
        self.weight_numel = len(self.linear) + copies * sum(self._per_copy)
        self.kernels, self.code = kernels, None if dense is None else PolynomialCode(self, dense)
        if self.code is not None and not chain.in_kernel:
            self.kernels = replace(kernels, cuda=why_not_on_cuda(len(self.code.polynomials.terms)))

    @property
    def reached(self) -> set[o3.Irrep]:
        """The outputs that are not zero for every input."""
        return {self._outputs[k] for k in self.linear} | {self._outputs[k] for _, k in self.terms}

    @property
    def terms_per_output(self) -> list[int]:
        """Number of weighted terms into each output, the linear one included."""
        return [
            (k in self.linear) + self.rank * sum(1 for _, other in self.terms if other == k)
            for k in range(len(self._outputs))
        ]

    @torch.no_grad()
    def _sizes(self, chain: Chain) -> list[list[float]]:
        """Mean square of each product into each output, for random features and factors."""
        draw = np.random.RandomState(0)
        rows = len(self.irrep_of_row)
        features = torch.from_numpy(draw.standard_normal((1, rows, CALIBRATION_DRAWS)))
        factors = 1 + MODULATION_SPREAD * draw.standard_normal((2, self.irrep_of_row.max() + 1, CALIBRATION_DRAWS))
        u, v = features * torch.from_numpy(factors).index_select(1, self.irrep_of_row).unsqueeze(1)
        exact = copy.deepcopy(chain).double()  # the chain itself keeps its precision
        products = exact.products(u, v if self.modulations == 2 else u, self.spec.correlation)
        dims = [out.dim for out in self._outputs]
        return [[block.square().mean().item() for block in product.split(dims, dim=1)] for product in products]

    def initial_weight(self, others: Sequence[int] | None = None) -> Float[Tensor, "species weights channels"]:
        """Unit normals over the square root of the number of terms into an output; factors on irreps scatter around 1.

        Args:
            others: Terms that other executors add to each output.
        """
        counts = [own + more for own, more in zip(self.terms_per_output, others or [0] * len(self._outputs))]
        spread = [1 / math.sqrt(counts[k]) for k in self.linear]
        spread += self.rank * (
            [MODULATION_SPREAD] * self._per_copy[0] + [1 / math.sqrt(counts[k]) for _, k in self.terms]
        )
        mean = [0.0] * len(self.linear) + self.rank * ([1.0] * self._per_copy[0] + [0.0] * self._per_copy[1])
        noise = torch.randn(self.spec.species, self.weight_numel, self.spec.channels, dtype=FRESH_DTYPE)
        mean_of, spread_of = (torch.tensor(each, dtype=FRESH_DTYPE).unsqueeze(1) for each in (mean, spread))
        return mean_of + spread_of * noise

    def forward(
        self,
        features: Float[Tensor, "nodes dim channels"],
        weight: Float[Tensor, "species weights channels"],
        groups: SpeciesGroups,
    ) -> Float[Tensor, "nodes out channels"]:
        if self.kernels.takes(features) and self.code is not None and not self._by_chain(features):
            result: Tensor = self.code(features, weight, groups, lambda weight: self.split(self.scaled(weight)))
            return result
        linear, factors, columns = self.split(self.scaled(weight).index_select(0, groups.species))
        outputs = self._linear_term(features, linear)
        if self.terms:
            factors = factors.index_select(3, self.irrep_of_row)
            inputs = [  # (nodes, dim, copies * channels)
                (features.unsqueeze(1) * factor).transpose(1, 2).flatten(2) for factor in factors.unbind(2)
            ]
            products = self.chain.products(inputs[0], inputs[-1], self.terms[-1][0])
            blocks = [p.unflatten(2, (self.rank, -1)).split([o.dim for o in self._outputs], dim=1) for p in products]
            for n, (nu, k) in enumerate(self.terms):
                term = (blocks[nu - 2][k] * columns[:, :, n].unsqueeze(1)).sum(2)
                outputs[k] = term if outputs[k] is None else outputs[k] + term
        shape = (features.shape[0], 1, self.spec.channels)
        return torch.cat(
            [
                features.new_zeros(shape).expand(-1, out.dim, -1) if value is None else value
                for out, value in zip(self._outputs, outputs)
            ],
            dim=1,
        )

    def _by_chain(self, features: Tensor) -> bool:
        """True if the chain has a kernel for these features, which on GPUs is faster than polynomials."""
        return self.chain.in_kernel and tiles.runs_on(features)

    def scaled(self, weight: Tensor) -> Tensor:
        """Weights that bring every product to unit size."""
        return weight * self.column_scale.unsqueeze(1)

    def split(self, weight: Float[Tensor, "rows weights channels"]) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of the linear term, factors ``(rows, copies, modulations, irreps, channels)`` and weights of the products."""
        linear, rest = weight.split([len(self.linear), weight.shape[1] - len(self.linear)], dim=1)
        factors, columns = rest.unflatten(1, (self.rank, -1)).split(self._per_copy, dim=2)
        return linear, factors.unflatten(2, (self.modulations, -1)), columns

    def _linear_term(self, features: Tensor, weight: Tensor) -> list[Tensor | None]:
        outputs: list[Tensor | None] = [None] * len(self._outputs)
        blocks = features.index_select(1, self.linear_rows).split([self._outputs[k].dim for k in self.linear], dim=1)
        for k, block, w in zip(self.linear, blocks, weight.unbind(1)):
            outputs[k] = block * w.unsqueeze(1)
        return outputs

    def extra_repr(self) -> str:
        return f"{self.spec}" + (f"; {self.rank} copies" if self.rank > 1 else "") + f"; {self.kernel}"


class JoinedManyBody(nn.Module):
    """The sum of several executors, their weights one after the other."""

    def __init__(self, spec: ManyBodySpec, parts: Sequence[PowerManyBody]) -> None:
        super().__init__()
        self.spec = spec
        self.parts = nn.ModuleList(parts)
        self._numels = [part.weight_numel for part in parts]
        self.weight_numel = sum(self._numels)
        self.linear = parts[0].linear

    @property
    def reached(self) -> set[o3.Irrep]:
        """The outputs that are not zero for every input."""
        return set().union(*(part.reached for part in self.executors))

    @property
    def kernel(self) -> str:
        """Kernel of each part, in one line; see :class:`~equinet.ops.kernels.choice.WithKernels`."""
        return " and ".join(dict.fromkeys(part.kernel for part in self.executors))

    @property
    def executors(self) -> list[PowerManyBody]:
        """The parts, in the order of their weights."""
        return list(self.parts)  # type: ignore[arg-type]

    def initial_weight(self) -> Tensor:
        counts = [part.terms_per_output for part in self.executors]
        everything = [sum(column) for column in zip(*counts)]
        return torch.cat(
            [
                part.initial_weight([total - own for total, own in zip(everything, count)])
                for part, count in zip(self.executors, counts)
            ],
            dim=1,
        )

    def forward(self, features: Tensor, weight: Tensor, groups: SpeciesGroups) -> Tensor:
        weights = weight.split(self._numels, dim=1)
        results = [part(features, w, groups) for part, w in zip(self.parts, weights)]
        total = results[0]
        for result in results[1:]:
            total = total + result
        return total
