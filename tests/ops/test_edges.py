"""Edges in pairs are the same edges one by one: by receiver, unfolded, summed, and in every convolution."""

from __future__ import annotations

import math

import pytest
import torch
from ase import Atoms
from e3nn import o3
from torch import Tensor

from equinet.graph import displacements, from_atoms
from equinet.ops import METHODS, CPDecomposed, GauntGrid, Method, SphericalHarmonics, TensorProductSpec
from equinet.ops.edges import Edges, as_edges, sum_on_nodes

STRUCTURES = {
    "molecule": Atoms("OHHC", [[0, 0, 0], [0, 0.8, 0.6], [0, -0.8, 0.6], [2.5, 0.3, -0.2]]),
    "crystal": Atoms("C2", [[0, 0, 0], [1.4, 1.3, 1.2]], cell=[[3.8, 0, 0], [0.3, 3.9, 0], [0.3, 0.1, 4.1]], pbc=True),
    "one atom and its images": Atoms("C", [[0, 0, 0]], cell=[[2.3, 0, 0], [0.4, 2.6, 0], [0.3, -0.5, 2.9]], pbc=True),
    "no edges": Atoms("CHO", [[0, 0, 0], [9, 0, 0], [0, 9, 0]]),
    "one node": Atoms("C", [[0, 0, 0]]),
    "no nodes": Atoms(),
}
METHODS_TO_TRY: dict[str, Method] = {
    "reference": METHODS["cg"]("reference"),
    **{name: METHODS[name]() for name in METHODS if name not in ("cp", "bracket")},
    "cp": CPDecomposed(rank=12),
    "degrees": GauntGrid(weights="degrees", copies=2),
}
METHODS_TO_TRY["joined"] = GauntGrid(bracket=True)


def pairs_of(name: str) -> tuple[Edges, Tensor]:
    """Edges of a structure in pairs, and the vector of each row."""
    graph = from_atoms(STRUCTURES[name], 4.0)
    edges, rows = Edges.in_pairs(graph.edge_index, graph.pairs, graph.num_nodes)
    return edges, displacements(graph, rows)


def rows_by_receiver(edges: Edges) -> list[set[tuple[int, int]]]:
    """Of each node the (sender, code) of what comes in."""
    pointers, senders, codes = edges.incoming
    assert pointers.dtype == senders.dtype == codes.dtype == torch.int64
    assert pointers.shape == (edges.num_nodes + 1,)
    assert pointers[0] == 0
    assert pointers[-1] == len(senders) == len(codes)
    both = list(zip(senders.tolist(), codes.tolist()))
    assert len(set(both)) == len(both)
    return [set(both[pointers[n] : pointers[n + 1]]) for n in range(edges.num_nodes)]


