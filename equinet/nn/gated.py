"""MACE's non-linear residual interaction: gates after the sum, and weights that know the species of both atoms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equinet.ops import SpeciesGroups
from equinet.ops.constants import FRESH_DTYPE
from equinet.ops.edges import Edges
from equinet.ops.kernels.row.operator import silu
from equinet.ops.precision import affine, matmul

from .interaction import MESSAGES, Convolving, EdgeFeatures, InteractionFormula, InteractionSpec
from .linear import EquivariantLinear
from .radial import SILU_GAIN

# sqrt of 1 / E[sigmoid(z)^2] for z ~ N(0, 1), by Gauss-Hermite quadrature (180 points).
SIGMOID_GAIN = 1.8462285453386058

DENSITY_HIDDEN = 64


class EdgeMLP(nn.Module):
    """Functions of the distance and of the species of both atoms: linear maps with biases, layer norms and SiLU between them.

    Args:
        basis: Width of the radial basis.
        embedding: Width of what is known of each of the two species.
        widths: Widths of the hidden layers and of the output.
    """

    def __init__(self, basis: int, embedding: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.basis, self.embedding = basis, embedding
        sizes = [basis + 2 * embedding, *widths]
        self.linears = nn.ModuleList([nn.Linear(a, b, dtype=FRESH_DTYPE) for a, b in pairwise(sizes)])
        self.norms = nn.ModuleList([nn.LayerNorm(width, dtype=FRESH_DTYPE) for width in widths[:-1]])

    def forward(
        self,
        feats: Float[Tensor, "edges basis"],
        source: Float[Tensor, "species embedding"],
        target: Float[Tensor, "species embedding"],
        species: Int[Tensor, "2 edges"],
    ) -> Float[Tensor, "edges out"]:
        """``species`` are those of sender and receiver, which ``source`` and ``target`` describe."""
        first, *others = self.linears
        assert isinstance(first, nn.Linear)
        # Equal to the map of all three side by side, without an array of edges times embeddings.
        of_distance, of_source, of_target = first.weight.split([self.basis, self.embedding, self.embedding], dim=1)
        x = (
            matmul(feats, of_distance.T)
            + (source @ of_source.T + first.bias)[species[0]]
            + (target @ of_target.T)[species[1]]
        )
        for linear, norm in zip(others, self.norms):
            assert isinstance(linear, nn.Linear)
            x = affine(silu(norm(x)), linear.weight, linear.bias)
        return x


class GatedInteraction(Convolving):
    r"""A sum over neighbours that goes through a gate.

    .. math:: m_i = \frac{W \sum_j R_{z_j z_i}(r_{ij}) \, (W h_j) \otimes Y(\hat r_{ij})}
                         {\alpha + \beta \sum_j \tanh\big( w_{z_j z_i}(r_{ij})^2 \big)} + W' W h_i,
              \qquad A_i = \frac{1}{\lambda} \, W \, \mathrm{gate}(m_i)

    The gate takes scalars through SiLU and multiplies each channel of all else by the sigmoid of a scalar of its own, both times
    a constant that gives them a unit second moment. The layer also returns :math:`W h_i`, which the product adds to its result.

    Args:
        spec: Sizes and irreps.
        normalization: Initial lambda.

    Raises:
        ValueError: If the tensor product cannot compute the convolution; says why.

    Source:
        mace-torch, ``RealAgnosticResidualNonLinearInteractionBlock`` (MACE-MH-1, MACE-OMOL-0).
    """

    residual = True
    directed = True
    not_tabulable = 'its radial networks are functions of the species too ("gated" interactions)'
    not_convertible = "this model has gated interactions, whose convolutions are not converted; leave `convolution` out"
    _gate_of_row: Tensor

    def __init__(self, spec: InteractionSpec, *, normalization: float) -> None:
        super().__init__(spec, normalization=normalization)
        channels, species, (basis, *hidden) = spec.channels, spec.species, spec.radial_sizes
        self.source = nn.Parameter(torch.empty(species, channels, dtype=FRESH_DTYPE).uniform_(-1e-3, 1e-3))
        self.target = nn.Parameter(torch.empty(species, channels, dtype=FRESH_DTYPE).uniform_(-1e-3, 1e-3))
        self.radial = EdgeMLP(basis, channels, [*hidden, self.convolution.weight_numel * self.channels])
        self.density = EdgeMLP(basis, channels, [DENSITY_HIDDEN, 1])
        self.alpha, self.beta = (nn.Parameter(torch.tensor(value, dtype=FRESH_DTYPE)) for value in (20.0, 0.0))
        incoming, tensors = list(self.linear_up.copies), [ir for ir in self.irreps_density if ir.l > 0]
        sums, own = self.convolution.copies, dict.fromkeys(incoming, 1)
        scalar, gates = self.irreps_density[:1], len(tensors) * channels
        self.linear_1 = EquivariantLinear(sums, self.channels, channels)
        self.gates_1 = EquivariantLinear(sums, self.channels, gates, scalar)
        self.linear_res = EquivariantLinear(own, self.channels, channels, self.irreps_density)
        self.gates_res = EquivariantLinear(own, self.channels, gates, scalar)
        self.linear_2 = EquivariantLinear(dict.fromkeys(self.irreps_density, 1), channels, channels)
        self.skip = EquivariantLinear(own, channels, channels, spec.irreps_out)
        of_row = [n for n, ir in enumerate(tensors) for _ in range(ir.dim)]
        self.register_buffer("_gate_of_row", torch.tensor(of_row, dtype=torch.int64), persistent=False)

    def forward(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        of_edge: EdgeFeatures,
        edges: Edges,
        groups: SpeciesGroups,
    ) -> tuple[Float[Tensor, "nodes harmonics channels"], Float[Tensor, "nodes out channels"]]:
        """``edges`` must be single directions."""
        scale = 1 / math.sqrt(self.source.shape[0])
        known = self.source * scale, self.target * scale, groups.species[edges.index]
        weight = of_edge.times_factor(self.radial(of_edge.feats, *known)).unflatten(1, (-1, self.channels))
        of_pair = of_edge.times_factor(torch.tanh(self.density(of_edge.feats, *known) ** 2))
        normalizer = (self.alpha + self.beta * edges.sum_on_receivers(of_pair)).unsqueeze(2)
        sent = self.linear_up(node_feats)
        total = self.convolution(sent, of_edge.attrs, weight, edges)
        message = self.linear_1(total) / normalizer + self.linear_res(sent)
        gates = self.gates_1(total) / normalizer + self.gates_res(sent)
        density = self.linear_2(self._gate(message, gates)) / self.normalization.to(message.dtype)
        return density, self.skip(node_feats)

    def formula(self, factor: str) -> InteractionFormula:
        """The interaction in symbols; ``factor`` is what multiplies radial weights, ``"f · "`` or nothing."""
        widths = " → ".join(str(linear.out_features) for linear in self.radial.linears)
        return InteractionFormula(
            f"MLP[{self.radial.basis} → {widths}](b, z_i, z_j)",
            f"m_i = W {MESSAGES} / (α + β Σ_j {factor}tanh((w·b(r_ij))²)) + W h_i,  "
            f"A_i = 1/{self.normalization.item():.3g} · W gate(m_i)",
            " + W h_i",
        )

    def _gate(
        self, x: Float[Tensor, "nodes harmonics channels"], gates: Float[Tensor, "nodes 1 gates"]
    ) -> Float[Tensor, "nodes harmonics channels"]:
        scalars = silu(x[:, :1]) * SILU_GAIN
        gates = torch.sigmoid(gates).squeeze(1).unflatten(1, (-1, x.shape[2])) * SIGMOID_GAIN
        return torch.cat([scalars, x[:, 1:] * gates.index_select(1, self._gate_of_row)], dim=1)
