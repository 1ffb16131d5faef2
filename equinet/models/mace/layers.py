"""Layers of a MACE: their parts, and their irreps from the configuration."""

from __future__ import annotations

from typing import Any, NamedTuple

from e3nn import o3

from equinet.nn import ManyBodyBlock, Readout
from equinet.ops import ManyBodySpec, TensorProductSpec, natural_irreps
from equinet.ops.layout import irreps_up_to, is_true, with_channels

from .config import MACEConfig

# Interaction, many-body product, and readout or None.
Layer = tuple[Any, ManyBodyBlock, Readout | None]


class LayerIrreps(NamedTuple):
    """Irreps of one layer: incoming features, density, resulting features."""

    features: list[o3.Irrep]
    density: list[o3.Irrep]
    result: list[o3.Irrep]


def irreps_of_layers(config: MACEConfig) -> list[LayerIrreps]:
    """Irreps of every layer: true tensors up to the degrees of ``config``, pseudotensors as far as the products reach them."""
    layers, features = [], [o3.Irrep("0e")]
    for layer in range(config.layers):
        wanted = irreps_up_to(config.sh_degree, pseudotensors=config.pseudotensors)
        couplings = TensorProductSpec(
            with_channels(features, 1), natural_irreps(config.sh_degree), with_channels(wanted, 1)
        )
        density = list(couplings.paths_per_output)
        result = irreps_up_to(config.max_l, pseudotensors=config.pseudotensors)
        if layer == config.layers - 1:
            result = result[:1]  # only scalars are read from the last layer
        elif config.pseudotensors:
            powers = ManyBodySpec(with_channels(density, 1), with_channels(result, 1), config.correlation, 1)
            reached = config.many_body.reached(powers)
            result = [ir for ir in result if is_true(ir) or ir in reached]
        layers.append(LayerIrreps(features, density, result))
        features = result
    return layers
