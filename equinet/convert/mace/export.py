"""The way back: a potential as arguments and weights of mace-torch's ScaleShiftMACE."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from e3nn import o3
from e3nn.math import normalize2mom
from torch import Tensor
from torch.nn.functional import silu

from equinet.graph.elements import COVALENT_RADII
from equinet.models import MACE
from equinet.nn import EnergyScale, GatedInteraction, Interaction, ManyBodyBlock, Readout
from equinet.nn.gated import SIGMOID_GAIN, EdgeMLP
from equinet.nn.radial import SILU_GAIN
from equinet.nn.transform import AgnesiTransform
from equinet.ops import ClebschGordan
from equinet.ops.coupling.polynomials import covariants
from equinet.ops.kernels.node.reference import PolynomialTables
from equinet.potential import Potential, require_potential

from .couplings import MAX_CORRELATION, WignerSigns, symmetrized, u_matrix
from .forms import arguments_of


def to_mace_arguments(potential: Potential) -> dict[str, Any]:
    """Arguments of mace-torch's ``ScaleShiftMACE`` for the weights of :func:`to_mace_state_dict`.

    Plain data: classes and the gate by their names in ``mace.modules.interaction_classes``, ``readout_classes`` and
    ``gate_dict``, irreps as text.

    Args:
        potential: A trained potential.

    Raises:
        ValueError: If MACE has no form of something in ``potential``; names it and says what to do.
    """
    model = _mace_of(potential)
    reference, scale, shift = _energies(potential.scale, model)
    return arguments_of(model.config) | {
        "num_elements": len(potential.elements),
        "atomic_energies": reference.tolist(),
        "avg_num_neighbors": model.avg_num_neighbors,
        "atomic_numbers": list(potential.elements),
        "atomic_inter_scale": scale,
        "atomic_inter_shift": shift,
        "heads": ["Default"],
        "use_reduced_cg": False,
    }


@torch.no_grad()
def to_mace_state_dict(potential: Potential, *, signs: WignerSigns = "0.4.4") -> dict[str, Tensor]:
    """The potential as weights of mace-torch's ``ScaleShiftMACE``, in float64, with the same energies to rounding.

    Load them with ``model.load_state_dict(state, strict=False)`` into a model built with :func:`to_mace_arguments`. What
    is missing in ``state`` then are constants of e3nn's modules (``output_mask``, empty ``bias``) and nothing else.

    What MACE has no place for goes into weights it has: the normalisation of each layer, where MACE has one mean number of
    neighbours, into ``interactions.n.linear``; the bias and the shift of each element into the atomic energies; the ratio
    of activation constants, of which e3nn has sampled values, into the layer that follows.

    Args:
        potential: A trained potential.
        signs: Version of e3nn whose Wigner 3j tensors MACE's ``U_matrix`` buffers are made of. They come with the weights
            that belong to them, so that a model built under another version computes the same; but mace-torch's conversion
            to cuequivariance makes them anew and is right only under the version named here.

    Raises:
        ValueError: If MACE has no form of something in ``potential``; names it and says what to do.
    """
    model = _mace_of(potential)
    reference, scale, shift = _energies(potential.scale, model)
    state = {
        "atomic_numbers": torch.tensor(potential.elements),
        "num_interactions": torch.tensor(model.config.layers),
        "node_embedding.linear.weight": model.embedding.flatten(),
        "atomic_energies_fn.atomic_energies": reference,
        "scale_shift.scale": torch.tensor(scale, dtype=torch.float64),
        "scale_shift.shift": torch.tensor(shift, dtype=torch.float64),
        **_of_distances(model, scale),
    }
    for n, (interaction, product, _) in enumerate(model.layers):
        of_layer = _gated(interaction) if isinstance(interaction, GatedInteraction) else _ungated(interaction, model)
        state |= {f"interactions.{n}.{name}": value for name, value in of_layer.items()}
        state |= {f"products.{n}.{name}": value for name, value in _many_body(product, signs).items()}
    readouts = [readout for _, _, readout in model.layers if readout is not None]
    for n, readout in enumerate(readouts):
        linear = n < len(readouts) - 1 or model.config.layers == 1
        state |= {f"readouts.{n}.{name}": value for name, value in _readout(readout, linear).items()}
    return {name: _copied(value) for name, value in state.items()}


def _mace_of(potential: Potential) -> MACE:
    """The model of ``potential``, or a refusal of everything that mace-torch has no form for."""
    require_potential(potential)
    model = potential.model
    if not isinstance(model, MACE):
        raise ValueError(f"only a MACE can be exported to mace-torch, and this potential is a {type(model).__name__}")
    c = model.config
    for name in ("convolution", "many_body"):
        if not isinstance(getattr(c, name), ClebschGordan):
            raise ValueError(
                f"MACE has no `{name}` by {getattr(c, name)}; convert the potential to the tensor product cg first (`equinet convert`)"
            )
    if c.pseudotensors:
        raise ValueError("MACE as exported here has no pseudotensors; train with model.pseudotensors = false")
    if potential.scale.exact_isolated_atoms:
        raise ValueError(
            "MACE has no gate that gives an atom alone exactly its reference energy; "
            "train with model.exact_isolated_atoms = false"
        )
    if len(set(potential.scale.scale.tolist())) > 1:
        raise ValueError(
            f"MACE has one energy scale for all elements, but {', '.join(potential.symbols)} have "
            f'{potential.scale.scale.tolist()} eV; train with data.scale_shift = "global"'
        )
    if any(getattr(interaction, "table", None) is not None for interaction, _, _ in model.layers):
        raise ValueError(
            "MACE has no tables for radial networks; export the potential from which this one was tabulated"
        )
    if c.sh_degree == 0:
        raise ValueError("mace-torch builds no model with harmonics of degree 0 alone; train with model.sh_degree >= 1")
    if c.correlation > MAX_CORRELATION:
        raise ValueError(
            f"U tensors of mace-torch are known up to correlation = {MAX_CORRELATION}, and this potential has {c.correlation}; "
            "train with model.correlation = 3"
        )
    if c.sh_degree >= 4 and c.correlation >= 3:
        raise ValueError(
            f"mace-torch needs couplings up to degree 12 for sh_degree = {c.sh_degree} with correlation = {c.correlation}, "
            "and its e3nn has them up to 11; train with model.sh_degree = 3"
        )
    if c.layers == 1 and c.readout_hidden:
        raise ValueError(
            "mace-torch reads energies from a single layer with a linear map alone; "
            "train with model.readout_hidden = 0 or with two layers"
        )
    return model


def _energies(scale: EnergyScale, model: MACE) -> tuple[Tensor, float, float]:
    """Atomic energies, scale and shift. The shift stays one where all elements have the same, as in a model from MACE."""
    shift = scale.shift + scale.scale * model.bias.detach().to(scale.scale)
    if len(set(shift.tolist())) == 1:
        return scale.reference.detach(), scale.scale[0].item(), shift[0].item()
    return scale.reference + shift, scale.scale[0].item(), 0.0


def _of_distances(model: MACE, scale: float) -> dict[str, Tensor]:
    """Weights of the functions of the distance: basis, envelope, transform, repulsion."""
    c = model.config
    r_max, power = torch.tensor(c.cutoff, dtype=torch.float64), torch.tensor(c.envelope_power, dtype=torch.int32)
    here = "radial_embedding."
    state = {
        "r_max": r_max,
        here + "bessel_fn.r_max": r_max,
        here + "bessel_fn.bessel_weights": torch.arange(1, c.bessel_functions + 1, dtype=torch.float64)
        * (math.pi / c.cutoff),
        here + "bessel_fn.prefactor": torch.tensor(math.sqrt(2 / c.cutoff), dtype=torch.float64),
        here + "cutoff_fn.r_max": r_max,
        here + "cutoff_fn.p": power,
    }
    if model.transform is not None:
        names = ("a", "q", "p") if isinstance(model.transform, AgnesiTransform) else ("alpha",)
        state |= {f"{here}distance_transform.{name}": getattr(model.transform, name) for name in names}
        state[here + "distance_transform.covalent_radii"] = _all_radii(model, model.transform.radii)
    if model.zbl is not None:
        repulsion, here = model.zbl, "pair_repulsion_fn."
        state |= {here + name: getattr(repulsion, name) for name in ("a_exp", "a_prefactor")}
        state[here + "c"] = repulsion.c * (repulsion.factor / scale)  # MACE's scale multiplies the repulsion too
        state[here + "p"] = torch.tensor(repulsion.power, dtype=torch.int32)
        state[here + "covalent_radii"] = _all_radii(model, repulsion.radii)
    return state


def _all_radii(model: MACE, radii: Tensor) -> Tensor:
    table = torch.tensor(COVALENT_RADII, dtype=torch.float64)
    table[list(model.elements)] = radii.to(table)
    return table


def _ungated(interaction: Interaction, model: MACE) -> dict[str, Tensor]:
    theirs = 1.0 if interaction.density is not None else model.avg_num_neighbors
    ratio = theirs / interaction.normalization.item()
    state = {
        "linear_up.weight": _flat(interaction.linear_up.weights),
        "linear.weight": ratio * _flat(interaction.linear.weights),
        # e3nn's order is that of the product with a one-hot vector: channel, species, channel
        "skip_tp.weight": torch.cat(
            [w.double().transpose(0, 1).flatten() for _, w in _in_order(interaction.species_linear.weights)]
        ),
    }
    for n, weight in enumerate(interaction.radial.weights):
        state[f"conv_tp_weights.layer{n}.weight"] = weight.double() * (_silu_ratio() if n else 1.0)
    if interaction.density is not None:
        state["density_fn.layer0.weight"] = interaction.density.weights[0]
    return state


def _gated(interaction: GatedInteraction) -> dict[str, Tensor]:
    sigmoid_ratio = SIGMOID_GAIN / float(normalize2mom(torch.sigmoid).cst)
    state = {
        "source_embedding.weight": interaction.source.flatten(),
        "target_embedding.weight": interaction.target.flatten(),
        "linear_up.weight": _flat(interaction.linear_up.weights),
        "skip_tp.weight": _flat(interaction.skip.weights),
        "alpha": interaction.alpha,
        "beta": interaction.beta,
        **_edge_mlp("conv_tp_weights", interaction.radial),
        **_edge_mlp("density_fn", interaction.density),
    }
    for name, gates in (("linear_1", interaction.gates_1), ("linear_res", interaction.gates_res)):
        weights = dict(getattr(interaction, name).weights)
        weights["0e"] = torch.cat([weights["0e"], gates.weights["0e"]], dim=1)  # one linear map to scalars and gates
        state[f"{name}.weight"] = _flat(weights)
    after_gate = {
        ir: weight * (_silu_ratio() if ir == "0e" else sigmoid_ratio)
        for ir, weight in interaction.linear_2.weights.items()
    }
    state["linear_2.weight"] = _flat(after_gate) / interaction.normalization
    return state


def _edge_mlp(name: str, network: EdgeMLP) -> dict[str, Tensor]:
    """As ``torch.nn.Sequential`` of linear map, layer norm, SiLU and so on."""
    parts = {f"{name}.net.{3 * n}": linear for n, linear in enumerate(network.linears)}
    parts |= {f"{name}.net.{3 * n + 1}": norm for n, norm in enumerate(network.norms)}
    return {f"{path}.{key}": value for path, part in parts.items() for key, value in part.named_parameters()}


def _many_body(block: ManyBodyBlock, signs: WignerSigns) -> dict[str, Tensor]:
    state, product = {"linear.weight": _flat(block.linear.weights)}, block.product
    assert isinstance(product, PolynomialTables)
    spec = product.spec
    weight = block.weight.to("cpu", torch.float64)
    columns = dict(zip(product.paths, weight.split(list(product.paths.values()), dim=1)))
    for k, (_, ir) in enumerate(spec.irreps_out):
        here = f"symmetric_contractions.contractions.{k}."
        for nu in range(1, spec.correlation + 1):
            u = u_matrix(spec.irreps_in, ir, nu, signs=signs)
            name = "weights_max" if nu == spec.correlation else f"weights.{spec.correlation - 1 - nu}"
            flag = "weights_max_zeroed" if nu == spec.correlation else f"weights_{nu - 1}_zeroed"
            state[f"{here}U_matrix_{nu}"] = u
            state[here + flag] = ~u.any()
            state[here + name] = _many_body_weights(product, k, nu, u, columns.get((k, nu)))
    return state


def _many_body_weights(product: PolynomialTables, k: int, nu: int, u: Tensor, weight: Tensor | None) -> Tensor:
    """The smallest weights on U's columns that give the function of ``weight`` on our basis of polynomials."""
    spec = product.spec
    if weight is None:
        return torch.zeros(spec.species, u.shape[-1], spec.channels, dtype=torch.float64)
    basis = covariants(spec.irreps_in, nu, spec.irreps_out.lmax)[spec.irreps_out[k].ir].coefficients
    ours = basis.reshape(len(basis), -1).T
    variables, components = u.shape[-2], basis.shape[1]
    theirs = symmetrized(u.reshape(components, variables**nu, -1), variables, nu).flatten(0, 1).numpy()
    change, *_ = np.linalg.lstsq(theirs, ours, rcond=1e-12)
    # U's functions are all there are, even where four factors are coupled through true tensors only.
    if (error := np.abs(theirs @ change - ours).max()) > 1e-10:
        raise ArithmeticError(
            f"the U matrices of mace-torch do not reach all polynomials of {nu} factors (error {error:.1g}), which is a bug of equinet"
        )
    return torch.einsum("up,zpc->zuc", torch.from_numpy(change), weight)


