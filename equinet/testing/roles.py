"""The three roles of a method as the contract sees them: random inputs, what the result should be, and how it turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from e3nn import o3
from torch import Tensor

from equinet.ops import ManyBodySpec, SpeciesGroups, TensorProductSpec
from equinet.ops.coupling.polynomials import covariants, monomials
from equinet.ops.edges import Edges
from equinet.ops.layout import is_true, one_of_each


def coupled(ir1: o3.Irrep, ir2: o3.Irrep, out: o3.Irrep, x: Tensor, y: Tensor) -> Tensor:
    """A path's product of ``(edges, 2 l1 + 1, channels)`` and ``(edges, 2 l2 + 1)`` with weight 1 and e3nn's couplings."""
    coupling = o3.wigner_3j(ir1.l, ir2.l, out.l, dtype=torch.float64)
    return out.dim**0.5 * torch.einsum("ijk,eic,ej->ekc", coupling, x, y)


def coupled_pairs(ir1: o3.Irrep, ir2: o3.Irrep, out: o3.Irrep, x: Tensor, y: Tensor) -> Tensor:
    """The same of ``(rows, 2 l1 + 1, channels)`` and ``(rows, 2 l2 + 1, channels)``, channel by channel."""
    coupling = o3.wigner_3j(ir1.l, ir2.l, out.l, dtype=torch.float64)
    return out.dim**0.5 * torch.einsum("ijk,eic,ejc->ekc", coupling, x, y)


def turn(irreps: o3.Irreps, orthogonal: Tensor, values: Tensor) -> Tensor:
    """``(batch, dim, channels)``, one copy of each irrep, turned by the matrices that turn e3nn's harmonics."""
    points = normal(0)(100, 3)
    blocks = []
    for _, ir in irreps:
        before, after = (o3.spherical_harmonics(ir.l, r, normalize=True) for r in (points, points @ orthogonal.T))
        block = torch.linalg.lstsq(before, after).solution.T
        blocks.append(block if is_true(ir) else torch.linalg.det(orthogonal) * block)
    return torch.block_diag(*blocks) @ values


def normal(seed: int) -> Callable[..., Tensor]:
    """Independent numbers of variance one, float64, the same everywhere."""
    draw = np.random.RandomState(seed)
    return lambda *shape: torch.from_numpy(draw.standard_normal(shape))


