"""Configuration of a MACE model from the records of its file; unsupported components raise an error that names them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from e3nn import o3
from torch import Tensor

from equinet.models import MACEConfig
from equinet.models.mace.config import InteractionKind
from equinet.ops import natural_irreps
from equinet.ops.layout import one_of_each
from equinet.quotes import shortened

from .records import Record, irreps_of, refusing_what_is_damaged

KINDS: dict[str, InteractionKind] = {
    "RealAgnosticInteractionBlock": "plain",
    "RealAgnosticResidualInteractionBlock": "residual",
    "RealAgnosticDensityInteractionBlock": "density",
    "RealAgnosticDensityResidualInteractionBlock": "density_residual",
    "RealAgnosticResidualNonLinearInteractionBlock": "gated",
}
TRANSFORMS: dict[str, Literal["agnesi", "soft"]] = {"AgnesiTransform": "agnesi", "SoftTransform": "soft"}
READOUTS = ("LinearReadoutBlock", "NonLinearReadoutBlock", "NonLinearBiasReadoutBlock")
DTYPES = (torch.float32, torch.float64)

# Every weight that `weights.py` takes. A model with others computes something else than what it would be converted to.
PARAMETERS = re.compile(
    r"node_embedding\.linear\.weight"
    r"|interactions\.\d+\.((linear(_up|_1|_2|_res)?|skip_tp|(source|target)_embedding)\.weight|alpha|beta)"
    r"|interactions\.\d+\.(conv_tp_weights|density_fn)\.(layer\d+\.weight|net\.\d+\.(weight|bias))"
    r"|products\.\d+\.(linear\.weight|symmetric_contractions\.contractions\.\d+\.(weights_max|weights\.\d+))"
    r"|readouts\.\d+\.(linear(_1|_mid|_2)?\.weight|linear_(mid|2)\.bias)"
    r"|radial_embedding\.(bessel_fn\.bessel_weights|distance_transform\.(a|q|p|alpha))|pair_repulsion_fn\.a_(exp|prefactor)"
)
# Frequencies of a file in float32 are rounded; trained ones differ in the second digit.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Architecture:
    """A MACE model without its weights.

    Attributes:
        config: Configuration in equinet's terms.
        elements: Atomic numbers, ascending.
        order: Index of each element among the species of the file.
        heads: Names of the sets of energies it can give.
        avg_num_neighbors: Mean number of neighbours, of the first layer.
        dtype: Precision of the weights.
    """

    config: MACEConfig
    elements: tuple[int, ...]
    order: tuple[int, ...]
    heads: tuple[str, ...]
    avg_num_neighbors: float
    dtype: torch.dtype


@refusing_what_is_damaged()
def architecture_of(mace: Record) -> Architecture:
    """The architecture of a MACE model.

    Raises:
        ValueError: If there is something in it that equinet has no form for; names all that was found.
    """
    reasons = list(dict.fromkeys(_reasons_against(mace)))
    if reasons:
        raise ValueError(
            f"this model cannot be converted; equinet has no form for {'; nor for '.join(shortened(reason, 300) for reason in reasons)}"
        )
    interactions, products = mace["interactions"].children(), mace["products"].children()
    first, last = interactions[0], mace["readouts"].children()[-1]
    numbers = mace["atomic_numbers"].tolist()
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    heads = heads_of(mace)
    transform = mace["radial_embedding"].get("distance_transform")
    width = 0 if last.kind == "LinearReadoutBlock" else irreps_of(last["hidden_irreps"]).dim // len(heads)
    edge_channels = [edge_irreps_of(interaction).count("0e") for interaction in interactions]
    channels = irreps_of(first["target_irreps"]).count("0e")
    config = MACEConfig(
        convolution="cg",
        many_body="cg",
        channels=channels,
        max_l=_max_l(interactions),
        sh_degree=irreps_of(first["edge_attrs_irreps"]).lmax,
        correlation=_correlation(products[0]),
        layers=len(interactions),
        cutoff=_cutoff(mace),
        bessel_functions=len(mace["radial_embedding.bessel_fn.bessel_weights"]),
        envelope_power=int(mace["radial_embedding.cutoff_fn.p"]),
        radial_hidden=tuple(_radial_widths(first)[:-1]),
        distance_transform=TRANSFORMS[transform.kind] if transform is not None else "none",
        envelope_on="basis" if mace["radial_embedding"].get("apply_cutoff", True) else "weights",
        first_interaction=KINDS[first.kind],
        interaction=KINDS[interactions[-1].kind],
        edge_channels=None if set(edge_channels) == {channels} else edge_channels[-1],
        edge_channels_first=edge_channels[0] != channels,
        readout_hidden=width,
        readout_biases=last.kind == "NonLinearBiasReadoutBlock",
        readout_layers="all" if len(mace["readouts"].children()) == len(interactions) else "last",
        zbl="pair_repulsion_fn" in mace,
        exact_isolated_atoms=False,
    )
    return Architecture(
        config=config,
        elements=tuple(numbers[n] for n in order),
        order=tuple(order),
        heads=heads,
        avg_num_neighbors=float(first["avg_num_neighbors"]),
        dtype=mace["node_embedding.linear.weight"].dtype,
    )


def heads_of(mace: Record) -> tuple[str, ...]:
    """Names of the heads; files written before there were several have one, "Default"."""
    return tuple(mace.get("heads") or ["Default"])


def edge_irreps_of(interaction: Record) -> o3.Irreps:
    """Irreps of what is sent to neighbours."""
    irreps = interaction.get("edge_irreps")
    return irreps_of(interaction["node_feats_irreps"] if irreps is None else irreps)


def contractions_of(product: Record) -> list[Record]:
    """The many-body products of a layer, one for each irrep of its result."""
    return product["symmetric_contractions.contractions"].children()


def gain_of(activation: Record) -> float:
    """The constant that e3nn multiplies an activation by."""
    return float(activation["cst"])


def _correlation(product: Record) -> int:
    return 1 + len(contractions_of(product)[0]["weights"].get("_parameters", {}))


def _max_l(interactions: list[Record]) -> int:
    return max(irreps_of(interaction["node_feats_irreps"]).lmax for interaction in interactions)


def _cutoff(mace: Record) -> float:
    """Cutoff as a float64, rounded back to the decimal number that float32 files approximate."""
    r_max: Tensor = mace["r_max"]
    return float(str(r_max.item())) if r_max.dtype == torch.float64 else round(r_max.item(), 6)


def _radial_widths(interaction: Record) -> list[int]:
    network = interaction["conv_tp_weights"]
    if "net" in network:
        return [len(layer["weight"]) for layer in network["net"].children() if layer.kind == "Linear"]
    return [layer["weight"].shape[1] for layer in network.children()]


def _reasons_against(mace: Record) -> Iterator[str]:
    """Reasons, in words, why equinet has no form for the model."""
    if mace.kind not in ("MACE", "ScaleShiftMACE"):
        yield f"the model class {mace.kind}"
        return
    foreign = [name for name, record in mace.modules() if record.class_name.startswith("cuequivariance")]
    if foreign:
        yield (
            f"weights in cuEquivariance's layout (`{foreign[0]}`); mace-torch takes them back with "
            "`mace.cli.convert_cueq_e3nn`"
        )
        return
    adapted = [name for name, record in mace.modules() if "lora" in record.kind.lower()]
    if adapted:
        yield f"LoRA adapters (`{adapted[0]}`); merge them into the weights first, with `mace.modules.lora.merge_lora_weights`"
        return
    if "joint_embedding" in mace:
        yield f"an embedding of {', '.join(mace['embedding_specs']) or 'other properties'}"
    yield from _against_radial(mace)
    yield from _against_layers(mace)
    yield from _against_readouts(mace)
    unknown = [name for name in mace.parameters() if not PARAMETERS.fullmatch(name)]
    if unknown:
        yield f"the weights {', '.join(map(shortened, unknown[:3]))}{' and others' if len(unknown) > 3 else ''}"
    dtype = mace["node_embedding.linear.weight"].dtype
    if dtype not in DTYPES:
        yield f"weights in {dtype}"


def _against_radial(mace: Record) -> Iterator[str]:
    radial = mace["radial_embedding"]
    if radial["bessel_fn"].kind != "BesselBasis":
        yield f"the radial basis {radial['bessel_fn'].kind}"
    else:
        found = radial["bessel_fn.bessel_weights"].double()
        usual = torch.arange(1, len(found) + 1, dtype=torch.float64) * (math.pi / _cutoff(mace))
        if not torch.allclose(found, usual, rtol=ROUNDING, atol=0):
            yield "trained frequencies of the Bessel functions"
    transform = radial.get("distance_transform")
    if transform is not None and transform.kind not in TRANSFORMS:
        yield f"the distance transform {transform.kind}"
    if "pair_repulsion_fn" in mace:
        repulsion = mace["pair_repulsion_fn"]
        if repulsion.kind != "ZBLBasis":
            yield f"the pair repulsion {repulsion.kind}"
        elif int(repulsion["p"]) != int(radial["cutoff_fn.p"]):
            yield "a pair repulsion with another envelope than the radial basis has"


def _against_layers(mace: Record) -> Iterator[str]:
    interactions, products = mace["interactions"].children(), mace["products"].children()
    yield from (f"the interaction {one.kind}" for one in interactions if one.kind not in KINDS)
    if len({one.kind for one in interactions[1:]}) > 1:
        yield "different interactions after the first layer"
    harmonics = irreps_of(interactions[0]["edge_attrs_irreps"])
    if harmonics != natural_irreps(harmonics.lmax):
        yield f"spherical harmonics of irreps {harmonics} (`use_so3`)"
    channels = irreps_of(interactions[0]["target_irreps"]).count("0e")
    for one in interactions:
        for name in ("node_feats_irreps", "target_irreps", "hidden_irreps"):
            irreps = irreps_of(one[name])
            if irreps != natural_irreps(irreps.lmax, channels):
                yield f"{name} = {irreps}, which are not {channels} true tensors of every degree"
        sent, received = edge_irreps_of(one), irreps_of(one["node_feats_irreps"])
        if one_of_each(sent) != one_of_each(received) or len({mul for mul, _ in sent}) != 1:
            yield f"edge_irreps = {sent} where features are {received}"
    widths = {edge_irreps_of(one).count("0e") for one in interactions[1:]}
    if len(widths) > 1:
        yield "different edge_irreps after the first layer"
    sizes = {tuple(_radial_widths(one)[:-1]) for one in interactions if one.kind in KINDS}
    if len(sizes) > 1:
        yield f"radial networks of different widths, {sorted(sizes)}"
    yield from _against_networks([network for one in interactions for network in _networks(one)])
    orders = [1 + len(each["weights"].get("_parameters", {})) for one in products for each in contractions_of(one)]
    if len(set(orders)) > 1:
        yield f"different correlations of layers or outputs, {orders}"


def _networks(interaction: Record) -> list[Record]:
    return [interaction[name] for name in ("conv_tp_weights", "density_fn") if name in interaction]


def _against_networks(networks: list[Record]) -> Iterator[str]:
    """Functions of the distance have SiLU between their layers, and those of gated blocks layer norms of torch's default."""
    for layer in (layer for network in networks for layer in (network.get("net") or network).children()):
        act = layer.get("act")
        if act is not None and not _function_name(act["f"]).endswith("silu"):
            yield f"the activation {_function_name(act['f'])} of a radial network"
        if layer.kind == "LayerNorm" and layer["eps"] != torch.nn.LayerNorm(1).eps:
            yield f"a layer norm with eps = {layer['eps']}"