def _readout(readout: Readout, linear: bool) -> dict[str, Tensor]:
    first, *others = (weight.double() for weight in readout.network.weights)
    if linear:
        return {"linear.weight": first.flatten()}
    if not others:  # mace-torch ends with a hidden layer in any case; silu(x) - silu(-x) = x
        others = [torch.tensor([[1.0], [-1.0]], dtype=torch.float64) * math.sqrt(2) / SILU_GAIN]
        first = torch.cat([first, -first], dim=1)
    names = ["linear_1", "linear_2"] if len(others) == 1 else ["linear_1", "linear_mid", "linear_2"]
    weights = [first, *(_silu_ratio() * weight for weight in others)]
    state = {f"{name}.weight": weight.flatten() for name, weight in zip(names, weights)}
    return state | {f"{name}.bias": bias for name, bias in zip(names[1:], readout.network.biases)}


@cache
def _silu_ratio() -> float:
    """Our constant of SiLU over e3nn's, which is a mean over a million samples, the same in e3nn 0.4.4 and 0.6."""
    return SILU_GAIN / float(normalize2mom(silu).cst)


def _flat(weights: Any) -> Tensor:
    """By degree, as e3nn lays weights out one after the other."""
    return torch.cat([weight.double().flatten() for _, weight in _in_order(weights)])


def _in_order(weights: Any) -> list[tuple[str, Tensor]]:
    return sorted(weights.items(), key=lambda item: o3.Irrep(item[0]))


def _copied(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float64 if value.is_floating_point() else value.dtype, copy=True)
