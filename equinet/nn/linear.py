"""Equivariant linear maps: channels mix, components of an irrep do not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equinet.ops import SpeciesGroups


class EquivariantLinear(nn.Module):
    r"""Mixes the channels of every degree with a matrix of its own.

    .. math:: y_{l m c} = \frac{1}{\sqrt{n_l}} \sum_{b} x_{l m b} \, W^{l}_{b c}

    ``b`` runs over the ``n_l = copies[l] * channels_in`` channels of degree l. Input rows are those of
    :class:`equinet.ops.TensorProductSpec`: degree after degree, components slow, copies fast. Weights start as unit normals.

    Args:
        copies: For each degree present in the input its number of copies, e.g. paths of a convolution.
        channels_in: Channels of one copy.
        channels_out: Channels of the result.
        outputs: Degrees to produce, a subset of those present; by default all.
    """

    def __init__(
        self, copies: Mapping[int, int], channels_in: int, channels_out: int, outputs: list[int] | None = None
    ) -> None:
        super().__init__()
        self.copies = dict(copies)
        self.outputs = list(self.copies) if outputs is None else outputs
        self.weights = nn.ParameterDict(
            {str(l): torch.randn(self.copies[l] * channels_in, channels_out) for l in self.outputs}
        )

    def forward(self, x: Float[Tensor, "nodes rows in"]) -> Float[Tensor, "nodes dim out"]:
        blocks = x.split([(2 * l + 1) * n for l, n in self.copies.items()], dim=1)
        results = []
        for (l, copies), block in zip(self.copies.items(), blocks):
            if l in self.outputs:
                weight = self.weights[str(l)]
                merged = block.unflatten(1, (2 * l + 1, copies)).flatten(2)  # (nodes, 2l+1, copies * channels)
                results.append(merged @ (weight / math.sqrt(weight.shape[0])))
        return torch.cat(results, dim=1)

    def extra_repr(self) -> str:
        return ", ".join(f"l={l}: {w.shape[0]} → {w.shape[1]}" for l, w in self.weights.items())


class SpeciesLinear(nn.Module):
    r"""Mixes the channels of every degree with a matrix of its own for each species.

    .. math:: y_{l m c} = \frac{1}{\sqrt{n Z}} \sum_{b} x_{l m b} \, W^{z l}_{b c}

    n is the number of input channels and Z the number of species (e3nn's normalisation of a product with a one-hot
    vector, which MACE uses). Degrees of the output that are not in the input are zero.

    Args:
        degrees_in: Degrees of the input.
        degrees_out: Degrees of the result, in order from 0.
        channels: Channels of input and result.
        species: Number of species.
    """

    def __init__(self, degrees_in: list[int], degrees_out: list[int], channels: int, species: int) -> None:
        super().__init__()
        self.degrees_in = degrees_in
        self.degrees_out = degrees_out
        self.shared = [l for l in degrees_out if l in degrees_in]
        self.weights = nn.ParameterDict({str(l): torch.randn(species, channels, channels) for l in self.shared})
        self._scale = 1 / math.sqrt(channels * species)

    def forward(
        self, x: Float[Tensor, "nodes dim channels"], groups: SpeciesGroups
    ) -> Float[Tensor, "nodes out channels"]:
        blocks = dict(zip(self.degrees_in, x.split([2 * l + 1 for l in self.degrees_in], dim=1)))
        results = []
        for l in self.degrees_out:
            if l in self.shared:
                weight = self.weights[str(l)] * self._scale
                results.append(groups.join([part @ weight[z] for z, part in groups.split(blocks[l])]))
            else:
                results.append(x.new_zeros(x.shape[0], 2 * l + 1, x.shape[2]))
        return torch.cat(results, dim=1)

    def extra_repr(self) -> str:
        return ", ".join(f"l={l}: {w.shape[0]} x ({w.shape[1]} → {w.shape[2]})" for l, w in self.weights.items())
