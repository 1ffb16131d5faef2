"""Triton's interpreter without what it does again and again: half of its time goes into preparing its language anew at every call.

It replaces all functions of ``triton.language`` by interpreted ones when a kernel begins, and again whenever the kernel calls a
function such as ``tl.sum``, where all of them are replaced already.
"""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

import pytest


def prepare_once(patch: pytest.MonkeyPatch) -> None:
    """Leave out what has been done already, until ``patch`` is undone."""
    from triton import language as tl
    from triton.runtime import interpreter

    prepare, scope = interpreter._patch_lang, getattr(interpreter, "_LangPatchScope", lambda: None)

    def prepared(function: FunctionType) -> Any:
        modules = [each for each in function.__globals__.values() if inspect.ismodule(each) and each in (tl, tl.core)]
        members = [tl.core.tensor.__add__, *(each.load for each in modules)]
        done = modules and not any(tl.core.is_builtin(member) for member in members)
        return scope() if done else prepare(function)

    prepared.stock = getattr(prepare, "stock", prepare)  # type: ignore[attr-defined]
    patch.setattr(interpreter, "_patch_lang", prepared)
