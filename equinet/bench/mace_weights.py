"""Weights of a live mace-torch model in equinet's layout: the bridge over which parity tests and benchmarks go."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from e3nn.math import normalize2mom
from torch import Tensor
from torch.nn.functional import silu

from equinet.nn.radial import SILU_GAIN
from equinet.ops.contraction import PolynomialTables
from equinet.ops.polynomials import covariants, monomials
from equinet.potential import Potential


def load_mace_weights(potential: Potential, mace: Any) -> None:
    """Copy all weights of ``mace`` (ScaleShiftMACE, float64) into ``potential``.

    Everything is a reshape but two things: the activation's constant, of which e3nn has a sampled value, and the weights of
    the many-body product, which MACE keeps on an overcomplete set of polynomials.
    """
    ours: Any = potential.model
    theirs = dict(mace.named_parameters())
    channels, species = ours.config.channels, ours.num_species
    gain = float(normalize2mom(silu).cst) / SILU_GAIN
    new: dict[str, Tensor] = {"embedding": theirs["node_embedding.linear.weight"].view(species, channels)}
    new["bias"] = torch.zeros(species, dtype=torch.float64)
    for n, (interaction, product) in enumerate(zip(ours.interactions, ours.products)):
        here, there = f"interactions.{n}.", f"interactions.{n}."
        for name, weight in _split(theirs[there + "linear_up.weight"], interaction.linear_up.weights):
            new[f"{here}linear_up.weights.{name}"] = weight
        for name, weight in _split(theirs[there + "linear.weight"], interaction.linear.weights):
            new[f"{here}linear.weights.{name}"] = weight
        sizes = {name: weight.permute(1, 0, 2) for name, weight in interaction.species_linear.weights.items()}
        for name, weight in _split(theirs[there + "skip_tp.weight"], sizes):
            new[f"{here}species_linear.weights.{name}"] = weight.permute(1, 0, 2)
        for layer in range(len(interaction.radial.weights)):
            factor = gain if layer else 1.0
            new[f"{here}radial.weights.{layer}"] = factor * theirs[f"{there}conv_tp_weights.layer{layer}.weight"]
        if interaction.density is not None:
            new[f"{here}density.weights.0"] = theirs[there + "density_fn.layer0.weight"]
        contractions = mace.products[n].symmetric_contractions.contractions
        new[f"products.{n}.weight"] = many_body_weights(product.product, contractions)
        for name, weight in _split(theirs[f"products.{n}.linear.weight"], product.linear.weights):
            new[f"products.{n}.linear.weights.{name}"] = weight
        last = n == len(ours.interactions) - 1
        readout = f"readouts.{n}.network.weights."
        if last:
            new[readout + "0"] = theirs[f"readouts.{n}.linear_1.weight"].view(channels, -1)
            new[readout + "1"] = gain * theirs[f"readouts.{n}.linear_2.weight"].view(-1, 1)
        else:
            new[readout + "0"] = theirs[f"readouts.{n}.linear.weight"][:channels].view(channels, 1)
    with torch.no_grad():
        parameters = dict(ours.named_parameters())
        assert set(parameters) == set(new)
        for name, value in new.items():
            parameters[name].copy_(value)
        potential.scale.reference.copy_(mace.atomic_energies_fn.atomic_energies.view(-1))
        potential.scale.scale.fill_(float(mace.scale_shift.scale))
        potential.scale.shift.fill_(float(mace.scale_shift.shift))


def many_body_weights(product: PolynomialTables, contractions: Any) -> Tensor:
    """Weights on our basis of polynomials that give the same function as MACE's on its U matrices.

    A U matrix is a tensor over ordered factors; what it computes depends on the sum over all orders only.
    """
    spec = product.spec
    variables = spec.irreps_in.dim // spec.channels
    columns = []
    for k, nu in product.paths:
        contraction, ir = contractions[k], spec.irreps_out[k].ir
        by_nu = {spec.correlation: contraction.weights_max}
        by_nu |= {spec.correlation - 1 - n: weight for n, weight in enumerate(contraction.weights)}
        weight = by_nu[nu].detach()
        u = getattr(contraction, f"U_matrix_{nu}").numpy().reshape(ir.dim, *[variables] * nu, -1)
        rows = monomials(variables, nu)
        index_of = {row: n for n, row in enumerate(map(tuple, rows.tolist()))}
        symmetric = np.zeros((ir.dim, len(rows), u.shape[-1]))
        for ordered in np.ndindex(*[variables] * nu):
            symmetric[:, index_of[tuple(sorted(ordered))]] += u[(slice(None), *ordered)]
        basis = covariants(spec.irreps_in, nu, spec.irreps_out.lmax)[ir].coefficients
        flat = basis.reshape(len(basis), -1).T
        change, *_ = np.linalg.lstsq(flat, symmetric.reshape(-1, u.shape[-1]), rcond=None)
        assert (
            np.abs(flat @ change - symmetric.reshape(-1, u.shape[-1])).max() < 1e-10
        )  # MACE's functions are in our span
        columns.append(torch.einsum("ap,zpc->zac", torch.from_numpy(change), weight))
    return torch.cat(columns, dim=1)


def _split(flat: Tensor, like: dict[str, Tensor] | torch.nn.ParameterDict) -> list[tuple[str, Tensor]]:
    sizes = [math.prod(weight.shape) for weight in like.values()]
    return [(name, part.view(weight.shape)) for (name, weight), part in zip(like.items(), flat.split(sizes))]
