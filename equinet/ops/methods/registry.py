"""All tensor products by name: what a configuration file says becomes an object, and an object becomes what it would say.

Products of other people have names too. A package registers a class when it is imported, by :func:`register_method`, or names it in its
metadata, in the group of entry points ``equinet.tensor_products``, and need not be imported then::

    [project.entry-points."equinet.tensor_products"]
    rescaled = "their_package.products:Rescaled"
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, cast

from equinet.ops.protocols import Method
from equinet.quotes import quoted, shortened

from . import plugins
from .bracket import Bracket
from .clebsch_gordan import ClebschGordan
from .cp import CPDecomposed
from .gaunt import GauntFourier, GauntGrid
from .matrix import MatrixProduct
from .so2 import SO2

# Every registered class; those of entry points come in when their name is first asked for.
METHODS: dict[str, type] = {
    "cg": ClebschGordan,
    "gaunt_grid": GauntGrid,
    "gaunt_fourier": GauntFourier,
    "bracket": Bracket,
    "matrix": MatrixProduct,
    "cp": CPDecomposed,
    "so2": SO2,
}
BUILT_IN = frozenset(METHODS)


def register_method(name: str, kind: type) -> None:
    """Give a class of tensor products the name by which configurations, model files, ``explain``, doctor and benches find it.

    Args:
        name: A name that is not taken.
        kind: A frozen dataclass with the methods of :class:`equinet.ops.protocols.Method`; its fields are its arguments.

    Raises:
        ValueError: If the name is taken by another class, or ``kind`` is no such class; names what is missing.
    """
    if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"`name` must be letters, digits, - and _, as in my_product, got {name!r}")
    if METHODS.get(name, kind) is not kind:
        raise ValueError(
            f"the name {name!r} is taken by {_full_name(METHODS[name])}; register {_full_name(kind)} by another"
        )
    if reason := _why_no_method(kind):
        raise ValueError(f"`kind` must be a frozen dataclass with the methods of equinet.ops.Method, but {reason}")
    if (other := _name_of(kind, search=False)) not in (None, name):
        raise ValueError(f"{_full_name(kind)} is registered as {other!r} already, and a class has one name")
    METHODS[name] = kind


def method_class(name: str) -> type:
    """The class of tensor products with a name; the first time, an entry point of another package is loaded.

    Raises:
        ValueError: If there is no such name, with the nearest one, or its entry point cannot be loaded, with the reason.
    """
    if name not in METHODS:
        if name not in plugins.names():
            known = method_names()
            near = difflib.get_close_matches(name.lower(), known, n=1)
            choose = f"did you mean {near[0]!r}? Choose one of" if near else "choose one of"
            raise ValueError(f"there is no tensor product called {quoted(name)}; {choose}: {', '.join(known)}")
        plugins.load(name, register_method)
    return METHODS[name]


def method_names() -> list[str]:
    """Names of all tensor products: the registered ones, and those of entry points, which are not loaded for it."""
    return list(dict.fromkeys([*METHODS, *plugins.names()]))


def load_plugins() -> dict[str, str]:
    """Load the tensor products of all entry points; for each that cannot be loaded its name and the reason, with the distribution."""
    failed = {}
    for name in plugins.names():
        try:
            plugins.load(name, register_method)
        except ValueError as error:
            failed[name] = str(error)
    return failed


def method_from_config(value: str | Mapping[str, Any] | Method) -> Method:
    """The method that a configuration names.

    Args:
        value: A name, ``"cg"``; a table with a name and arguments, ``{"method": "cp", "rank": 24}``; or a method itself.

    Raises:
        ValueError: If there is no such method or argument, or an argument is missing or not allowed.

    >>> method_from_config({"method": "gaunt_grid", "copies": 2})
    GauntGrid(copies=2, weights='filter', backend='auto', bracket=False, transform='auto')
    """
    if isinstance(value, str):
        value = {"method": value}
    if not isinstance(value, Mapping) and _name_of(type(value)) is not None:
        return value
    if not isinstance(value, Mapping) or not isinstance(value.get("method"), str):
        raise ValueError(
            f'a tensor product is a name or a table such as {{ method = "cp", rank = 24 }}, got {quoted(value)}; the names are '
            f"{', '.join(method_names())}. A class of your own needs one too: equinet.ops.register_method(name, class)"
        )
    name, arguments = value["method"], {key: item for key, item in value.items() if key != "method"}
    kind = method_class(name)
    known = {field.name: field for field in _arguments(kind)}
    for key in arguments:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            hint = f"did you mean `{near[0]}`?" if near else "it has none"
            raise ValueError(f"the tensor product {name!r} has no argument `{shortened(str(key))}`; {hint}")
    missing = [key for key in needed_arguments(kind) if key not in arguments]
    if missing:
        raise ValueError(
            f'the tensor product {name!r} needs `{missing[0]}`, as in {{ method = "{name}", {missing[0]} = 24 }}'
        )
    return cast(Method, kind(**arguments))


def method_to_config(method: Method) -> str | dict[str, Any]:
    """Configuration of ``method``: its name, or a table where arguments differ from the defaults.

    The backend, on which no result depends, is not part of it, nor any other field with ``metadata={"saved": False}``.

    Raises:
        ValueError: If the class of ``method`` is not registered.
    """
    name = _name_of(type(method))
    if name is None:
        raise ValueError(
            f"{_full_name(type(method))} has no name by which a file could say it; give it one: "
            "equinet.ops.register_method(name, class)"
        )
    saved = [field for field in _arguments(type(method)) if field.metadata.get("saved", True)]
    given = {f.name: getattr(method, f.name) for f in saved if getattr(method, f.name) != _default(f)}
    return {"method": name, **given} if given else name


def methods_of_others() -> dict[str, type]:
    """Every product of other people by name; entry points that cannot be loaded are left out, and :func:`load_plugins` names them."""
    load_plugins()
    return {name: kind for name, kind in METHODS.items() if name not in BUILT_IN}


def needed_arguments(kind: type) -> list[str]:
    """Names of the arguments of a class of tensor products that have no default."""
    return [field.name for field in _arguments(kind) if _default(field) is MISSING]


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _arguments(kind: type) -> list[Field[Any]]:
    """Fields that are arguments of the constructor."""
    return [field for field in fields(kind) if field.init]


def _name_of(kind: type, *, search: bool = True) -> str | None:
    """Name of a class; if no registered one is it, those of entry points are loaded, unless ``search`` is False."""
    for name, other in METHODS.items():
        if other is kind:
            return name
    if not search:
        return None
    load_plugins()
    return _name_of(kind, search=False)


def _why_no_method(kind: object) -> str | None:
    """Reason why an object is no class of tensor products; None if it is one."""
    if not isinstance(kind, type):
        return f"{kind!r} is not a class"
    if not is_dataclass(kind):
        return f"{_full_name(kind)} is not a dataclass: write @dataclass(frozen=True) above it"
    if not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return f"{_full_name(kind)} is not frozen: write @dataclass(frozen=True) above it"
    wanted = [name for name in vars(Method) if not name.startswith("_")]
    missing = [name for name in wanted if not callable(getattr(kind, name, None))]
    return f"{_full_name(kind)} lacks {', '.join(f'`{name}`' for name in missing)}" if missing else None


def _full_name(kind: object) -> str:
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else repr(kind)
