"""The model inside a calculator of mace-torch, and what else may be taken for a model."""

from __future__ import annotations

import os
from typing import Any

from torch import nn


def model_within(source: Any) -> Any:
    """A model file or module as it is; of a calculator of mace-torch its module.

    Raises:
        TypeError: If it is neither; says what to pass.
        ValueError: If the calculator has several models, or energies or lengths in other units than eV and Å.
    """
    if isinstance(source, (str, bytes, bytearray, os.PathLike, nn.Module)) or hasattr(source, "seek"):
        return source
    models = source if isinstance(source, (list, tuple)) else getattr(source, "models", None)
    name = type(source).__name__
    if not isinstance(models, (list, tuple)) or not models or not all(isinstance(each, nn.Module) for each in models):
        raise TypeError(
            "`source` must be a model file of mace-torch (*.model), an open one, a module of mace-torch, or its MACECalculator, "
            f"got {name}"
        )
    if len(models) > 1:
        raise ValueError(
            f"this {name} holds {len(models)} models, and a potential is one; pass them one by one, `load_mace(it.models[0])`"
            if models is not source
            else f"this {name} holds {len(models)} models, and a potential is one; pass them one by one"
        )
    for unit, usual in (("energy_units_to_eV", "eV"), ("length_units_to_A", "Å")):
        if (factor := getattr(source, unit, 1.0)) != 1.0:
            raise ValueError(
                f"this {name} has `{unit}` = {factor}, and energies of a potential are those of the model itself, in eV and Å; if its "
                f"numbers are in {usual}, make the calculator without `{unit}`"
            )
    return models[0]


def head_within(source: Any, head: str | None) -> str | None:
    """The head that is asked for; if none is, that of a calculator."""
    chosen = None if isinstance(source, nn.Module) else getattr(source, "head", None)
    return chosen if head is None and isinstance(chosen, str) else head
