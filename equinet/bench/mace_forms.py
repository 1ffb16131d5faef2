"""An architecture in mace-torch's words."""

from __future__ import annotations

from typing import Any

from e3nn import o3

from equinet.models import MACEConfig
from equinet.ops import ClebschGordan

INTERACTIONS = {
    "plain": "RealAgnosticInteractionBlock",
    "residual": "RealAgnosticResidualInteractionBlock",
    "density": "RealAgnosticDensityInteractionBlock",
    "density_residual": "RealAgnosticDensityResidualInteractionBlock",
    "gated": "RealAgnosticResidualNonLinearInteractionBlock",
}
TRANSFORMS = {"none": "None", "agnesi": "Agnesi", "soft": "Soft"}


def differs(config: MACEConfig) -> str | None:
    """What mace-torch has no form of, so that there is no same function to compare with; None if it has all."""
    if not all(isinstance(method, ClebschGordan) for method in (config.convolution, config.many_body)):
        return "mace-torch has exact couplings (`cg`) only"
    if config.pseudotensors:
        return "pseudotensors are chosen differently"
    if config.layers == 1 and config.readout_hidden > 0:
        return "a single layer has a linear readout there (`readout_hidden = 0`)"
    if config.layers == 1 and config.readout_layers == "last":
        return "a single layer has no readout there if only the last is read"
    if config.layers > 1 and config.readout_hidden == 0:
        return "several layers have no linear last readout there"
    return None


def mace_arguments(config: MACEConfig) -> dict[str, Any]:
    """Arguments of mace-torch's models; classes by their names.

    Raises:
        ValueError: If mace-torch has no such model; says why.
    """
    if reason := differs(config):
        raise ValueError(f"mace-torch cannot be built like this model: {reason}")
    return {
        "r_max": config.cutoff,
        "num_bessel": config.bessel_functions,
        "num_polynomial_cutoff": config.envelope_power,
        "max_ell": config.sh_degree,
        "interaction_cls": INTERACTIONS[config.interaction],
        "interaction_cls_first": INTERACTIONS[config.first_interaction],
        "num_interactions": config.layers,
        "hidden_irreps": _natural(config.channels, config.max_l),
        "edge_irreps": None if config.edge_channels is None else _natural(config.edge_channels, config.max_l),
        "use_edge_irreps_first": config.edge_channels_first,
        "MLP_irreps": o3.Irreps(f"{max(config.readout_hidden, 1)}x0e"),  # a single layer has no such readout
        "readout_cls": "NonLinearBiasReadoutBlock" if config.readout_biases else "NonLinearReadoutBlock",
        "use_last_readout_only": config.readout_layers == "last",
        "correlation": config.correlation,
        "pair_repulsion": config.zbl,
        "distance_transform": TRANSFORMS[config.distance_transform],
        "apply_cutoff": config.envelope_on == "basis",
        "radial_MLP": list(config.radial_hidden),
        "radial_type": "bessel",
    }


def _natural(channels: int, max_l: int) -> o3.Irreps:
    return o3.Irreps([(channels, (l, (-1) ** l)) for l in range(max_l + 1)])
