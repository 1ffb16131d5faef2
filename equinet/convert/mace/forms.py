"""An architecture in mace-torch's words."""

from __future__ import annotations

from typing import Any

from equinet.models import MACEConfig
from equinet.ops import natural_irreps

from .architecture import KINDS

INTERACTIONS = {ours: theirs for theirs, ours in KINDS.items()}
TRANSFORMS = {"none": "None", "agnesi": "Agnesi", "soft": "Soft"}


def arguments_of(config: MACEConfig) -> dict[str, Any]:
    """Those arguments of mace-torch's models that follow from the architecture: classes by their names, irreps as text.

    Last readouts that are linear have two hidden channels there (:func:`equinet.convert.mace.to_mace_state_dict` says why).
    """
    return {
        "r_max": config.cutoff,
        "num_bessel": config.bessel_functions,
        "num_polynomial_cutoff": config.envelope_power,
        "max_ell": config.sh_degree,
        "interaction_cls": INTERACTIONS[config.interaction],
        "interaction_cls_first": INTERACTIONS[config.first_interaction],
        "num_interactions": config.layers,
        "hidden_irreps": str(natural_irreps(config.max_l, config.channels)),
        "edge_irreps": config.edge_channels and str(natural_irreps(config.max_l, config.edge_channels)),
        "use_edge_irreps_first": config.edge_channels is not None and config.edge_channels_first,
        "MLP_irreps": f"{config.readout_hidden or 2}x0e",
        "readout_cls": "NonLinearBiasReadoutBlock"
        if config.readout_biases and config.readout_hidden
        else "NonLinearReadoutBlock",
        "use_last_readout_only": config.readout_layers == "last" and config.layers > 1,
        "correlation": config.correlation,
        "gate": "silu",
        "pair_repulsion": config.zbl,
        "distance_transform": TRANSFORMS[config.distance_transform],
        "apply_cutoff": config.envelope_on == "basis",
        "radial_MLP": list(config.radial_hidden),
        "radial_type": "bessel",
    }
