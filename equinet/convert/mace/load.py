"""A MACE model as a potential."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any, BinaryIO

import torch
from torch import nn

from equinet.models import MACE
from equinet.nn import EnergyScale
from equinet.potential import Potential
from equinet.quotes import shortened

from .architecture import Architecture, architecture_of
from .calculator import head_within, model_within
from .origin import origin_of, warning_of
from .reader import LONGEST_COMPLAINT, read_record
from .records import Record, refusing_what_is_damaged
from .weights import weights_of


def load_mace(
    source: str | os.PathLike[str] | BinaryIO | nn.Module | Any,
    *,
    head: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> Potential:
    """A model of mace-torch as a potential: the same energies, forces and stress, on equinet's kernels.

    Neither mace-torch nor its version of e3nn is needed, and nothing in a file is ever run: a ``.model`` file is a pickle, which
    could do anything to whoever loads it the usual way.

    Args:
        source: A ``*.model`` file as ``mace_run_train`` writes it or as it is published, a live module of mace-torch, or its
            ``MACECalculator`` with one model.
        head: Name of the head, for a model that has several; by default that of a calculator.
        device: Device to put it on.
        dtype: ``torch.float32`` or ``torch.float64``; by default as in the file.

    Returns:
        A potential, ready for inference (``eval`` mode). :func:`equinet.save` keeps it; training goes on from that file
        with ``train.start_from``. ``potential.origin`` says which file it came from and, of a published one, its licence.

    Warns:
        UserWarning: If the file is a published one that may not be used commercially, or is named like one.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If ``source`` is nothing that holds a model.
        ValueError: If it is no MACE model, a calculator of several, is damaged, or has something that equinet has no form for (named); or ``head`` is
            not one of its heads, or not given although there are several.

    Source:
        Batatia et al. 2022, arXiv 2206.07697; Batatia et al. 2024 (MACE-MP-0), arXiv 2401.00096.

    >>> potential = load_mace("2023-12-03-mace-128-L1_epoch-199.model")  # doctest: +SKIP
    """
    mace = read_mace(source)
    try:
        architecture = architecture_of(mace)
        taken = choose_head(architecture, head_within(source, head))
        potential = potential_of(mace, architecture, taken, device=device, dtype=dtype)
    except ValueError as error:
        file = f"{source}: " if isinstance(source, (str, os.PathLike)) else ""
        raise ValueError(file + shortened(str(error), LONGEST_COMPLAINT)) from error
    if isinstance(source, (str, os.PathLike)):
        potential.origin = origin_of(source, head)
        if warning := warning_of(potential.origin):
            warnings.warn(warning, stacklevel=2)
    return potential


def read_mace(source: str | os.PathLike[str] | BinaryIO | nn.Module | Any) -> Record:
    """Read a model file, a live module or a calculator of mace-torch as plain data.

    Raises:
        FileNotFoundError, TypeError, ValueError: As :func:`load_mace`.
    """
    source = model_within(source)
    if not isinstance(source, nn.Module):
        return read_record(source)
    # Through the same file format: one way to read, and the module stays as it is.
    file = io.BytesIO()
    try:
        torch.save(source, file)
    except Exception as error:  # a module holds what it likes, and pickling it raises what it likes
        raise ValueError(
            f"this {type(source).__name__} cannot be written to a file, and so not be converted: {type(error).__name__}: {error}"
        ) from error
    return read_record(file.getvalue())


def choose_head(architecture: Architecture, head: str | None) -> str:
    """The head of that name, or the only one.

    Raises:
        ValueError: If there is none of that name, or several and none is named.
    """
    names = ", ".join(map(repr, architecture.heads))
    if head is None:
        if len(architecture.heads) > 1:
            raise ValueError(
                f"this model has {len(architecture.heads)} heads, which give different energies: choose one of {names}"
            )
        return architecture.heads[0]
    if head not in architecture.heads:
        raise ValueError(f"this model has no head {head!r}, but {names}")
    return head


@refusing_what_is_damaged()
def potential_of(
    mace: Record,
    architecture: Architecture,
    head: str,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> Potential:
    """One head of a model that has been read; see :func:`load_mace`.

    Raises:
        ValueError: If the weights do not fit the architecture.
    """
    zeros = [0.0] * len(architecture.elements)
    with torch.random.fork_rng(devices=[]):  # weights are drawn and then replaced; the caller's stream stays as it was
        model = MACE(architecture.config, architecture.elements, architecture.avg_num_neighbors)
    potential = Potential(model, EnergyScale(zeros, zeros, zeros, exact_isolated_atoms=False)).double()
    potential.load_state_dict(weights_of(mace, architecture, head, model))
    return potential.to(device=device, dtype=dtype or architecture.dtype).eval()