@pytest.mark.parametrize("name", STRUCTURES)
def test_all_ways_to_say_who_sends_to_a_node_agree(name: str) -> None:
    known, _ = pairs_of(name)  # as the graph has them
    found = Edges(known.index, known.num_nodes, mirrored=True)  # sorted out by themselves
    single = Edges(found.directed, known.num_nodes)
    rows = known.index.shape[1]
    assert rows_by_receiver(known) == rows_by_receiver(found)
    # Row n of the single directions is there for n below the number of pairs, and the reverse of one beyond.
    mirrored = [{(s, c // 2 + (c % 2) * rows) for s, c in node} for node in rows_by_receiver(known)]
    assert mirrored == [{(s, c // 2) for s, c in node} for node in rows_by_receiver(single)]
    assert all(c % 2 == 0 for node in rows_by_receiver(single) for _, c in node)


@pytest.mark.parametrize("name", STRUCTURES)
def test_single_directions_sorted_by_receiver_are_what_sorting_makes_of_them(name: str) -> None:
    graph = from_atoms(STRUCTURES[name], 4.0)
    known, found = Edges.by_receiver(graph.edge_index, graph.num_nodes), Edges(graph.edge_index, graph.num_nodes)
    assert not known.mirrored
    assert torch.equal(known.index, found.index)
    for ours, theirs in zip(known.incoming, found.incoming):
        assert ours.dtype == torch.int64
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", STRUCTURES)
def test_codes_name_the_row_and_its_direction(name: str) -> None:
    edges, _ = pairs_of(name)
    pointers, senders, codes = edges.incoming
    receiver = torch.repeat_interleave(torch.arange(edges.num_nodes), pointers.diff())
    there = torch.stack([senders, receiver])
    assert torch.equal(torch.where(codes % 2 == 0, there, there.flip(0)), edges.index[:, codes // 2])


def test_an_atom_and_its_images_are_pairs_of_a_node_with_itself() -> None:
    edges, vectors = pairs_of("one atom and its images")
    assert len(vectors) > 5
    assert (edges.index == 0).all()
    assert len({tuple(v) for v in torch.cat([vectors, -vectors]).round(decimals=6).tolist()}) == 2 * len(vectors)
    assert edges.incoming.codes.sort().values.tolist() == list(range(2 * len(vectors)))


def test_single_directions_need_no_reverse() -> None:
    edges = as_edges(torch.tensor([[3, 0, 3], [1, 1, 0]]), 5)
    assert not edges.mirrored
    pointers, senders, codes = edges.incoming
    assert (pointers.tolist(), senders.tolist(), codes.tolist()) == ([0, 1, 3, 3, 3, 3], [3, 3, 0], [4, 0, 2])
    assert edges.sum_on_receivers(torch.tensor([1.0, 2.0, 4.0])).tolist() == [4, 3, 0, 0, 0]
    assert as_edges(edges, 5) is edges


@pytest.mark.parametrize("name", STRUCTURES)
def test_unfolded_edges_have_the_harmonics_of_their_own_direction(name: str) -> None:
    edges, vectors = pairs_of(name)
    harmonics, weight = SphericalHarmonics(3).double(), vectors.norm(dim=1)[:, None, None] * torch.randn(1, 2, 3)
    irreps = o3.Irreps("0e+1o+2e+3o")
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    sender, receiver, attrs, weights = edges.unfold(harmonics(unit), weight, irreps)
    assert torch.equal(torch.stack([sender, receiver]), edges.directed)
    torch.testing.assert_close(attrs, harmonics(torch.cat([unit, -unit])), rtol=0, atol=1e-14)
    assert torch.equal(weights, torch.cat([weight, weight]))


def test_harmonics_turn_around_by_their_degree_whatever_their_label() -> None:
    edges = Edges(torch.tensor([[0], [1]]), 2, mirrored=True)
    _, _, attrs, _ = edges.unfold(torch.ones(1, 10), torch.ones(1, 1, 1), o3.Irreps("0o+0e+1e+2o"))
    assert attrs[1].tolist() == [1, 1, -1, -1, -1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_is_the_same_in_both_directions_is_summed_on_both_ends(name: str) -> None:
    edges, vectors = pairs_of(name)
    values = torch.cat([vectors.square(), torch.ones(len(vectors), 1)], dim=1)
    expected = sum_on_nodes(torch.cat([values, values]), edges.directed[1], edges.num_nodes)
    torch.testing.assert_close(edges.sum_on_receivers(values), expected, rtol=1e-14, atol=0)
    assert edges.sum_on_receivers(values)[:, -1].tolist() == edges.incoming.pointers.diff().tolist()


# Outputs that every one of the methods reaches; pseudotensors with the bracket alone.
REACHED = dict.fromkeys(("joined", "reference", "cg", "so2", "matrix"), "0e+1o+1e+2e")
SPECS = [
    *((method, name, "0e+1o+2e", REACHED.get(method, "0e+1o+2e")) for method in METHODS_TO_TRY for name in STRUCTURES),
    # Filters labelled with the other parity: the sign of a reversed edge is that of their degree all the same.
    *(
        (method, "crystal", filters, "0e+1o+1e+2e+2o")
        for method in METHODS_TO_TRY
        for filters in ("0e+1e+2e", "0o+1e+2o")
        if method != "so2"  # which refuses them
    ),
]


@pytest.mark.parametrize(("method", "name", "filters", "outputs"), SPECS)
def test_every_convolution_gives_in_pairs_what_it_gives_edge_by_edge(
    method: str, name: str, filters: str, outputs: str
) -> None:
    edges, vectors = pairs_of(name)
    spec = TensorProductSpec("3x0e+3x1o", filters, outputs)
    module = METHODS_TO_TRY[method].convolution(spec).double()
    harmonics = SphericalHarmonics(2).double()
    torch.manual_seed(0)
    features = torch.randn(edges.num_nodes, 4, 3, dtype=torch.float64)
    mixing = torch.randn(3, module.weight_numel * 3, dtype=torch.float64)

    def value_and_gradients(edges: Edges | Tensor, there_and_back: bool) -> list[Tensor]:
        x, v, m = (leaf.clone().requires_grad_() for leaf in (features, vectors, mixing))
        each = torch.cat([v, -v]) if there_and_back else v
        r = each.norm(dim=1, keepdim=True)
        weight = (torch.cat([r, r**2, torch.exp(-r)], dim=1) @ m).unflatten(1, (-1, 3))
        out = module(x, harmonics(each / r), weight, edges)
        gradients = torch.autograd.grad(out.square().sum(), (x, v, m), create_graph=True)
        return [out, *gradients, *torch.autograd.grad(sum(s.square().sum() for s in gradients), (x, v, m))]

    found = value_and_gradients(edges, False)
    for ours, theirs in zip(found, value_and_gradients(edges.directed, True)):
        scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13 * scale)
    if name in ("molecule", "crystal") and filters == "0e+1o+2e":
        assert all(0.1 < each.detach().abs().max() < math.inf for each in found)


@pytest.mark.parametrize("nodes", [0, 1, 5])
def test_edges_to_itself_are_one_for_every_node(nodes: int) -> None:
    ours, each = Edges.to_itself(nodes, torch.device("cpu")), torch.arange(nodes)
    expected = Edges(torch.stack([each, each]), nodes)
    assert torch.equal(ours.index, expected.index)
    assert all(torch.equal(a, b) for a, b in zip(ours.incoming, expected.incoming))
