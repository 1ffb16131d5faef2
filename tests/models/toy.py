"""A second architecture, as somebody else would write one: a sum over pairs. Nothing of equinet is edited for it."""

from typing import Literal

import torch

from equinet.models import Model, ModelConfig, NodeOutput, register_model
from equinet.nn import BesselBasis, PolynomialEnvelope
from equinet.ops.edges import as_edges
from equinet.ops.species import as_groups


class PairConfig(ModelConfig):
    architecture: Literal["pair"] = "pair"
    functions: int = 6


@register_model
class Pair(Model):
    config_class = PairConfig
    reaches_beyond_cutoff = None

    def __init__(self, config, elements, avg_num_neighbors):
        super().__init__(config, elements, avg_num_neighbors)
        self.basis, self.envelope = BesselBasis(config.cutoff, config.functions), PolynomialEnvelope(config.cutoff, 5)
        self.weight = torch.nn.Parameter(torch.randn(len(elements), len(elements), config.functions))

    def forward(self, vectors, species, edges):
        groups = as_groups(species)
        edges = as_edges(edges, len(groups.species))
        lengths = vectors.norm(dim=1, keepdim=True)
        envelope, (sender, receiver) = self.envelope(lengths), groups.species[edges.index]
        weight = self.weight[sender, receiver] + self.weight[receiver, sender]
        of_pair = (weight * self.basis(lengths) * envelope).sum(1, keepdim=True)
        energy, coordination = edges.sum_on_receivers(torch.cat([of_pair, envelope], dim=1)).unbind(1)
        return NodeOutput(energy, coordination)
