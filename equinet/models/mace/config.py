"""Configuration of a MACE as plain data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from equinet.models.base import ModelConfig, Truth, Whole
from equinet.ops import method_from_config, method_to_config

# A name or a table in a file, a method object in Python; written back as what the file would say.
TensorProduct = Annotated[Any, BeforeValidator(method_from_config), PlainSerializer(method_to_config)]


# How a layer sums over neighbours; `equinet.nn.Interaction` and `equinet.nn.GatedInteraction` give the formulas.
InteractionKind = Literal["plain", "residual", "density", "density_residual", "gated"]


class MACEConfig(ModelConfig):
    """Architecture of a MACE potential. Every field has a default that works for molecules and solids alike."""

    architecture: Literal["mace"] = "mace"
    """Name of the architecture; it decides which other keys [model] may have."""
    channels: Whole = Field(64, ge=1, le=1024)
    """Channels of every irrep. 32 is fast, 64 good, 128 and more for the last per cent."""
    max_l: Whole = Field(1, ge=0, le=6)
    """Highest degree of the features passed between atoms: 0 invariant, 1 vectors, 2 to 6 finer and slower."""
    sh_degree: Whole = Field(3, ge=0, le=6)
    """Highest degree of the spherical harmonics of an edge."""
    correlation: Whole = Field(3, ge=1, le=7)
    """Number of neighbour densities that are multiplied (nu); the body order is nu + 1. Exact couplings refuse what has too many terms; "gaunt_grid" and its like do not."""
    layers: Whole = Field(2, ge=1, le=32)
    """Rounds of message passing; the model sees `layers` times the cutoff."""
    convolution: TensorProduct = Field("cg", validate_default=True)
    """Tensor product of neighbour features with edge harmonics: "cg", "gaunt_grid", "gaunt_fourier", "bracket", "matrix", "so2", or a table with arguments such as { method = "cp", rank = 24 }."""
    many_body: TensorProduct = Field("cg", validate_default=True)
    """Tensor product of a node's features with themselves; likewise, but for "so2"."""
    pseudotensors: Truth = False
    """Also carry pseudotensors (0o, 1e, 2o, ...), as far as products reach them: about twice the features."""
    bessel_functions: Whole = Field(8, ge=1, le=64)
    """Number of Bessel functions of the distance."""
    envelope_power: Whole = Field(5, ge=2, le=64)
    """Power p of the polynomial envelope that takes them to zero at the cutoff."""
    radial_hidden: tuple[Annotated[Whole, Field(ge=1, le=1024)], ...] = Field((64, 64, 64), max_length=16)
    """Width of the hidden layers of the network of the distance."""
    distance_transform: Literal["none", "agnesi", "soft"] = "none"
    """What the radial basis is a function of: the distance, or the distance measured in covalent radii (Agnesi) or kept from falling below them (soft). The first trains fastest; the others are those of published models."""
    envelope_on: Literal["basis", "weights"] = "basis"
    """Whether the envelope multiplies the radial basis or what the network makes of it; "gated" needs the latter to be smooth."""
    first_interaction: InteractionKind = "plain"
    """How the first layer sums over neighbours; see `interaction`."""
    interaction: InteractionKind = "residual"
    """How all other layers do: "plain" sum, with a "residual" connection, divided by a learned "density" instead of a constant (where coordination varies), "density_residual", or MACE's non-linear residual block, "gated"."""
    edge_channels: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    """Channels of what is sent to neighbours, if not `channels`; fewer are faster."""
    edge_channels_first: Truth = False
    """Whether `edge_channels` holds for the first layer too."""
    readout_hidden: Whole = Field(16, ge=0, le=1024)
    """Width of the hidden layer of the last readout; 0 for a linear one."""
    readout_biases: Truth = False
    """Give the last readout a second hidden layer, and biases."""
    readout_layers: Literal["all", "last"] = "all"
    """Which layers add to the energy."""
    zbl: Truth = False
    """Add the Ziegler-Biersack-Littmark repulsion of atoms closer than the sum of their covalent radii."""
