"""Weights of a MACE model in equinet's layout.

Nearly everything is a reshape. What is not: constants that e3nn multiplies activations by, of which it has sampled values; the
weights of the many-body product, which MACE keeps on an overcomplete set of polynomials; and the parts of other heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from equinet.models import MACE
from equinet.nn import GatedInteraction, Interaction, ManyBodyBlock
from equinet.nn.gated import SIGMOID_GAIN
from equinet.nn.radial import SILU_GAIN
from equinet.ops.coupling.polynomials import covariants
from equinet.ops.kernels.node.reference import PolynomialTables

from .architecture import Architecture, contractions_of, gain_of
from .couplings import symmetrized
from .records import Record, irreps_of

# What the U matrices of a file may differ from equivariant polynomials, relative to their size: rounding of float32.
ROUNDING = 1e-5

Weights = dict[str, Tensor]


def weights_of(mace: Record, architecture: Architecture, head: str, model: MACE) -> Weights:
    """The state of a :class:`equinet.Potential` that is the same function as one head of a MACE model, in float64.

    Args:
        mace: The model, of ``architecture``.
        architecture: Architecture of the model.
        head: One of ``architecture.heads``.
        model: Model of the same architecture, which gives names and order of the weights.

    Raises:
        ValueError: If a tensor has another shape than the architecture says; names it.
    """
    chosen, order = architecture.heads.index(head), torch.tensor(architecture.order)
    new: Weights = {
        "model.embedding": _view(mace, "node_embedding.linear.weight", (len(order), -1))[order],
        "model.bias": torch.zeros(len(order)),
        "scale.reference": torch.atleast_2d(mace["atomic_energies_fn.atomic_energies"])[chosen][order],
    }
    scale, shift = (_of_head(mace.get(f"scale_shift.{name}"), chosen, value) for name, value in SCALE.items())
    new["scale.scale"], new["scale.shift"] = scale.expand(len(order)), shift.expand(len(order))
    new |= _radial_constants(mace, list(architecture.elements), new["scale.scale"][0])
    parts = zip(model.layers, mace["interactions"].children(), mace["products"].children())
    for n, ((interaction, product, _), *theirs) in enumerate(parts):
        # With `keep_last_layer_irreps` the last layer makes vectors too, which no energy depends on.
        more = n == len(model.layers) - 1 and irreps_of(theirs[0]["hidden_irreps"]).lmax > 0
        if isinstance(interaction, GatedInteraction):
            converted = _gated(theirs[0], interaction, order, more)
        else:
            converted = _interaction(theirs[0], interaction, order, more)
        new |= _below(f"model.interactions.{n}.", converted)
        new |= _below(f"model.products.{n}.", _product(theirs[1], product, order, more))
    for n, (readout, ours) in enumerate(zip(mace["readouts"].children(), model.readouts)):
        new |= _below(f"model.readouts.{n}.network.", _readout(readout, ours.network.sizes, architecture, chosen))  # type: ignore[union-attr, arg-type]
    return {name: tensor.double() for name, tensor in new.items()}


SCALE = {"scale": 1.0, "shift": 0.0}  # what a MACE without scale and shift has


def _of_head(values: Tensor | None, chosen: int, otherwise: float) -> Tensor:
    """The number of one head; files with a single head may hold it without an axis."""
    return torch.tensor(otherwise) if values is None else torch.atleast_1d(values)[chosen]


def _radial_constants(mace: Record, elements: list[int], scale: Tensor) -> Weights:
    """Constants of the distance transform and of the pair repulsion, which MACE multiplies by its scale."""
    new: Weights = {}
    transform = mace["radial_embedding"].get("distance_transform")
    if transform is not None:
        names = ("alpha",) if transform.kind == "SoftTransform" else ("a", "q", "p")
        new |= {f"model.transform.{name}": transform[name] for name in names}
        new["model.transform.radii"] = transform["covalent_radii"][elements]
    repulsion = mace.get("pair_repulsion_fn")
    if repulsion is not None:
        new |= {f"model.zbl.{name}": repulsion[name] for name in ("c", "a_exp", "a_prefactor")}
        new |= {"model.zbl.radii": repulsion["covalent_radii"][elements], "model.zbl.factor": scale}
    return new


def _interaction(theirs: Record, ours: Interaction, order: Tensor, more: bool) -> Weights:
    new = _linear("linear_up", theirs["linear_up.weight"], ours.linear_up.weights)
    new |= _linear("linear", theirs["linear.weight"], ours.linear.weights)
    new |= _species_linear(theirs["skip_tp.weight"], ours.species_linear.weights, order, more)
    gain = 1.0
    for n, layer in enumerate(theirs["conv_tp_weights"].children()):
        new[f"radial.weights.{n}"] = layer["weight"].double() * gain
        gain = gain_of(layer["act"]) / SILU_GAIN if layer.get("act") is not None else 1.0
    if ours.density is not None:
        new["density.weights.0"] = theirs["density_fn.layer0.weight"]
    normalization = 1.0 if ours.density is not None else float(theirs["avg_num_neighbors"])
    return new | {"normalization": torch.tensor(normalization, dtype=torch.float64)}


def _gated(theirs: Record, ours: GatedInteraction, order: Tensor, more: bool) -> Weights:
    new: Weights = {"alpha": theirs["alpha"], "beta": theirs["beta"], "normalization": torch.tensor(1.0)}
    for name, linear in (("linear_up", ours.linear_up), ("linear_2", ours.linear_2)):
        new |= _linear(name, theirs[f"{name}.weight"], linear.weights)
    new |= _linear("skip", theirs["skip_tp.weight"], ours.skip.weights, more)
    for name, gates, linear in (
        ("linear_1", "gates_1", ours.linear_1),
        ("linear_res", "gates_res", ours.linear_res),
    ):
        # The scalars that become gates come after those that stay.
        scalar, width = str(ours.irreps_density[0]), ours.gates_1.weights["0e"].shape[1]
        wide = {ir: (w.shape[0], w.shape[1] + width * (ir == scalar)) for ir, w in _in_order(linear.weights)}
        parts = _split(theirs[f"{name}.weight"], wide)
        new |= {f"{name}.weights.{ir}": part for ir, part in parts.items()}
        kept = parts[scalar].shape[1] - width
        new[f"{name}.weights.{scalar}"], new[f"{gates}.weights.{scalar}"] = parts[scalar].split([kept, width], dim=1)
    silu, sigmoid = _gate_gains(theirs["equivariant_nonlin"])
    for ir in ours.linear_2.weights:
        gain = silu / SILU_GAIN if ir == "0e" else sigmoid / SIGMOID_GAIN
        new[f"linear_2.weights.{ir}"] = new[f"linear_2.weights.{ir}"].double() * gain
    for name in ("source", "target"):
        new[name] = _view(theirs, f"{name}_embedding.weight", (len(order), -1))[order]
    for name, network in (("radial", "conv_tp_weights"), ("density", "density_fn")):
        layers = theirs[network]["net"].children()
        for kind, room in (("Linear", "linears"), ("LayerNorm", "norms")):
            for n, layer in enumerate(each for each in layers if each.kind == kind):
                new |= {f"{name}.{room}.{n}.{part}": layer[part] for part in ("weight", "bias")}
    return new


def _gate_gains(gate: Record) -> tuple[float, float]:
    """Constants of SiLU and of the sigmoid of the gate."""
    if "_scalar_cst" in gate:
        return float(gate["_scalar_cst"]), float(gate["_gate_cst"])
    scalars, gates = (gate[f"act_{name}.acts"].children() for name in ("scalars", "gates"))
    return gain_of(scalars[0]), gain_of(gates[0])


def _product(theirs: Record, ours: ManyBodyBlock, order: Tensor, more: bool) -> Weights:
    new = _linear("linear", theirs["linear.weight"], ours.linear.weights, more)
    weight = many_body_weights(ours.product, contractions_of(theirs))  # type: ignore[arg-type]  # exact couplings
    # `use_agnostic_product`: one set of weights for all species
    return new | {"weight": weight.expand(len(order), -1, -1) if len(weight) == 1 else weight[order]}


def _readout(theirs: Record, sizes: tuple[int, ...], architecture: Architecture, chosen: int) -> Weights:
    """The part of a readout that belongs to one head: a block of its hidden channels and one column of its results.

    The normalisation counts the hidden channels of all heads.
    """
    heads, channels = len(architecture.heads), sizes[0]
    if theirs.kind == "LinearReadoutBlock":
        scalars = theirs["linear.weight"][: channels * heads].view(channels, heads)
        return {"weights.0": scalars[:, chosen : chosen + 1]}
    hidden = sizes[1]
    mine = slice(chosen * hidden, (chosen + 1) * hidden)
    gain = gain_of(theirs["non_linearity.acts"].children()[0]) / SILU_GAIN / math.sqrt(heads)
    first = theirs["linear_1.weight"][: channels * hidden * heads].view(channels, -1)
    last = theirs["linear_2.weight"].double().view(hidden * heads, heads) * gain
    new: Weights = {"weights.0": first[:, mine], f"weights.{len(sizes) - 2}": last[mine, chosen : chosen + 1]}
    if theirs.kind == "NonLinearBiasReadoutBlock":
        middle = theirs["linear_mid.weight"].double().view(hidden * heads, -1) * gain
        new |= {"weights.1": middle[mine, mine], "biases.0": theirs["linear_mid.bias"][mine]}
        new["biases.1"] = theirs["linear_2.bias"][chosen : chosen + 1]
    return new


def many_body_weights(product: PolynomialTables, contractions: list[Record]) -> Tensor:
    """Weights on our basis of polynomials that give the same function as MACE's on the U matrices of its file.

    A U matrix is a tensor over ordered factors; what it computes depends on the sum over all orders only. It is never made
    anew: signs of couplings differ between versions of e3nn, and weights belong to the signs they were trained with.

    Raises:
        ValueError: If a U matrix is no set of equivariant polynomials.
    """
    spec = product.spec
    variables = spec.irreps_in.dim // spec.channels
    columns = []
    for k, nu in product.paths:
        contraction, ir = contractions[k], spec.irreps_out[k].ir
        name = "weights_max" if nu == spec.correlation else f"weights.{spec.correlation - 1 - nu}"
        weight, u = contraction[name].double(), contraction[f"U_matrix_{nu}"].double()
        size = ir.dim * variables**nu
        if u.numel() % size:
            raise ValueError(
                f"U_matrix_{nu} of the {k}th product in this file has shape {tuple(u.shape)}; {spec} asks for another"
            )
        symmetric = symmetrized(u.reshape(ir.dim, variables**nu, -1), variables, nu)
        basis = torch.from_numpy(covariants(spec.irreps_in, nu, spec.irreps_out.lmax)[ir].coefficients)
        flat, target = basis.flatten(1).T, symmetric.flatten(0, 1)
        change = torch.linalg.lstsq(flat, target).solution
        if (flat @ change - target).abs().max() > ROUNDING * target.abs().max().clamp(min=1e-30):
            raise ValueError(
                f"U_matrix_{nu} of the {k}th product in this file is no set of equivariant polynomials; it is damaged"
            )
        columns.append(torch.einsum("ap,zpc->zac", change, weight))
    return torch.cat(columns, dim=1)


def _linear(name: str, flat: Tensor, like: nn.ParameterDict, more: bool = False) -> Weights:
    return {f"{name}.weights.{ir}": part for ir, part in _split(flat, _shapes(like), more).items()}


def _species_linear(flat: Tensor, like: nn.ParameterDict, order: Tensor, more: bool) -> Weights:
    """e3nn's product with a one-hot vector has (channels in, species, channels out)."""
    sizes = {ir: (weight.shape[1], weight.shape[0], weight.shape[2]) for ir, weight in _in_order(like)}
    parts = _split(flat, sizes, more)
    return {f"species_linear.weights.{ir}": part.transpose(0, 1)[order] for ir, part in parts.items()}


def _shapes(like: nn.ParameterDict) -> dict[str, tuple[int, ...]]:
    return {ir: tuple(weight.shape) for ir, weight in _in_order(like)}


def _in_order(like: nn.ParameterDict) -> Iterable[tuple[str, Tensor]]:
    """By degree, as e3nn lays weights out one after the other; all are true tensors."""
    return sorted(like.items(), key=lambda item: int(item[0][:-1]))


def _split(flat: Tensor, shapes: Mapping[str, tuple[int, ...]], more: bool = False) -> dict[str, Tensor]:
    """Matrices that lie one after the other; with ``more`` others may follow, which the energy does not depend on."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    flat = flat.reshape(-1)
    if len(flat) < sum(sizes) or (len(flat) > sum(sizes) and not more):
        raise ValueError(
            f"there are {len(flat)} weights for {', '.join(shapes)}, and the architecture asks for {sum(sizes)}"
        )
    parts = flat[: sum(sizes)].split(sizes)
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts)}


def _view(record: Record, name: str, shape: tuple[int, ...]) -> Tensor:
    return record[name].reshape(shape)


def _below(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}
