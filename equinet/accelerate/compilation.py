r"""Energies, and for training forces too, as graphs that ``torch.compile`` makes code of.

A graph is written down once (``make_fx``), for any number of atoms, pairs and structures, and then compiled. So no Python of this
package runs in a step, and what a compiler does not know how to read (irreps, caches, :mod:`equinet.ops.kernels.linear.maps`) it never sees.

Forces are a derivative. For inference the graph holds the energies, and what is compiled is differentiated as anything is. Training
differentiates twice, which compiled code cannot do, so there the first derivative is written into the graph. Torch puts a ``detach``
there wherever a derivative uses a result that was saved (of tanh, exp, sqrt, norm, ...). It means nothing at once, but in a graph
that is differentiated again it cuts off a part of the gradients, in silence. :func:`erase_detach` takes them out, and
:class:`CompiledTraining` compares its gradients with those of the potential itself before it gives any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental import _config
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from equinet.graph.atomic_graph import AtomicGraph
from equinet.nn.prediction import NodeValues, Prediction
from equinet.ops import SpeciesGroups
from equinet.ops.edges import Edges, Incoming
from equinet.potential import Potential, only_energies

# Sizes to write a graph down with. They may be any that are neither 0 nor 1, which torch takes for what they will always be.
NODES, ROWS, GRAPHS = 5, 7, 3

RESULTS = ("energy", "node_energy", "forces", "stress")

# What gradients of a compiled step may differ from those of the potential itself, relative to their size.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


def sizes_by_themselves() -> AbstractContextManager[None]:
    """Within it, torch does not take two sizes for one because they happen to be equal."""
    return _config.patch(use_duck_shape=False)  # type: ignore[attr-defined]  # made by `install_config_module`


class Batch(NamedTuple):
    """All that a graph of operations reads of structures, as plain tensors.

    Attributes:
        vectors: ``(rows, 3)``, Å, in the precision of the model.
        species, order, spans: See :class:`equinet.ops.SpeciesGroups`.
        edge_index: ``(2, rows)``, sender and receiver.
        pointers, senders, codes: See :class:`equinet.ops.edges.Incoming`.
        graph_of_node, cell, pbc: See :class:`equinet.graph.AtomicGraph`.
    """

    vectors: Tensor
    species: Tensor
    order: Tensor
    spans: Tensor
    edge_index: Tensor
    pointers: Tensor
    senders: Tensor
    codes: Tensor
    graph_of_node: Tensor
    cell: Tensor
    pbc: Tensor

    @classmethod
    def of(cls, vectors: Tensor, groups: SpeciesGroups, edges: Edges, graph: AtomicGraph) -> Batch:
        nodes = groups.species, groups.order, groups.nodes.spans
        return cls(vectors, *nodes, edges.index, *edges.incoming, graph.graph_of_node, graph.cell, graph.pbc)

    @classmethod
    def example(cls, potential: Potential) -> Batch:
        """Structures of made-up size."""
        device, edges = potential.device, ROWS if potential.model.directed else 2 * ROWS

        def whole(*sizes: int) -> Tensor:
            return torch.zeros(sizes, dtype=torch.int64, device=device)

        return cls(
            vectors=torch.ones(ROWS, 3, dtype=potential.dtype, device=device),
            species=whole(NODES),
            order=whole(NODES),
            spans=torch.zeros(1 + 3 * len(potential.elements), dtype=torch.int64),
            edge_index=whole(2, ROWS),
            pointers=whole(NODES + 1),
            senders=whole(edges),
            codes=whole(edges),
            graph_of_node=whole(NODES),
            cell=torch.ones(GRAPHS, 3, 3, dtype=torch.float64, device=device),
            pbc=torch.ones(GRAPHS, 3, dtype=torch.bool, device=device),
        )

    @property
    def graph_count(self) -> int:
        """Number of structures."""
        return self.cell.shape[0]

    def groups(self) -> SpeciesGroups:
        """The nodes by species, of sizes that are not known."""
        return SpeciesGroups.to_trace(self.species, self.order, self.spans)

    def edges(self, *, mirrored: bool) -> Edges:
        """The edges."""
        incoming = Incoming(self.pointers, self.senders, self.codes)
        return Edges.ready(self.edge_index, incoming, self.species.shape[0], mirrored=mirrored)


class CompiledPotential:
    """A potential whose energy is compiled, to be called like the potential, for inference.

    The first call compiles, which takes up to a minute. Later calls with other numbers of atoms, pairs or structures do not, but
    one of a size of 0 or 1 where before there were more, or the other way round, does once. Weights that change in place count.

    Args:
        potential: Potential in eval mode, on any device.
        backend: Backend of ``torch.compile``.

    Raises:
        ValueError: If the potential is in training mode.
        RuntimeError: If it has a product that must know how many nodes each species has.
    """

    def __init__(self, potential: Potential, *, backend: str = "inductor") -> None:
        if potential.training:
            raise ValueError("the potential is in training mode; call `.eval()`, or take `CompiledTraining`")
        _refuse_properties(potential)
        self.potential = potential
        graph = write_down(potential, lambda batch: [_energies(potential, batch)])
        self._energies = torch.compile(graph, backend=backend, fullgraph=True, dynamic=True)

    def __call__(self, graph: AtomicGraph, *, stress: bool = False, groups: SpeciesGroups | None = None) -> Prediction:
        """As :meth:`equinet.potential.Potential.forward`."""
        potential = self.potential
        groups = potential.groups(graph.atomic_numbers) if groups is None else groups
        edges, vectors = potential.geometry(graph)
        batch = Batch.of(vectors, groups, edges, graph)
        with sizes_by_themselves():
            return potential.derive(
                lambda vectors: NodeValues(self._energies(*batch._replace(vectors=vectors))[0], {}),
                vectors,
                edges,
                graph,
                stress=stress,
            )


class CompiledTraining:
    """Energies, forces and stress as one compiled graph that can be differentiated in the weights: for :func:`equinet.train.fit`.

    Compiled at the first call, with and without stress each, and compared with the potential itself on that batch. What
    :class:`CompiledPotential` says of sizes holds here too.

    Args:
        potential: Potential to train; its weights are used as they are at each call.
        backend: Backend of ``torch.compile``.
        erase: True to take ``detach`` out of the graph. False, for showing what happens then, is refused at the first call
            of a model that has any.

    Raises:
        RuntimeError: If the potential has a product that must know how many nodes each species has; from a call, if gradients
            are not those of the potential.
    """

    def __init__(self, potential: Potential, *, backend: str = "inductor", erase: bool = True) -> None:
        _refuse_properties(potential)
        self.potential, self._backend, self._erase = potential, backend, erase
        self._compiled: dict[bool, Callable[..., list[Tensor]]] = {}

    def __call__(self, graph: AtomicGraph, *, stress: bool = False) -> Prediction:
        """As :meth:`equinet.potential.Potential.forward` in training mode; differentiable in the weights, once."""
        if stress not in self._compiled:
            self._compiled[stress] = self._compile(stress)
            self._refuse_wrong_gradients(graph, stress)
        potential = self.potential
        groups = potential.groups(graph.atomic_numbers)
        edges, vectors = potential.geometry(graph)
        with sizes_by_themselves():
            found = self._compiled[stress](*Batch.of(vectors, groups, edges, graph))
        return Prediction(**dict(zip(RESULTS, found)))  # type: ignore[arg-type]  # no further properties among them

    def _compile(self, stress: bool) -> Callable[..., list[Tensor]]:
        potential = self.potential

        def derive(batch: Batch) -> list[Tensor]:
            edges = batch.edges(mirrored=not potential.model.directed)
            found = potential.derive(
                lambda vectors: NodeValues(_energies(potential, batch._replace(vectors=vectors)), {}),
                batch.vectors,
                edges,
                batch,
                stress=stress,
            )
            return [found[name] for name in RESULTS if name in found]

        before = potential.training
        try:
            graph = write_down(potential.train(), derive, erase=self._erase)
        finally:
            potential.train(before)
        return torch.compile(graph, backend=self._backend, fullgraph=True, dynamic=True)

    def _refuse_wrong_gradients(self, graph: AtomicGraph, stress: bool) -> None:
        named = {name: weight for name, weight in self.potential.named_parameters() if weight.requires_grad}
        before = self.potential.training
        ours = _gradients(self(graph, stress=stress), list(named.values()))
        exact = _gradients(self.potential.train()(graph, stress=stress), list(named.values()))
        self.potential.train(before)
        whole = torch.stack([gradient.norm() for gradient in exact]).norm()
        errors = [float((a - b).norm() / (b.norm() + 1e-3 * whole)) for a, b in zip(ours, exact)]
        worst, name = max(zip(errors, named))
        if not worst <= TOLERANCE[self.potential.dtype]:
            del self._compiled[stress]
            raise RuntimeError(
                f"the compiled step gives wrong gradients: those of `{name}` differ by {worst:.1e} of their size from those of the "
                "potential itself. Train without compiling, and please report this with the model's configuration"
            )


def _refuse_properties(potential: Potential) -> None:
    if reason := only_energies(potential):
        raise ValueError(f"this potential cannot be compiled: {reason}")


def _energies(potential: Potential, batch: Batch) -> Float[Tensor, " nodes"]:
    edges = batch.edges(mirrored=not potential.model.directed)
    return potential.node_energies(batch.vectors, batch.groups(), edges)


def _gradients(output: Prediction, weights: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of a number in which all of the output has a say."""
    draw = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64, device=weights[0].device)
    for value in map(output.__getitem__, output):
        factor = torch.randn(value.shape, generator=draw, dtype=torch.float64).to(value.device)
        total = total + (factor * torch.where(value.isnan(), 0.0, value)).sum()
    return torch.autograd.grad(total, weights, materialize_grads=True)


