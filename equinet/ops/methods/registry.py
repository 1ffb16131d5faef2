"""All tensor products by name: what a configuration file says becomes an object, and an object becomes what it would say."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, cast

from torch import Tensor, nn

from equinet.ops.edges import Edges
from equinet.ops.protocols import Method
from equinet.ops.spec import TensorProductSpec

from .clebsch_gordan import ClebschGordan
from .cp import CPDecomposed
from .gaunt import Bracket, GauntFourier, GauntGrid
from .matrix import MatrixProduct
from .so2 import SO2

METHODS: dict[str, type] = {
    "cg": ClebschGordan,
    "gaunt_grid": GauntGrid,
    "gaunt_fourier": GauntFourier,
    "bracket": Bracket,
    "matrix": MatrixProduct,
    "cp": CPDecomposed,
    "so2": SO2,
}


def method_from_config(value: str | Mapping[str, Any] | Method) -> Method:
    """The method that a configuration names.

    Args:
        value: A name, ``"cg"``; a table with a name and arguments, ``{"method": "cp", "rank": 24}``; or a method itself.

    Raises:
        ValueError: If there is no such method or argument, or an argument is missing or not allowed.

    >>> method_from_config({"method": "gaunt_grid", "copies": 2})
    GauntGrid(copies=2, weights='filter', backend='auto', bracket=False, transform='auto')
    """
    if isinstance(value, tuple(METHODS.values())):
        return cast(Method, value)
    if isinstance(value, str):
        value = {"method": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("method"), str):
        raise ValueError(
            f'a tensor product is a name or a table such as {{ method = "cp", rank = 24 }}, got {value!r}; the names are '
            f"{', '.join(METHODS)}. A class of your own needs one too: equinet.ops.METHODS[name] = class"
        )
    name, arguments = value["method"], {key: item for key, item in value.items() if key != "method"}
    if name not in METHODS:
        raise ValueError(f"there is no tensor product called {name!r}; choose one of: {', '.join(METHODS)}")
    known = {field.name: field for field in fields(METHODS[name])}
    for key in arguments:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"the tensor product {name!r} has no argument `{key}`; did you mean `{near}`?")
    missing = [key for key, field in known.items() if field.default is MISSING and key not in arguments]
    if missing:
        raise ValueError(
            f'the tensor product {name!r} needs `{missing[0]}`, as in {{ method = "{name}", {missing[0]} = 24 }}'
        )
    return METHODS[name](**arguments)


def method_to_config(method: Method) -> str | dict[str, Any]:
    """What a configuration has to say to get ``method``: its name, or a table where arguments are not the default ones.

    The backend, on which no result depends, is not part of it.
    """
    name = next(name for name, kind in METHODS.items() if type(method) is kind)
    saved = [field for field in fields(method) if field.metadata.get("saved", True)]  # type: ignore[arg-type]
    given = {f.name: getattr(method, f.name) for f in saved if getattr(method, f.name) != f.default}
    return {"method": name, **given} if given else name


def reference_of(method: Method) -> Method | None:
    """The method whose executors are the reference forms of those of ``method``; None if they may be another function."""
    if "backend" not in {field.name for field in fields(cast(Any, method))} or getattr(method, "approximates", False):
        return None
    return cast(Method, replace(cast(Any, method), backend="reference"))


class TensorProduct(nn.Module):
    """A product of two inputs, pair by pair, without a graph; made by :func:`tensor_product`."""

    def __init__(self, spec: TensorProductSpec, method: Method) -> None:
        super().__init__()
        if reason := method.supports(spec):
            raise ValueError(f"{method} cannot do {spec}: {reason}")
        self.spec = spec
        self.executor = method.convolution(spec)
        self.copies = self.executor.copies
        self.weight_numel = self.executor.weight_numel

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """``(batch, dim, channels)``, ``(batch, dim2)``, ``(batch, weight_numel, channels)`` -> ``(batch, rows, channels)``."""
        return self.executor(x, y, weight, Edges.to_itself(x.shape[0], x.device))


def tensor_product(spec: TensorProductSpec, method: Method | None = None) -> TensorProduct:
    """The channel-wise product of ``spec`` by any method, by default exact couplings.

    Raises:
        ValueError: If ``method`` cannot do ``spec``; says why.

    >>> import torch
    >>> spec = TensorProductSpec("8x0e+8x1o", "0e+1o", "0e+1o")
    >>> product = tensor_product(spec, GauntGrid())
    >>> product(torch.randn(5, 4, 8), torch.randn(5, 4), torch.randn(5, product.weight_numel, 8)).shape
    torch.Size([5, 4, 8])
    """
    return TensorProduct(spec, method or ClebschGordan())
