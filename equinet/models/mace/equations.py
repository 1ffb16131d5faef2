"""A MACE as the equations of its paper, for ``repr(model)``."""

from __future__ import annotations

from typing import Any

from equinet.models.base import count_weights
from equinet.ops.kernels.choice import describe_executor, spaces_of

from .layers import Layer


def equations(model: Any) -> str:
    """A MACE line by line: edge functions, then density, products and readout of every layer, each with its executor."""
    c = model.config
    of = {"none": "r_ij", "agnesi": "agnesi(r_ij)", "soft": "soft(r_ij)"}[c.distance_transform]
    factor = "f · " if c.envelope_on == "basis" else ""
    lines = [
        f"MACE({model.hidden_irreps}, {c.layers} layers, {model.num_species} species, {count_weights(model):,} weights)",
        f"  Y_lm(r̂_ij), l ≤ {c.sh_degree}",
        f"  f(r_ij) envelope p = {c.envelope_power}, zero from {c.cutoff:g} Å",
        f"  b_n(r_ij) = {factor}{c.bessel_functions} Bessel functions of {of}",
        "  h_i = W[z_i],  ε_i = b[z_i]",
    ]
    factor = "f · " if c.envelope_on == "weights" else ""
    for n, layer in enumerate(model.layers, start=1):
        lines += [f"  layer {n}", *(f"    {line}" for line in _of_layer(layer, factor))]
    if model.zbl is not None:
        lines.append("  E_i += ½ Σ_j ZBL(r_ij) up to the sum of covalent radii")
    return "\n".join(lines)


def _of_layer(layer: Layer, factor: str) -> list[str]:
    interaction, product, readout = layer
    convolution, many = interaction.convolution, product.product
    formula = interaction.formula(factor)
    lines = [
        f"R(r_ij) = {factor}{formula.radial}",
        f"{formula.density}    {convolution.spec}  [{_executor(convolution)}]",
        f"B_i = Σ_ν≤{many.spec.correlation} w[z_i, ν] A_i^ν    {many.weight_numel} products per channel to "
        f"{many.spec.irreps_out}  [{_executor(many)}]",
        f"h_i = W B_i{formula.residual}",
    ]
    if readout is not None:
        final = "MLP" if len(readout.network.sizes) > 2 else "W"
        lines.append(f"ε_i += {final} h_i    [{readout.network.extra_repr()}]")
    return lines


def _executor(module: Any) -> str:
    """Class of an executor, the kernel that computes, and the spaces it multiplies in, if any."""
    spaces = spaces_of(module)
    return describe_executor(module) + (": " + " and ".join(spaces) if spaces else "")
