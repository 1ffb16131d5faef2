"""The gated interaction: equal to its formula written edge by edge, in value and two derivatives, and its limits."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from e3nn import o3
from torch import Tensor, nn

from equinet.nn import BesselBasis, EdgeFeatures, GatedInteraction, InteractionSpec, PolynomialEnvelope
from equinet.nn.gated import SIGMOID_GAIN, EdgeMLP
from equinet.nn.linear import EquivariantLinear
from equinet.nn.radial import SILU_GAIN
from equinet.ops import ClebschGordan, SpeciesGroups, SphericalHarmonics
from equinet.ops.edges import Edges

CUTOFF, BASIS, SPECIES = 3.0, 5, 3
FEATURES = [o3.Irrep("0e"), o3.Irrep("1o")]
DENSITY = [o3.Irrep("0e"), o3.Irrep("1o"), o3.Irrep("2e")]


def make_layer(
    channels: int = 3, edge_channels: int = 2, hidden: tuple[int, ...] = (7, 6), seed: int = 0
) -> GatedInteraction:
    """A layer none of whose parts is without effect."""
    torch.manual_seed(seed)
    layer = GatedInteraction(
        InteractionSpec(
            irreps_in=tuple(FEATURES),
            irreps_out=tuple(FEATURES),
            irreps_density=tuple(DENSITY),
            sh_degree=2,
            channels=channels,
            edge_channels=edge_channels,
            species=SPECIES,
            radial_sizes=(BASIS, *hidden),
            method=ClebschGordan(),
        ),
        normalization=1.3,
    ).double()
    with torch.no_grad():
        layer.source.normal_()
        layer.target.normal_()
        layer.alpha.fill_(1.7)
        layer.beta.fill_(0.8)
        for norm in (*layer.radial.norms, *layer.density.norms):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    return layer


class Case:
    """Vectors of edges between a few nodes, and features; node 3 receives nothing and node 4 is alone."""

    def __init__(self, dtype: torch.dtype = torch.float64, channels: int = 3) -> None:
        generator = torch.Generator().manual_seed(3)
        self.index = torch.tensor([[0, 1, 0, 2, 3, 1, 2, 2], [1, 0, 2, 0, 0, 2, 1, 2]])
        vectors = torch.randn(self.index.shape[1], 3, generator=generator, dtype=torch.float64)
        self.vectors = (
            vectors * (0.8 + 1.5 * torch.rand(len(vectors), 1, generator=generator)) / vectors.norm(dim=1, keepdim=True)
        ).to(dtype)
        self.node_feats = torch.randn(5, 4, channels, generator=generator, dtype=torch.float64).to(dtype)
        self.species = torch.tensor([0, 2, 1, 2, 0])

    @property
    def edges(self) -> Edges:
        return Edges(self.index, len(self.species))


def features_of(vectors: Tensor, envelope_on: str) -> EdgeFeatures:
    lengths = vectors.norm(dim=1, keepdim=True)
    attrs = SphericalHarmonics(2).to(vectors.dtype)(vectors / lengths)
    basis = BesselBasis(CUTOFF, BASIS).to(vectors.dtype)(lengths)
    envelope = PolynomialEnvelope(CUTOFF, 5)(lengths)
    if envelope_on == "basis":
        return EdgeFeatures(lengths, attrs, basis * envelope, envelope, None)
    return EdgeFeatures(lengths, attrs, basis, envelope, envelope)


def second_moment_one(function: Callable[[np.ndarray], np.ndarray]) -> float:
    """The factor that gives ``function`` of a standard normal number a second moment of one."""
    z, w = np.polynomial.hermite_e.hermegauss(180)
    return float(1 / np.sqrt((w * function(z) ** 2).sum() / w.sum()))


GAIN_SILU = second_moment_one(lambda z: z / (1 + np.exp(-z)))
GAIN_SIGMOID = second_moment_one(lambda z: 1 / (1 + np.exp(-z)))


def reference_mlp(network: EdgeMLP, feats: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Of one edge: everything known of it side by side, linear maps, layer norms written out."""
    x = network.linears[0].weight @ torch.cat([feats, source, target]) + network.linears[0].bias
    for linear, norm in zip(list(network.linears)[1:], network.norms):
        centred = x - x.mean()
        x = centred / torch.sqrt((centred**2).mean() + 1e-5) * norm.weight + norm.bias
        x = linear.weight @ (x / (1 + torch.exp(-x))) + linear.bias
    return x


