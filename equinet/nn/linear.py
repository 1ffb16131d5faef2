"""Equivariant linear maps: channels mix, components of an irrep do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn

from equinet.ops import SpeciesGroups
from equinet.ops.constants import FRESH_DTYPE
from equinet.ops.kernels.linear.maps import Block, Frozen, Plan, mix


class EquivariantLinear(nn.Module):
    r"""Mixes the channels of every irrep with a matrix of its own.

    .. math:: y_{l m c} = \frac{1}{\sqrt{n_l}} \sum_{b} x_{l m b} \, W^{l}_{b c}

    ``b`` runs over the ``n_l = copies[l] * channels_in`` channels of irrep l. Input rows are those of
    :class:`equinet.ops.TensorProductSpec`: irrep after irrep, components slow, copies fast. Weights start as unit normals.

    Args:
        copies: For each irrep present in the input its number of copies, e.g. paths of a convolution.
        channels_in: Channels of one copy.
        channels_out: Channels of the result.
        outputs: Irreps to produce; by default all those present. Others are zero.
    """

    def __init__(
        self,
        copies: Mapping[o3.Irrep, int],
        channels_in: int,
        channels_out: int,
        outputs: Sequence[o3.Irrep] | None = None,
    ) -> None:
        super().__init__()
        self.copies = dict(copies)
        self.outputs = list(self.copies) if outputs is None else list(outputs)
        self.shared = [ir for ir in self.outputs if ir in self.copies]
        self._names = [str(ir) for ir in self.shared]
        self.weights = nn.ParameterDict(
            {str(ir): torch.randn(self.copies[ir] * channels_in, channels_out, dtype=FRESH_DTYPE) for ir in self.shared}
        )

        starts, before = {}, 0
        for ir, count in self.copies.items():
            starts[ir], before = before, before + ir.dim * count
        blocks, after = [], 0
        for ir in self.outputs:
            if ir in self.copies:
                stop, scale = starts[ir] + ir.dim * self.copies[ir], 1 / math.sqrt(self.copies[ir] * channels_in)
                blocks.append(Block(starts[ir], stop, after, after + ir.dim, scale))
            after += ir.dim
        self._plan, self._frozen = Plan(tuple(blocks), before, after), Frozen()

    def forward(self, x: Float[Tensor, "nodes rows in"]) -> Float[Tensor, "nodes dim out"]:
        return mix(x, [self.weights[name] for name in self._names], self._plan, frozen=self._frozen)

    def extra_repr(self) -> str:
        return ", ".join(f"{ir}: {w.shape[0]} → {w.shape[1]}" for ir, w in self.weights.items())


class SpeciesLinear(nn.Module):
    r"""Mixes the channels of every irrep with a matrix of its own for each species.

    .. math:: y_{l m c} = \frac{1}{\sqrt{n Z}} \sum_{b} x_{l m b} \, W^{z l}_{b c}

    n is the number of input channels and Z the number of species (e3nn's normalisation of a product with a one-hot
    vector, which MACE uses). Irreps of the output that are not in the input are zero.

    Args:
        irreps_in: Irreps of the input, in order.
        irreps_out: Irreps of the result, in order.
        channels: Channels of input and result.
        species: Number of species.
    """

    def __init__(
        self, irreps_in: Sequence[o3.Irrep], irreps_out: Sequence[o3.Irrep], channels: int, species: int
    ) -> None:
        super().__init__()
        self.irreps_in = list(irreps_in)
        self.irreps_out = list(irreps_out)
        self.shared = [ir for ir in self.irreps_out if ir in self.irreps_in]
        self._names = [str(ir) for ir in self.shared]
        self.weights = nn.ParameterDict(
            {str(ir): torch.randn(species, channels, channels, dtype=FRESH_DTYPE) for ir in self.shared}
        )
        starts, before = {}, 0
        for ir in self.irreps_in:
            starts[ir], before = before, before + ir.dim
        blocks, after = [], 0
        for ir in self.irreps_out:
            if ir in self.shared:
                scale = 1 / math.sqrt(channels * species)
                blocks.append(Block(starts[ir], starts[ir] + ir.dim, after, after + ir.dim, scale))
            after += ir.dim
        self._plan, self._frozen = Plan(tuple(blocks), before, after), Frozen()

    def forward(
        self, x: Float[Tensor, "nodes dim channels"], groups: SpeciesGroups
    ) -> Float[Tensor, "nodes out channels"]:
        return mix(x, [self.weights[name] for name in self._names], self._plan, groups, self._frozen)

    def extra_repr(self) -> str:
        return ", ".join(f"{ir}: {w.shape[0]} x ({w.shape[1]} → {w.shape[2]})" for ir, w in self.weights.items())
