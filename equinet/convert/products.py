"""A trained potential in another tensor product: exactly where that can be, approximately where not, and how well in numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from equinet.models import build_model
from equinet.nn import Interaction, ManyBodyBlock
from equinet.ops import Method, method_to_config
from equinet.ops.analysis.refit import coefficients, essence, exact_map, group_errors, product_error, weights_for
from equinet.potential import Potential, require_potential
from equinet.tables import Column, Table

if TYPE_CHECKING:
    from ase import Atoms

EXACT = 1e-8  # relative error that counts as none: rounding, and what a fit leaves of it
ROUNDING = 1e-10
SHOWN = 20
FINE_TUNE = "train on from it with `train.start_from`: an approximate model is a start for training, not a result"


@dataclass(frozen=True)
class CouplingError:
    """Change of the coefficients of one coupling, all species and channels: relative to them, and to all of its output."""

    layer: int
    output: str
    factors: str
    relative: float
    share: float


@dataclass(frozen=True)
class LayerError:
    """Root mean square of the change of a many-body product, relative to that of the product, for unit-variance features.

    ``not_equivariant`` is how much of the old and of the new product is no equivariant function at all (CP of low rank);
    ``relative`` has that in it, as if the two were independent.
    """

    layer: int
    relative: float
    not_equivariant: tuple[float, float]


@dataclass(frozen=True)
class Conversion:
    """Result of :func:`convert`: methods as a configuration names them, errors, and the outcome of each convolution."""

    many_body: tuple[Any, Any]
    convolution: tuple[Any, Any]
    couplings: tuple[CouplingError, ...]
    products: tuple[LayerError, ...]
    convolutions: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """True if the new potential is the same function to rounding."""
        return all(product.relative <= EXACT for product in self.products)

    def table(self) -> Table:
        """Couplings with the largest errors first, then every layer as a whole."""
        worst = sorted((c for c in self.couplings if c.share > EXACT), key=lambda c: -c.share)
        rows = [
            (str(c.layer), f"{c.factors} -> {c.output}", f"{c.relative:.1e}", f"{c.share:.1e}") for c in worst[:SHOWN]
        ]
        rest = len(self.couplings) - len(rows)
        if worst[SHOWN:]:
            rows.append(("", f"{rest} more, none above", "", f"{worst[SHOWN].share:.1e}"))
        elif rest:
            rows.append(("", f"{rest} {'more ' if worst else ''}couplings exact", "", f"< {EXACT:.0e}"))
        layers = []
        for p in self.products:
            layers.append((str(p.layer), "many-body product, features of unit variance", f"{p.relative:.1e}", ""))
            for name, part in zip(("old", "new"), p.not_equivariant):
                if part > ROUNDING:
                    layers.append(("", f"  of the {name} one not equivariant", f"{part:.1e}", ""))
        layers += [(str(n), f"convolution: {what}", "", "") for n, what in enumerate(self.convolutions, start=1)]
        columns = [Column("layer", True), Column("coupling"), Column("relative", True), Column("of the output", True)]
        caption = (
            "relative: change of coefficients; of the output: the same, relative to all coefficients of that output"
        )
        return Table("", columns, [*rows, (), *layers], caption)

    def sentence(self) -> str:
        """Summary of the conversion in one sentence."""
        if self.exact:
            return "The conversion is exact: the same function to rounding."
        worst = max(self.products, key=lambda p: p.relative)
        where = f"in layer {worst.layer} the many-body product changed by {worst.relative:.1%}"
        return f"The conversion is approximate: {where}; {FINE_TUNE}."

    def as_json(self) -> dict[str, Any]:
        """Everything, with ``exact``."""
        return {"exact": self.exact, **asdict(self)}


def convert(
    potential: Potential, *, many_body: Method | None = None, convolution: Method | None = None, seed: int = 0
) -> tuple[Potential, Conversion]:
    """The same potential by another tensor product.

    Many-body products of any kind go into exact couplings exactly, and into others as nearly as they can, see
    :func:`equinet.ops.analysis.refit.weights_for`. Convolutions are converted exactly or refused. Everything else is copied. What
    is computed is computed in float64; the new potential has precision, device and mode of the old one, which stays as it is.

    Args:
        potential: Potential to convert.
        many_body: The new many-body product; by default the old one.
        convolution: The new convolution; by default the old one.
        seed: Decides the starts of fits.

    Raises:
        ValueError: If a product cannot do what the architecture asks of it, or a convolution has no exact form in the new
            product; says why and what to do.
    """
    require_potential(potential)
    if reason := potential.model.not_convertible:
        raise ValueError(f"the tensor products of this potential cannot be exchanged: {reason}")
    config = potential.model.config
    update = {
        name: method for name, method in (("many_body", many_body), ("convolution", convolution)) if method is not None
    }
    if not update:
        raise ValueError("there is nothing to convert: give `many_body`, `convolution` or both")
    changed = config.model_copy(update=update)
    old = copy.deepcopy(potential).cpu().double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = build_model(changed, old.elements, old.model.avg_num_neighbors)
    _require_same_irreps(old.model.layers, model.layers, changed.many_body)
    new = Potential(model, copy.deepcopy(old.scale)).double()
    same_many = essence(config.many_body, "many_body") == essence(changed.many_body, "many_body")
    same_conv = essence(config.convolution, "convolution") == essence(changed.convolution, "convolution")
    if not same_conv:
        for interaction, _, _ in old.model.layers:
            if interaction.not_convertible:
                raise ValueError(interaction.not_convertible)
    _copy_state(old, new, [] if same_many else ["products"], [] if same_conv else ["convolution", "radial", "linear"])
    couplings: list[CouplingError] = []
    products: list[LayerError] = []
    convolutions: list[str] = []
    for n, (before, after) in enumerate(zip(old.model.layers, new.model.layers), start=1):
        if same_conv:
            convolutions.append("as it was")
        elif reason := _convert_convolution(before[0], after[0]):
            raise ValueError(f"the convolution of layer {n} has no exact form in {changed.convolution}: {reason}")
        else:
            convolutions.append("exact")
        if not same_many:
            each, product = _convert_product(n, before[1], after[1], seed)
            couplings += each
            products.append(product)
    names = {
        name: (method_to_config(getattr(config, name)), method_to_config(getattr(changed, name)))
        for name in ("many_body", "convolution")
    }
    new.origin = potential.origin
    new.references = potential.references
    new = new.to(device=potential.device, dtype=potential.dtype).train(potential.training)
    return new, Conversion(
        **names, couplings=tuple(couplings), products=tuple(products), convolutions=tuple(convolutions)
    )


def _require_same_irreps(old: Sequence[Any], new: Sequence[Any], method: Method) -> None:
    for n, layers in enumerate(zip(old, new), start=1):
        # Densities too, as those of the next layer follow from the features.
        specs = [product.product.spec for _, product, _ in layers]
        if len({(str(spec.irreps_in), str(spec.irreps_out)) for spec in specs}) > 1:
            names = [", ".join(str(ir) for _, ir in spec.irreps_out) for spec in specs]
            raise ValueError(
                f"layer {n} of this model passes {names[0]} on and with {method} it would be {names[1]}: the products reach "
                "different pseudotensors. Choose a product that reaches the same ones, or train anew"
            )


def _copy_state(old: Potential, new: Potential, fitted: list[str], mapped: list[str]) -> None:
    """All weights but those of what is converted."""
    state, fresh = old.state_dict(), new.state_dict()
    for name in fresh:
        room, _, rest = name.removeprefix("model.").partition(".")
        converted = (room in fitted and rest.split(".")[1] in ("weight", "product")) or (
            room == "interactions" and rest.split(".")[1] in mapped
        )
        if not converted:
            fresh[name] = state[name]
    new.load_state_dict(fresh)


@torch.no_grad()
def _convert_product(
    layer: int, old: ManyBodyBlock, new: ManyBodyBlock, seed: int
) -> tuple[list[CouplingError], LayerError]:
    target, before = coefficients(old.product, old.weight)
    new.weight.copy_(weights_for(new.product, target, seed))
    found, after = coefficients(new.product, new.weight)
    groups = group_errors(old.product.spec, target, found)
    sizes: dict[str, float] = {}
    for (output, _), (size, _) in groups.items():
        sizes[output] = math.hypot(sizes.get(output, 0.0), size)
    couplings = [
        CouplingError(layer, output, factors, _ratio(change, size), _ratio(change, sizes[output]))
        for (output, factors), (size, change) in groups.items()
    ]
    relative = math.hypot(product_error(old.product.spec, target, found), before, after)
    return couplings, LayerError(layer, relative, (before, after))


def _ratio(change: float, size: float) -> float:
    return change / size if size > 0 else float(change > 0)


@torch.no_grad()
def _convert_convolution(old: Interaction, new: Interaction) -> str | None:
    """Fill the radial network and the linear map of ``new``; the reason if there is no exact way."""
    found = exact_map(old.convolution, new.convolution)
    if isinstance(found, str):
        return found
    for ours, theirs in zip(list(new.radial.weights)[:-1], old.radial.weights):
        ours.copy_(theirs)
    last = old.radial.weights[-1].unflatten(1, (-1, new.channels))
    new.radial.weights[-1].copy_(torch.einsum("hkc,lk->hlc", last, found.weights).flatten(1))
    for ir, copies in found.copies.items():
        matrices = old.linear.weights[str(ir)].unflatten(0, (-1, new.channels))
        repeated = matrices[copies] * math.sqrt(len(copies) / len(matrices))  # each sum is divided by its own root
        new.linear.weights[str(ir)].copy_(repeated.flatten(0, 1))
    return None


@dataclass(frozen=True)
class Change:
    """Root mean square and largest change on some frames: energies in meV/atom, components of forces in meV/Å."""

    energy_rms_mev_per_atom: float
    energy_max_mev_per_atom: float
    forces_rms_mev_per_ang: float
    forces_max_mev_per_ang: float
    frames: int

    def as_json(self) -> dict[str, float]:
        """By name of the field."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"energy changes by {self.energy_rms_mev_per_atom:.3g} meV/atom (RMS; most {self.energy_max_mev_per_atom:.3g}), forces by "
            f"{self.forces_rms_mev_per_ang:.3g} meV/Å (RMS; most {self.forces_max_mev_per_ang:.3g})"
        )


