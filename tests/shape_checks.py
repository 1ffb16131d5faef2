"""Checks of the shapes and dtypes that annotations state, at every call of a function of equinet: for the test suite.

The hook of jaxtyping itself wraps every function, which ``torch.compile`` cannot read. This one wraps those whose annotations
name axes, and checks nothing while torch writes a graph down, where sizes are symbols.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from beartype import beartype
from jaxtyping import jaxtyped
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

ARRAYS = re.compile(r"\b(Float|Int|Bool)\d*\[")

_active = True


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
    careful: Callable[..., Any] | None = None

    @functools.wraps(thing)
    def function(*args: Any, **kwargs: Any) -> Any:
        nonlocal careful
        if torch.compiler.is_compiling() or not _active or is_in_torch_dispatch_mode():
            return thing(*args, **kwargs)
        if careful is None:  # at the first call, when all that annotations name is there
            thing.__annotations__ = _arrays_of(thing)
            careful = jaxtyped(thing, typechecker=beartype)
        return careful(*args, **kwargs)

    return function


def _arrays_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations that name arrays; all others are left to mypy, as some cannot be checked here (protocols)."""
    annotations = function.__annotations__.items()
    return {name: eval(text, function.__globals__) if ARRAYS.search(str(text)) else Any for name, text in annotations}


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