def write_down(
    potential: Potential, function: Callable[[Batch], Sequence[Tensor]], *, erase: bool = True
) -> GraphModule:
    """The operations of a function of structures, for structures of any size.

    Args:
        potential: Whose weights and constants become those of the graph, in the same memory. In training mode they are the
            parameters themselves, else they need no gradients.
        function: Function of a :class:`Batch`.
        erase: True to take ``detach`` out; False is for showing what happens then.

    Returns:
        A module to call with the tensors of a :class:`Batch`; returns a list.

    Raises:
        RuntimeError: If part of the potential works for one number of nodes or pairs alone.
    """
    named = {**dict(potential.named_parameters()), **dict(potential.named_buffers())}
    with sizes_by_themselves():
        mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=False)
    # Weights that need gradients, so that nothing is kept of them, and of fixed size, unlike structures.
    weights = [_with_gradient(mode.from_tensor(tensor.detach(), static_shapes=True)) for tensor in named.values()]
    batch = [_of_any_size(mode, name, tensor) for name, tensor in Batch.example(potential)._asdict().items()]

    def called(weights: Sequence[Tensor], batch: Sequence[Tensor]) -> Any:
        with nn.utils.stateless._reparametrize_module(potential, dict(zip(named, weights))):
            return function(Batch(*batch))

    with mode:
        graph = make_fx(called)(weights, batch)
    if fixed := [name for name, tensor in zip(Batch._fields, batch) if not _any_size(tensor, name)]:
        raise RuntimeError(
            f"part of this potential is written for one size of {', '.join(fixed)} by torch {torch.__version__}; it cannot be "
            "compiled. Exact couplings (cg) can"
        )
    _bind(graph, list(named.values()) if potential.training else [tensor.detach() for tensor in named.values()])
    return erase_detach(graph) if erase else graph