class ConvolutionRole:
    """Leaves are features, edge vectors (other second inputs where harmonics do not fit ``irreps_in2``) and weights."""

    names, sizes, seeds = ("features", "edges", "weights"), (5, 9), (5,)  # nodes and edges
    edge_cases = ((3, 0), (1, 0), (1, 3), (0, 0), (7, 1))

    def __init__(self, spec: TensorProductSpec, executor: Any, twin: Any) -> None:
        self.spec, self.executor, self.product_of = spec, executor, coupled
        self.slots = o3.Irreps([(1, out) for out, count in executor.copies.items() for _ in range(count)])
        self.filters = [ir for _, ir in spec.irreps_in2]
        self.directed = all(is_true(ir) for ir in self.filters) and len(set(self.filters)) == len(self.filters)

    def inputs(self, seed: int, nodes: int, edges: int) -> tuple[list[Tensor], Tensor]:
        """Leaves and edges; the last of several nodes has none, and one pair of nodes has two."""
        draw, spec = normal(seed), self.spec
        features = draw(nodes, one_of_each(spec.irreps_in1).dim, spec.channels)
        second = draw(edges, 3 if self.directed else spec.irreps_in2.dim)
        weight = draw(edges, self.executor.weight_numel, spec.channels)
        edge_index = torch.from_numpy(np.random.RandomState(seed).randint(max(nodes - 1, 1), size=(2, edges)))
        edge_index[:, 1:2] = edge_index[:, :1]
        return [features, second, weight], edge_index

    def plain(self, leaves: list[Tensor]) -> list[Tensor]:
        """Leaves with the harmonics in place of the vectors: what an executor takes."""
        if not self.directed:
            return leaves
        degrees = [ir.l for ir in self.filters]
        return [leaves[0], o3.spherical_harmonics(degrees, leaves[1], True, normalization="component"), leaves[2]]

    def run(self, module: Any, plain: list[Tensor], index: Edges | Tensor) -> Tensor:
        """The result, slot after slot: within an executor's irrep the component is slow and the copy fast."""
        result = module(*plain, index)
        blocks = result.split([out.dim * n for out, n in module.copies.items()], dim=1)
        slots = [b.unflatten(1, (-1, n)).transpose(1, 2).flatten(1, 2) for b, n in zip(blocks, module.copies.values())]
        return torch.cat(slots, dim=1)

    def expected(self, plain: list[Tensor], index: Tensor) -> Tensor:
        """Expected result from ``path_weights``, path by path and slot by slot."""
        features, second, weight = plain
        weights = self.executor.path_weights(weight)  # (edges, slots, paths, channels)
        x = features[index[0]].split([ir.dim for _, ir in self.spec.irreps_in1], dim=1)
        y = second.split([ir.dim for ir in self.filters], dim=1)
        in1, in2 = ([ir for _, ir in irreps] for irreps in (self.spec.irreps_in1, self.spec.irreps_in2))
        products = [(out, self.product_of(in1[i], in2[j], out, x[i], y[j])) for i, j, out in self.spec.paths]
        messages = [
            sum(weights[:, s, n].unsqueeze(1) * z for n, (out, z) in enumerate(products) if out == slot)
            for s, (_, slot) in enumerate(self.slots)
        ]
        nothing = features.new_zeros(len(features), self.slots.dim, self.spec.channels)
        return nothing.index_add(0, index[1], torch.cat(messages, dim=1))

    def turned(self, leaves: list[Tensor], orthogonal: Tensor) -> list[Tensor]:
        irreps2 = o3.Irreps("1o") if self.directed else self.spec.irreps_in2
        second = turn(irreps2, orthogonal, leaves[1].unsqueeze(2)).squeeze(2)
        return [turn(self.spec.irreps_in1, orthogonal, leaves[0]), second, leaves[2]]


class PairRole:
    """Leaves are both inputs and weights: of each row, or shared by all for some seeds."""

    names, sizes, seeds = ("first", "second", "weights"), (6,), (5, 6)  # rows
    edge_cases = ((0,), (1,), (3,), (65,))
    shared = (1, 5)  # seeds

    def __init__(self, spec: TensorProductSpec, executor: Any, twin: Any) -> None:
        self.spec, self.executor, self.product_of = spec, executor, coupled_pairs
        self.slots = o3.Irreps([(1, out) for out in spec.copies])

    def inputs(self, seed: int, rows: int) -> tuple[list[Tensor], None]:
        """Leaves; there are no edges."""
        draw, spec = normal(seed), self.spec
        x, y = (draw(rows, one_of_each(irreps).dim, spec.channels) for irreps in (spec.irreps_in1, spec.irreps_in2))
        weight = draw(*([] if seed in self.shared else [rows]), self.executor.weight_numel, spec.channels)
        return [x, y, weight], None

    def plain(self, leaves: list[Tensor]) -> list[Tensor]:
        return leaves

    def run(self, module: Any, plain: list[Tensor], index: Any) -> Any:
        return module(*plain)

    def expected(self, plain: list[Tensor], index: Any) -> Tensor:
        """Expected result from ``path_weights``, path by path."""
        x, y, weight = plain
        weights = self.executor.path_weights(weight)  # (..., paths, channels)
        in1, in2 = ([ir for _, ir in irreps] for irreps in (self.spec.irreps_in1, self.spec.irreps_in2))
        parts1, parts2 = x.split([ir.dim for ir in in1], dim=1), y.split([ir.dim for ir in in2], dim=1)
        found: dict[o3.Irrep, Any] = dict.fromkeys(self.spec.copies, 0.0)
        for (i, j, out), w in zip(self.spec.paths, weights.unbind(-2)):
            found[out] = found[out] + w.unsqueeze(-2) * self.product_of(in1[i], in2[j], out, parts1[i], parts2[j])
        return torch.cat(list(found.values()), dim=1)

    def turned(self, leaves: list[Tensor], orthogonal: Tensor) -> list[Tensor]:
        first, second = (
            turn(irreps, orthogonal, leaf) for irreps, leaf in zip((self.spec.irreps_in1, self.spec.irreps_in2), leaves)
        )
        return [first, second, leaves[2]]


