"""Building blocks of potentials: each a room of its own, none knows which model it serves."""

from .edge_functions import EdgeFunctions
from .gated import GatedInteraction
from .interaction import EdgeFeatures, Interaction, InteractionSpec
from .linear import EquivariantLinear, SpeciesLinear
from .product import ManyBodyBlock
from .radial import BesselBasis, PolynomialEnvelope, RadialMLP
from .readout import Readout
from .repulsion import ZBL
from .scale import EnergyScale
from .transform import TRANSFORMS, DistanceTransform

__all__ = [
    "TRANSFORMS",
    "ZBL",
    "BesselBasis",
    "DistanceTransform",
    "EdgeFeatures",
    "EdgeFunctions",
    "EnergyScale",
    "EquivariantLinear",
    "GatedInteraction",
    "Interaction",
    "InteractionSpec",
    "ManyBodyBlock",
    "PolynomialEnvelope",
    "RadialMLP",
    "Readout",
    "SpeciesLinear",
]