def reference_linear(module: EquivariantLinear, x: dict[o3.Irrep, Tensor]) -> dict[o3.Irrep, Tensor]:
    """Of one node; ``x`` holds ``(components, copies, channels)`` of each irrep."""
    return {
        ir: torch.einsum("mkc,kcd->md", x[ir], module.weights[str(ir)].view(*x[ir].shape[1:], -1))
        / math.sqrt(x[ir].shape[1] * x[ir].shape[2])
        for ir in map(o3.Irrep, module.weights)
    }


def reference(
    layer: GatedInteraction, node_feats: Tensor, of_edge: EdgeFeatures, index: Tensor, species: Tensor
) -> tuple[Tensor, Tensor]:
    """The formula, node by node and edge by edge, with Wigner's symbols from e3nn."""
    dtype, paths = node_feats.dtype, layer.convolution.spec.paths
    nodes = [dict(zip(FEATURES, (each[:1, None], each[1:4, None]))) for each in node_feats]
    sent = [reference_linear(layer.linear_up, each) for each in nodes]
    harmonics = of_edge.attrs.split([1, 3, 5], dim=1)
    densities = []
    for i in range(len(nodes)):
        sums = {
            ir: [torch.zeros(ir.dim, layer.channels, dtype=dtype) for _ in range(count)]
            for ir, count in layer.convolution.spec.paths_per_output.items()
        }
        normalizer = layer.alpha
        for e in (index[1] == i).nonzero()[:, 0].tolist():
            j = int(index[0, e])
            factor = 1 if of_edge.factor is None else of_edge.factor[e]
            known = [p[species[n]] / math.sqrt(SPECIES) for p, n in ((layer.source, j), (layer.target, i))]
            weights = (reference_mlp(layer.radial, of_edge.feats[e], *known) * factor).view(len(paths), -1)
            normalizer = normalizer + layer.beta * factor * torch.tanh(
                reference_mlp(layer.density, of_edge.feats[e], *known) ** 2
            )
            used = dict.fromkeys(sums, 0)
            for weight, path in zip(weights, paths):
                ir, l2 = FEATURES[path.i1], path.i2
                coupling = math.sqrt(path.out.dim) * o3.wigner_3j(ir.l, l2, path.out.l, dtype=dtype)
                message = torch.einsum("abm,ac,b,c->mc", coupling, sent[j][ir], harmonics[l2][e], weight)
                sums[path.out][used[path.out]] = sums[path.out][used[path.out]] + message
                used[path.out] += 1
        total = {ir: torch.stack(parts, dim=1) for ir, parts in sums.items()}
        own = {ir: value[:, None] for ir, value in sent[i].items()}
        message = {ir: value / normalizer for ir, value in reference_linear(layer.linear_1, total).items()}
        for ir, value in reference_linear(layer.linear_res, own).items():
            message[ir] = message[ir] + value
        scalar = DENSITY[0]
        gates = (
            reference_linear(layer.gates_1, total)[scalar] / normalizer + reference_linear(layer.gates_res, own)[scalar]
        )
        gates = GAIN_SIGMOID / (1 + torch.exp(-gates.view(len(DENSITY) - 1, -1)))
        gated = {scalar: GAIN_SILU * message[scalar] / (1 + torch.exp(-message[scalar]))}
        for ir, gate in zip(DENSITY[1:], gates):
            gated[ir] = message[ir] * gate
        density = reference_linear(layer.linear_2, {ir: value[:, None] for ir, value in gated.items()})
        densities.append(torch.cat([density[ir] for ir in DENSITY]) / 1.3)
    skipped = [torch.cat(list(reference_linear(layer.skip, each).values())) for each in nodes]
    return torch.stack(densities), torch.stack(skipped)


def value_and_gradients(layer: GatedInteraction, case: Case, envelope_on: str, twin: bool) -> list[Tensor]:
    """Both results, and their first and second derivatives in vectors, features and every parameter."""
    leaves = [case.vectors.clone().requires_grad_(), case.node_feats.clone().requires_grad_(), *layer.parameters()]
    of_edge = features_of(leaves[0], envelope_on)
    if twin:
        results = reference(layer, leaves[1], of_edge, case.index, case.species)
    else:
        results = layer(leaves[1], of_edge, case.edges, SpeciesGroups(case.species))
    generator = torch.Generator().manual_seed(4)
    probe = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in results]
    total = sum((p * r).sum() for p, r in zip(probe, results))
    gradients = torch.autograd.grad(total, leaves, create_graph=True)
    force = (
        gradients[0] * torch.linspace(-1, 1, gradients[0].numel(), dtype=gradients[0].dtype).view_as(gradients[0])
    ).sum()
    double_backward = torch.autograd.grad(force, leaves, allow_unused=True)
    double_backward = [
        torch.zeros_like(leaf) if double_backward is None else double_backward
        for leaf, double_backward in zip(leaves, double_backward)
    ]
    return [each.detach() for each in (*results, *gradients, *double_backward)]


