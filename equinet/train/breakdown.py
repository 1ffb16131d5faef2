"""Errors of a model by groups of frames, by elements, and the frames where they are largest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from equinet.datasets.frames import SOURCE, has_volume
from equinet.datasets.properties import PROPERTIES
from equinet.graph.elements import SYMBOLS
from equinet.quotes import quoted, shortened

from .metrics import Errors, Predictions, errors

if TYPE_CHECKING:
    from ase import Atoms

WITHOUT = "(without)"
FILE, ELEMENT = "file", "element"
OWN = (SOURCE, "weight")


@dataclass(frozen=True)
class Extreme:
    """The largest error of a property within one frame.

    Attributes:
        property: Name of the property.
        error: Absolute error, in the unit that the table of properties shows.
        label, prediction: Values there, in the same unit.
        frame: Number of the frame among all frames.
        where: File, number of the frame in it, and atom.
    """

    property: str
    error: float
    label: float
    prediction: float
    frame: int
    where: str


def by_key(predictions: Predictions, frames: Sequence[Atoms], files: Sequence[str], key: str) -> dict[str, Errors]:
    """Errors of the groups of frames that have the same value of a key, or of the atoms of each element.

    Args:
        predictions: Predictions for the frames, in their order.
        frames: Frames.
        files: File of each frame.
        key: "file", "element", or a key of the frames' ``info``, such as ``config_type``.

    Raises:
        ValueError: If no frame has the key; names those that there are.
    """
    if key == ELEMENT:
        numbers = np.concatenate([atoms.numbers for atoms in frames])
        found = {int(z): errors(_of_atoms(predictions, numbers == z)) for z in np.unique(numbers)}
        return {SYMBOLS[z]: replace(e, frames=sum(z in atoms.numbers for atoms in frames)) for z, e in found.items()}
    names = list(files) if key == FILE else [shortened(str(atoms.info.get(key, WITHOUT)), 40) for atoms in frames]
    if key != FILE and not any(key in atoms.info for atoms in frames):
        there = sorted({name for atoms in frames for name in atoms.info if name not in OWN})
        raise ValueError(
            f"no frame has {quoted(key)}; `by` can be {FILE}, {ELEMENT}, or what the frames have: {', '.join(there) or 'nothing'}"
        )
    sizes = [len(atoms) for atoms in frames]
    group = np.array(names)
    return {name: errors(_of_frames(predictions, sizes, group == name)) for name in dict.fromkeys(names)}


def usual_keys(frames: Sequence[Atoms], files: Sequence[str]) -> list[str]:
    """Keys by which frames are told apart unless others are asked for: file, config_type, element, where there are several."""
    types = {str(atoms.info.get("config_type", WITHOUT)) for atoms in frames}
    elements = {int(z) for atoms in frames for z in np.unique(atoms.numbers)}
    several = {FILE: len(set(files)), "config_type": len(types), ELEMENT: len(elements)}
    return [key for key, count in several.items() if count > 1]


def extremes(
    predictions: Predictions, frames: Sequence[Atoms], places: Sequence[str], most: int = 3
) -> tuple[Extreme, ...]:
    """The frames with the largest error of each property, the largest first.

    Args:
        predictions: Predictions for the frames, in their order.
        frames: Frames.
        places: File of each frame and its number there, for :attr:`Extreme.where`.
        most: Number of frames per property.
    """
    sizes = [len(atoms) for atoms in frames]
    found = []
    for name, (label, prediction) in predictions.pairs.items():
        row = PROPERTIES[name]
        difference = np.nan_to_num((prediction - label).abs().numpy(), nan=-1.0)
        frame_of = _frame_of_value(name, sizes, len(label))
        worst = np.full(len(frames), -1.0)
        np.maximum.at(worst, frame_of, difference)
        starts = np.searchsorted(frame_of, np.arange(len(frames)))
        for n in np.argsort(-worst, kind="stable")[:most]:
            if worst[n] < 0:
                continue
            value = int(np.flatnonzero((frame_of == n) & (difference == worst[n]))[0])
            where = places[n]
            if row.per == "atom":
                atom = (value - int(starts[n])) // math.prod(row.shape)
                where += f", atom {atom} ({SYMBOLS[frames[n].numbers[atom]]})"
            error, there, here = (row.factor * float(each) for each in (worst[n], label[value], prediction[value]))
            found.append(Extreme(name, error, there, here, int(n), where))
    return tuple(found)


def missing_labels(frames: Sequence[Atoms], names: Sequence[str]) -> dict[str, int]:
    """Number of frames without a label, by property; frames without a volume need no stress."""
    return {
        name: sum(
            name not in atoms.calc.results and (not PROPERTIES[name].needs_volume or has_volume(atoms))
            for atoms in frames
        )
        for name in names
    }


def _frame_of_value(name: str, sizes: Sequence[int], count: int) -> NDArray[np.int64]:
    """Frame of every value of a property; none for one that was not predicted."""
    row = PROPERTIES[name]
    width = math.prod(row.shape)
    counts = np.array(sizes) * width if row.per == "atom" else np.full(len(sizes), width)
    return np.repeat(np.arange(len(sizes)), counts) if count else np.zeros(0, dtype=np.int64)


def _of_frames(predictions: Predictions, sizes: Sequence[int], chosen: NDArray[np.bool_]) -> Predictions:
    return Predictions(
        {
            name: _chosen(pair, chosen[_frame_of_value(name, sizes, len(pair[0]))])
            for name, pair in predictions.pairs.items()
        }
    )


def _of_atoms(predictions: Predictions, chosen: NDArray[np.bool_]) -> Predictions:
    """Properties of some atoms; nothing of properties of structures."""
    parts = {}
    for name, pair in predictions.pairs.items():
        row = PROPERTIES[name]
        of_atoms = row.per == "atom" and len(pair[0])
        parts[name] = _chosen(pair, np.repeat(chosen, math.prod(row.shape))) if of_atoms else (pair[0][:0], pair[1][:0])
    return Predictions(parts)


def _chosen(pair: tuple[torch.Tensor, torch.Tensor], chosen: NDArray[np.bool_]) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.from_numpy(chosen)
    return pair[0][mask], pair[1][mask]
