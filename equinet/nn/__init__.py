"""Building blocks of potentials: each a room of its own, none knows which model it serves."""

from .interaction import EdgeFeatures, Interaction
from .linear import EquivariantLinear, SpeciesLinear
from .product import ManyBodyBlock
from .radial import BesselBasis, PolynomialEnvelope, RadialMLP
from .readout import Readout
from .scale import EnergyScale

__all__ = [
    "BesselBasis",
    "EdgeFeatures",
    "EnergyScale",
    "EquivariantLinear",
    "Interaction",
    "ManyBodyBlock",
    "PolynomialEnvelope",
    "RadialMLP",
    "Readout",
    "SpeciesLinear",
]