@pytest.mark.parametrize("envelope_on", ["basis", "weights"])
@pytest.mark.parametrize(("channels", "edge_channels"), [(3, 2), (1, 1), (2, 5)])
def test_value_and_two_derivatives_are_those_of_the_formula(
    envelope_on: str, channels: int, edge_channels: int
) -> None:
    layer, case = make_layer(channels, edge_channels), Case(channels=channels)
    found, expected = (value_and_gradients(layer, case, envelope_on, twin) for twin in (False, True))
    assert len(found) == len(expected) == 2 + 2 * (2 + len(list(layer.parameters())))
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11 * max(1.0, theirs.abs().max().item()))
    names = ["vectors", "features", *dict(layer.named_parameters())]
    for name, gradient in zip(names, expected[2:]):
        assert gradient.abs().max() > 1e-4, name  # so that every part is tested


def test_single_precision_errs_at_most_twice_as_much_as_the_formula_does() -> None:
    layer, single = make_layer(), copy.deepcopy(make_layer()).float()
    exact = value_and_gradients(layer, Case(), "weights", twin=True)
    ours, theirs = (value_and_gradients(single, Case(torch.float32), "weights", twin) for twin in (False, True))

    def errors(results: list[Tensor], start: int, stop: int) -> float:
        parts = [(a.double() - b).square().sum() for a, b in zip(results[start:stop], exact[start:stop])]
        return math.sqrt(sum(part.item() for part in parts))

    n = 2 + len(list(layer.parameters()))
    for start, stop in itertools.pairwise((0, 2, 2 + n, 2 + 2 * n)):  # values, gradients, double_backward
        assert 0 < errors(ours, start, stop) <= 2 * errors(theirs, start, stop)


def test_the_gains_give_a_unit_second_moment() -> None:
    assert pytest.approx(GAIN_SIGMOID, rel=1e-12) == SIGMOID_GAIN
    assert pytest.approx(GAIN_SILU, rel=1e-12) == SILU_GAIN


@pytest.mark.parametrize("widths", [[4], [6, 4], [6, 5, 4]])
def test_a_network_of_edges_is_its_layers_on_everything_side_by_side(widths: list[int]) -> None:
    torch.manual_seed(1)
    network = EdgeMLP(BASIS, 2, widths).double()
    source, target = torch.randn(2, SPECIES, 2, dtype=torch.float64)
    feats, species = torch.randn(7, BASIS, dtype=torch.float64), torch.randint(SPECIES, (2, 7))
    layers: list[nn.Module] = [network.linears[0]]
    for norm, linear in zip(network.norms, list(network.linears)[1:]):
        layers += [norm, nn.SiLU(), linear]
    expected = nn.Sequential(*layers)(torch.cat([feats, source[species[0]], target[species[1]]], dim=1))
    torch.testing.assert_close(network(feats, source, target, species), expected, rtol=0, atol=1e-13)
    assert network(feats[:0], source, target, species[:, :0]).shape == (0, 4)


def test_derivatives_of_a_network_of_edges_are_those_of_finite_differences() -> None:
    torch.manual_seed(1)
    network = EdgeMLP(2, 1, [4, 2]).double()
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 2), (2, 1), (2, 1))]
    species = torch.tensor([[0, 1, 1], [1, 0, 1]])
    assert torch.autograd.gradcheck(lambda *x: network(*x, species), leaves)
    assert torch.autograd.gradgradcheck(lambda *x: network(*x, species), leaves)


def test_the_two_directions_of_a_pair_have_weights_of_their_own() -> None:
    layer, case = make_layer(), Case()
    of_edge, groups = features_of(case.vectors, "weights"), SpeciesGroups(case.species)
    before = layer(case.node_feats, of_edge, case.edges, groups)[0]
    with torch.no_grad():
        layer.source.copy_(layer.target.clone())
    assert (layer(case.node_feats, of_edge, case.edges, groups)[0] - before).abs().max() > 1e-3