class ManyBodyRole:
    """Leaves are features and weights. The references are the reference form and the space of all equivariant polynomials."""

    names, sizes, seeds = ("features", "weights"), (7,), (5,)  # nodes
    edge_cases = ((0,), (1,), (3,))

    def __init__(self, spec: ManyBodySpec, executor: Any, twin: Any) -> None:
        self.spec, self.executor, self.twin, self.slots = spec, executor, twin, one_of_each(spec.irreps_out)

    def inputs(self, seed: int, nodes: int) -> tuple[list[Tensor], Tensor]:
        """Leaves and the species of the nodes, in no order; of three or more species the second is missing."""
        draw, spec = normal(seed), self.spec
        present = torch.tensor([z for z in range(spec.species) if z != 1 or spec.species == 2])
        features = draw(nodes, one_of_each(spec.irreps_in).dim, spec.channels)
        weight = draw(spec.species, self.executor.weight_numel, spec.channels)
        return [features, weight], present[torch.arange(nodes) * 5 // 3 % len(present)]

    def plain(self, leaves: list[Tensor]) -> list[Tensor]:
        return leaves

    def run(self, module: Any, plain: list[Tensor], index: Tensor) -> Any:
        return module(*plain, SpeciesGroups(index))

    def expected(self, plain: list[Tensor], index: Tensor) -> Any:
        return self.run(self.twin, plain, index)

    def turned(self, leaves: list[Tensor], orthogonal: Tensor) -> list[Tensor]:
        return [turn(self.spec.irreps_in, orthogonal, leaves[0]), leaves[1]]

    def predicted(self) -> tuple[Tensor, Tensor]:
        """Results on new features, and those foretold by a fit of all equivariant polynomials to results on others."""
        spec, highest = self.spec, self.spec.irreps_out.lmax
        bases = [covariants(spec.irreps_in, nu, highest) for nu in range(1, spec.correlation + 1)]
        most = max(sum(len(basis[ir].contents) for basis in bases if ir in basis) for _, ir in spec.irreps_out)
        known, species = 2 * most + 20, torch.full((2 * most + 40,), spec.species - 1)
        (features, weight), _ = self.inputs(7, len(species))
        found, foretold = self.run(self.executor, [features, weight], species), []
        rows = [torch.from_numpy(monomials(features.shape[1], nu)) for nu in range(1, spec.correlation + 1)]
        for (_, ir), block in zip(self.slots, found.split([ir.dim for _, ir in self.slots], dim=1)):
            terms = [
                (torch.from_numpy(b[ir].coefficients), features[:, r].prod(2)) for b, r in zip(bases, rows) if ir in b
            ]
            table = torch.cat([torch.einsum("pkm,nmc->cnkp", *term) for term in terms], dim=3)
            table = table / table.norm(dim=(1, 2), keepdim=True)  # (channels, samples, components, polynomials)
            values = block.permute(2, 0, 1)
            fit = torch.linalg.lstsq(table[:, :known].flatten(1, 2), values[:, :known].flatten(1).unsqueeze(2)).solution
            foretold.append((table[:, known:] @ fit.unsqueeze(1)).squeeze(3).permute(1, 2, 0))
        return found[known:], torch.cat(foretold, dim=1)
