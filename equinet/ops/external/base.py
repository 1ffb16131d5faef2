"""Base of executors by other libraries, and messages about missing libraries."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from equinet.lazy import how_to_install
from equinet.ops.edges import Edges, as_edges, sum_on_nodes
from equinet.ops.kernels.edge.reference import paths_apart
from equinet.ops.spec import TensorProductSpec


def missing(module: str, extra: str) -> str | None:
    """Reason why ``module`` is missing and its remedy, or None; the module is looked for, not imported."""
    return None if find_spec(module) else f"{module} is not installed: {how_to_install(extra)}"


def load(module: str, extra: str) -> Any:
    """The module.

    Raises:
        ValueError: If it is not there or cannot be imported; with the reason.
    """
    if reason := missing(module, extra):
        raise ValueError(reason)
    try:
        return import_module(module)
    except Exception as error:  # a broken library may raise anything, and the reason is what the user needs
        raise ValueError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error


def require_device(tensor: Tensor, library: str, devices: tuple[str, ...]) -> None:
    """Refuse a tensor that ``library`` has no form for.

    Raises:
        ValueError: If the tensor is on none of ``devices``; says what runs there.
    """
    if tensor.device.type not in devices:
        raise ValueError(
            f"{library} runs on {' and '.join(devices)}, but the features are on {tensor.device}; "
            'there take ClebschGordan(), whose backend "auto" runs anywhere'
        )


def kernel_of(library: str, devices: tuple[str, ...]) -> str:
    """Library that computes and the devices that it runs on, in one line: ``cuequivariance (on cuda or cpu)``."""
    return f"{library} (on {' or '.join(devices)})"


class LibraryConvolution(nn.Module, ABC):
    """A convolution path by path (:class:`~equinet.ops.protocols.Convolution`) whose sum over edges is another library's.

    Attributes:
        package: Its name in messages.
        devices: Types of the devices it runs on.
    """

    package: ClassVar[str]
    devices: ClassVar[tuple[str, ...]]

    def __init__(self, spec: TensorProductSpec) -> None:
        super().__init__()
        self.spec = spec
        self.copies = spec.paths_per_output
        self.weight_numel = len(spec.paths)

    def forward(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows paths channels"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> Float[Tensor, "nodes out channels"]:
        require_device(node_feats, self.package, self.devices)
        edges = as_edges(edges, node_feats.shape[0])
        if len(edge_attrs) == 0:  # what the kernels of others make of nothing is not known; zeros with derivatives are
            nothing = node_feats[edges.index[0], :1] * weight[:, :1] * edge_attrs[:, :1, None]
            return sum_on_nodes(nothing.expand(-1, self.spec.rows, -1), edges.index[1], edges.num_nodes)
        return self.convolve(node_feats, edge_attrs, weight, edges)

    @abstractmethod
    def convolve(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows paths channels"],
        edges: Edges,
    ) -> Float[Tensor, "nodes out channels"]:
        """The result for one edge or more, on whatever device the tensors are."""

    def path_weights(self, weight: Tensor) -> Tensor:
        return paths_apart(weight)

    @property
    def kernel(self) -> str:
        """Library that computes, on any device that it runs on."""
        return kernel_of(self.package, self.devices)

    def extra_repr(self) -> str:
        return f"{self.spec}; {self.kernel}"