def test_a_node_without_neighbours_keeps_what_its_own_features_make() -> None:
    layer, case = make_layer(), Case()
    of_edge = features_of(case.vectors, "weights")
    density, residual = layer(case.node_feats, of_edge, case.edges, SpeciesGroups(case.species))
    none = features_of(case.vectors[:0], "weights")
    alone = layer(case.node_feats[4:], none, Edges(case.index[:, :0], 1), SpeciesGroups(case.species[4:]))
    torch.testing.assert_close(density[4:], alone[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(residual[4:], alone[1], rtol=0, atol=1e-14)
    assert density[4].abs().max() > 1e-2
    assert torch.equal(density[4, 4:], torch.zeros(5, 3, dtype=torch.float64))  # nothing of degree two by itself


@pytest.mark.parametrize("nodes", [0, 1, 3])
def test_structures_without_edges_work(nodes: int) -> None:
    layer, case = make_layer(), Case()
    vectors = case.vectors[:0].clone().requires_grad_()
    edges, groups = Edges(case.index[:, :0], nodes), SpeciesGroups(case.species[:nodes])
    density, residual = layer(case.node_feats[:nodes], features_of(vectors, "weights"), edges, groups)
    assert density.shape == (nodes, 9, 3)
    assert residual.shape == (nodes, 4, 3)
    (gradient,) = torch.autograd.grad(density.sum(), vectors, create_graph=True)
    assert gradient.shape == (0, 3)


def test_it_turns_with_its_input(representation: Callable[[str, Tensor], Tensor], orthogonal: Tensor) -> None:
    layer, case = make_layer(), Case()
    groups = SpeciesGroups(case.species)
    before = layer(case.node_feats, features_of(case.vectors, "weights"), case.edges, groups)
    turned = torch.einsum("ij,njc->nic", representation("0e+1o", orthogonal), case.node_feats)
    after = layer(turned, features_of(case.vectors @ orthogonal.T, "weights"), case.edges, groups)
    for irreps, now, then in zip(("0e+1o+2e", "0e+1o"), after, before):
        expected = torch.einsum("ij,njc->nic", representation(irreps, orthogonal), then)
        torch.testing.assert_close(now, expected, rtol=0, atol=1e-12)


def test_scalars_alone_have_no_gates() -> None:
    scalar = o3.Irrep("0e")
    layer = GatedInteraction(
        InteractionSpec(
            irreps_in=(scalar,),
            irreps_out=(scalar,),
            irreps_density=(scalar,),
            sh_degree=0,
            channels=2,
            edge_channels=2,
            species=SPECIES,
            radial_sizes=(BASIS, 4),
            method=ClebschGordan(),
        ),
        normalization=1.0,
    ).double()
    case = Case(channels=2)
    of_edge = features_of(case.vectors, "weights")
    density, residual = layer(
        case.node_feats[:, :1], of_edge._replace(attrs=of_edge.attrs[:, :1]), case.edges, SpeciesGroups(case.species)
    )
    assert density.shape == residual.shape == (5, 1, 2)
    assert density.isfinite().all()


def test_calibration_makes_a_density_of_size_one_half() -> None:
    layer, case = make_layer(), Case()
    arguments = (case.node_feats, features_of(case.vectors, "weights"), case.edges, SpeciesGroups(case.species))
    calibrated = layer.calibrate(layer(*arguments)[0].detach())
    density = layer(*arguments)[0]
    torch.testing.assert_close(density, calibrated, rtol=1e-12, atol=1e-12)
    assert density.square().mean().sqrt().item() == pytest.approx(0.5, rel=1e-12)


def test_a_fresh_layer_tells_species_apart_hardly_and_divides_by_twenty() -> None:
    layer = GatedInteraction(
        InteractionSpec(
            irreps_in=tuple(FEATURES),
            irreps_out=tuple(FEATURES),
            irreps_density=tuple(DENSITY),
            sh_degree=2,
            channels=2,
            edge_channels=2,
            species=SPECIES,
            radial_sizes=(BASIS, 4),
            method=ClebschGordan(),
        ),
        normalization=1.0,
    )
    assert (layer.alpha.item(), layer.beta.item()) == (20.0, 0.0)
    for parameter in (layer.source, layer.target):
        assert 0 < parameter.abs().max() <= 1e-3