def measure_change(old: Potential, new: Potential, frames: Sequence[Atoms] | None = None) -> Change:
    """Measure the difference of two potentials in float64, whatever their own precision.

    Args:
        old: One potential.
        new: Another, of the same elements and cutoff.
        frames: Structures of elements both know; by default random ones of ``equinet.verify.physics``.

    Raises:
        ValueError: If there is no frame, or an element is unknown.
    """
    from equinet.datasets import GraphLoader, to_graphs
    from equinet.verify.physics import own_structures

    taken = list(own_structures(old.elements, old.cutoff) if frames is None else frames)
    if not taken:
        raise ValueError("there is no frame to measure the change on")
    pair = [copy.deepcopy(potential).double().eval() for potential in (old, new)]
    energies, forces = [], []
    for graph in GraphLoader(to_graphs(taken, old.cutoff, old.elements), 32):
        first, second = (potential(graph.to(potential.device)) for potential in pair)
        atoms = graph.atoms_per_graph
        energies.append(((second["energy"].cpu() - first["energy"].cpu()) / atoms.cpu()).abs())
        forces.append((second["forces"].cpu() - first["forces"].cpu()).abs().flatten())
    energy, force = 1e3 * torch.cat(energies), 1e3 * torch.cat(forces)
    rms = [float(values.square().mean().sqrt()) for values in (energy, force)]
    return Change(rms[0], float(energy.max()), rms[1], float(force.max()), len(taken))
