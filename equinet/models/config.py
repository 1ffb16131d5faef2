"""What a MACE is made of, as plain data."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from equinet.ops import method_from_name


class MACEConfig(BaseModel):
    """Architecture of a MACE potential. Every field has a default that works for molecules and solids alike."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    channels: int = Field(64, ge=1)
    """Channels of every irrep. 32 is fast, 64 good, 128 and more for the last per cent."""
    max_l: int = Field(1, ge=0, le=3)
    """Highest degree of the features passed between atoms: 0 invariant, 1 vectors, 2 and 3 finer and slower."""
    sh_degree: int = Field(3, ge=0, le=4)
    """Highest degree of the spherical harmonics of an edge."""
    correlation: int = Field(3, ge=1, le=4)
    """How many neighbour densities are multiplied (nu); the body order is nu + 1."""
    layers: int = Field(2, ge=1)
    """Rounds of message passing; the model sees `layers` times the cutoff."""
    cutoff: float = Field(5.0, gt=0)
    """Radius in Å beyond which atoms do not see each other directly."""
    convolution: str = "cg"
    """Tensor product of neighbour features with edge harmonics."""
    many_body: str = "cg"
    """Tensor product of a node's features with themselves."""
    bessel_functions: int = Field(8, ge=1)
    """Number of Bessel functions of the distance."""
    envelope_power: int = Field(5, ge=2)
    """Power p of the polynomial envelope that takes them to zero at the cutoff."""
    radial_hidden: tuple[Annotated[int, Field(ge=1)], ...] = (64, 64, 64)
    """Width of the hidden layers of the network of the distance."""
    readout_hidden: int = Field(16, ge=1)
    """Width of the hidden layer of the last readout."""
    residual_first: bool = False
    """Whether the first layer has a residual connection too (all others always have)."""
    density_normalization: bool = False
    """Divide messages by a learned density instead of the mean number of neighbours; helps where coordination varies."""
    exact_isolated_atoms: bool = True
    """An atom alone has exactly its reference energy. False: MACE's form, in which the shift stays with it."""

    @field_validator("convolution", "many_body")
    @classmethod
    def _known_method(cls, name: str) -> str:
        method_from_name(name)
        return name
