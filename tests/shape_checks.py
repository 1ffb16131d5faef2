"""Checks of the shapes and dtypes that annotations state, at every call of a function of equinet: for the test suite.

The hook of jaxtyping itself wraps every function, which ``torch.compile`` cannot read. This one wraps those whose annotations
name axes, and checks nothing while torch writes a graph down, where sizes are symbols. A verdict is kept: of 100 calls 99 have
shapes and dtypes that an earlier one had.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.abc
import importlib.machinery
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

ARRAYS = re.compile(r"\b(Float|Int|Bool)\d*\[")

_active = True
_checks: dict[
    Callable[..., Any], _Check
] = {}  # not in the functions themselves, which torch.compile reads with all they hold


def install(package: str) -> None:
    """Check the functions of a package and of all modules in it that are imported from now on.

    Args:
        package: Name of a package that has not been imported.

    Raises:
        RuntimeError: If the package has been imported already, so that nothing of it would be checked.
    """
    if package in sys.modules:
        raise RuntimeError(f"`{package}` has been imported already; install its shape checks before")
    sys.meta_path.insert(0, _Finder(package))


@contextmanager
def unchecked() -> Iterator[None]:
    """Nothing is checked within it: for tests of what equinet itself refuses."""
    global _active
    before, _active = _active, False
    try:
        yield
    finally:
        _active = before


def checked(thing: Any) -> Any:
    """A function or dataclass that raises ``jaxtyping.TypeCheckError`` for an array of another shape or dtype than annotated."""
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing):
            thing.__init__ = checked(thing.__init__)
        return thing

    @functools.wraps(thing)
    def function(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or not _active or is_in_torch_dispatch_mode():
            return thing(*args, **kwargs)
        check = _checks.get(thing)
        if check is None:  # at the first call, when all that annotations name is there
            check = _checks[thing] = _Check(thing)
        return check.call(args, kwargs)

    return function


class _Check:
    """The check of one function. What passed once is not asked again for the same kinds of values.

    Whether an array fits depends on its class, dtype and shape alone, and whether a result fits on those of the arguments besides.
    So a verdict holds for all calls with the same ones. Not kept are those of annotations that say more: axes that are computed
    from values, and containers of any length, of which beartype looks at a random item.
    """

    def __init__(self, thing: Callable[..., Any]) -> None:
        self.thing = thing
        thing.__annotations__ = annotations = _arrays_of(thing)
        self.careful = jaxtyped(thing, typechecker=beartype)
        self.passed: set[Any] = set()  # kinds of arguments, and pairs of those and the kind of a result
        parameters = inspect.signature(thing).parameters
        named = [name for name in parameters if annotations.get(name, Any) is not Any]
        self.arguments = [(list(parameters).index(name), name, parameters[name].default) for name in named]
        self.returns = annotations.get("return", Any) is not Any
        variadic = {parameters[name].kind for name in named} & {
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        }
        self.keeps = not variadic and all(
            _is_told_by_kind(annotations[n]) for n in (*named, *["return"] * self.returns)
        )

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.keeps:
            return self.careful(*args, **kwargs)
        given = len(args)
        arguments = tuple(
            [_kind(args[i] if i < given else kwargs.get(name, default)) for i, name, default in self.arguments]
        )
        if arguments not in self.passed:
            result = self.careful(*args, **kwargs)
            self.passed.add(arguments)
        else:
            result = self.thing(*args, **kwargs)
            if self.returns and (arguments, _kind(result)) not in self.passed:
                jaxtyped(_returning(self.thing, result), typechecker=beartype)(*args, **kwargs)
        if self.returns:
            self.passed.add((arguments, _kind(result)))
        return result


def _kind(value: Any) -> Any:
    """All of a value that its annotation speaks of: class, dtype and shape of an array, the items of a tuple, else the class."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return type(value), value.dtype, tuple(value.shape)
    return (type(value), *map(_kind, value)) if isinstance(value, tuple) else type(value)


def _is_told_by_kind(annotation: Any) -> bool:
    """True for arrays whose axes have names and sizes, for classes, and for unions and tuples of a fixed length of them."""
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return "{" not in annotation.dim_str
    origin = typing.get_origin(annotation)
    if origin is None:
        return annotation is Any or isinstance(annotation, type)
    parts = typing.get_args(annotation)
    return origin in (tuple, typing.Union, types.UnionType) and ... not in parts and all(map(_is_told_by_kind, parts))


def _returning(thing: Callable[..., Any], result: Any) -> Callable[..., Any]:
    """A function with the signature and name of another that is called already."""

    @functools.wraps(thing)
    def function(*_: Any, **__: Any) -> Any:
        return result

    return function


def _arrays_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations that name arrays; all others are left to mypy, as some cannot be checked here (protocols)."""

    def evaluated(annotation: Any) -> Any:
        if not ARRAYS.search(str(annotation)):
            return Any
        return eval(annotation, function.__globals__) if isinstance(annotation, str) else annotation

    return {name: evaluated(annotation) for name, annotation in function.__annotations__.items()}


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if name.split(".")[0] != self.package:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> types.CodeType:
        """Code of the module with a decorator on what has arrays in its annotations; never from or into a file of bytecode."""
        tree = ast.parse(self.get_data(self.path), self.path)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and _named(node.args, node.returns):
                node.decorator_list.append(_decorator(node))
            elif isinstance(node, ast.ClassDef) and _named(*(n for n in node.body if isinstance(n, ast.AnnAssign))):
                node.decorator_list.insert(0, _decorator(node))
        return compile(tree, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__[checked.__name__] = checked
        super().exec_module(module)


def _named(*annotations: ast.AST | None) -> bool:
    return any(ARRAYS.search(ast.unparse(node)) for node in annotations if node is not None)


def _decorator(node: ast.FunctionDef | ast.ClassDef) -> ast.expr:
    return ast.copy_location(ast.Name(checked.__name__, ast.Load()), node)