def erase_detach(graph: GraphModule) -> GraphModule:
    """Take every ``aten.detach`` out of a graph that is to be differentiated; see the module."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.detach.default):
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _with_gradient(tensor: Tensor) -> Tensor:
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


def _of_any_size(mode: FakeTensorMode, name: str, tensor: Tensor) -> Tensor:
    """A tensor without numbers whose rows may be any number; of ``edge_index`` the columns."""
    free = 1 if name == "edge_index" else 0
    sizes = [DimDynamic.DYNAMIC if dim == free else DimDynamic.STATIC for dim in range(tensor.dim())]
    return mode.from_tensor(tensor, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))


def _any_size(tensor: Tensor, name: str) -> bool:
    """True if the traced graph leaves the number of rows open."""
    size = tensor.shape[1 if name == "edge_index" else 0]
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def _bind(graph: GraphModule, values: list[Tensor]) -> None:
    """Make the first inputs of a graph tensors of its own: parameters stay parameters, all else is constant."""
    for n, (node, value) in enumerate(zip(graph.graph.find_nodes(op="placeholder"), values)):
        if isinstance(value, nn.Parameter):
            graph.register_parameter(f"weight_{n}", value)
        else:
            graph.register_buffer(f"weight_{n}", value, persistent=False)
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(graph.graph.get_attr(f"weight_{n}"))
        graph.graph.erase_node(node)
    graph.graph._codegen = torch.fx.graph.CodeGen()
    graph.recompile()