def _against_readouts(mace: Record) -> Iterator[str]:
    readouts, layers = mace["readouts"].children(), len(mace["interactions"].children())
    if len(readouts) not in (1, layers):
        yield f"{len(readouts)} readouts of {layers} layers"
        return
    yield from (f"the readout {one.kind}" for one in readouts if one.kind not in READOUTS)
    yield from (f"{one.kind} in a layer that is not the last" for one in readouts[:-1] if one.kind != READOUTS[0])
    if readouts[-1].kind in READOUTS[1:]:
        hidden = irreps_of(readouts[-1]["hidden_irreps"])
        if hidden.lmax > 0 or hidden.count("0e") != hidden.dim or hidden.dim % len(heads_of(mace)):
            yield f"a readout with hidden irreps {hidden} for {len(heads_of(mace))} heads"
        gate = readouts[-1]["non_linearity.acts"].children()
        names = [_function_name(act.get("f", act)) if isinstance(act, Record) else "no gate" for act in gate]
        if len(names) != 1 or not names[0].endswith("silu"):
            yield f"the gate {', '.join(names) or 'None'} of the readout"


def _function_name(function: Record) -> str:
    """Functions of torch itself are pickled as attributes of a class."""
    looked_up = function.kind == "getattr" and len(function.arguments) == 2
    return str(function.arguments[1]) if looked_up else function.class_name
