"""One pass over all frames of a store: checks, counts and a digest in about 60 bytes a frame, and which frames to measure."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from equinet.datasets.digest import content_of
from equinet.datasets.frames import source, weight_of
from equinet.datasets.isolated import is_isolated_atom
from equinet.datasets.loader import edges_within
from equinet.datasets.properties import PROPERTIES
from equinet.datasets.workers import in_workers

# Frames of which statistics are measured, spread evenly. The mean of an energy per atom is then known to a hundredth of its spread.
MEASURED = 10_000
# Of each element so many frames are measured in any case, of those that hold it.
OF_EACH_ELEMENT = 100
# Frames with the largest forces, among which those out of all proportion are.
EXTREMES = 20
PART = 500  # frames that a worker looks through at a time
SECONDS_BETWEEN_NEWS = 20.0

log = logging.getLogger("equinet")


@dataclass(frozen=True)
class Survey:
    """Numbers of every frame.

    Attributes:
        atoms: Atoms, ``(frames,)``.
        isolated: True for an isolated atom, ``(frames,)``.
        labels: True where there is a label of a weight above 0, ``(frames,)`` by property.
        largest_force: Largest component of a force in eV/Å, ``(frames,)``; 0 without forces.
        edges: Edges, ``(frames,)``, if they were counted.
        of_element: Frame and atomic number ``(2, pairs)`` of every element of every frame.
        compositions: Hash of the atoms of each element, ``(frames,)``.
        digest: SHA-256 over what training sees of the frames.
    """

    atoms: NDArray[np.int32]
    isolated: NDArray[np.bool_]
    labels: dict[str, NDArray[np.bool_]]
    largest_force: NDArray[np.float64]
    edges: NDArray[np.int64] | None
    of_element: NDArray[np.int32]
    compositions: NDArray[np.int64]
    digest: str

    def elements(self, chosen: NDArray[np.int64]) -> list[int]:
        """Atomic numbers in the chosen frames, ascending."""
        inside = np.isin(self.of_element[0], chosen)
        return np.unique(self.of_element[1, inside]).tolist()

    def first_with_other(self, chosen: NDArray[np.int64], elements: Sequence[int]) -> int | None:
        """The first of the chosen frames with an element that is not among ``elements``; None if there is none."""
        frame = self.of_element[0, ~np.isin(self.of_element[1], elements)]
        return next((int(n) for n in np.unique(frame[np.isin(frame, chosen)])), None)

    def measured(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Frames to measure in place of all the chosen ones, ascending.

        All of up to :data:`MEASURED`; of more, as many spread evenly, the first frames of each element, and one of each composition as
        long as there are few.

        Args:
            chosen: Numbers of frames, ``(chosen,)``, ascending.
        """
        if len(chosen) <= MEASURED:
            return chosen
        taken = [chosen[np.linspace(0, len(chosen) - 1, MEASURED).astype(np.int64)]]
        frame, element = self.of_element[:, np.isin(self.of_element[0], chosen)]
        taken += [frame[element == z][:OF_EACH_ELEMENT] for z in np.unique(element)]
        taken.append(chosen[np.unique(self.compositions[chosen], return_index=True)[1][:MEASURED]])
        return np.unique(np.concatenate(taken)).astype(np.int64)

    def extremes(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """The chosen frames with the largest forces."""
        return np.sort(chosen[np.argsort(self.largest_force[chosen])[-EXTREMES:]])


def survey(frames: Sequence[Atoms], *, cutoff: float | None = None, workers: int = 0) -> Survey:
    """Look through all frames once, each of which is read, checked and forgotten.

    Args:
        frames: Frames, such as :class:`equinet.datasets.store.StoredFrames`.
        cutoff: Longest edge in Å, to count the edges of every frame; None does not search for neighbours.
        workers: Processes that look through parts; 0 for this process alone.

    Raises:
        ValueError: If a frame is damaged, has no atoms, or a label is wrong; names file and frame.
    """
    count = len(frames)
    parts = [range(start, min(start + PART, count)) for start in range(0, count, PART)]
    found: list[Survey] = []
    began = told = time.monotonic()
    for part in in_workers(_Look(frames, cutoff), parts, workers):
        found.append(part)
        if (moment := time.monotonic()) - told > SECONDS_BETWEEN_NEWS:
            told, done = moment, len(found) / len(parts)
            log.info(f"looked through {done:.0%} of {count:,} frames, {(moment - began) * (1 / done - 1):.0f} s left")
    return _joined(found)


class _Look:
    """Survey of a part of the frames, with their numbers in the whole; can be sent to another process."""

    def __init__(self, frames: Sequence[Atoms], cutoff: float | None) -> None:
        self.frames, self.cutoff = frames, cutoff

    def __call__(self, part: range) -> Survey:
        size = len(part)
        labels = {name: np.zeros(size, dtype=bool) for name in PROPERTIES}
        atoms, isolated, largest = np.zeros(size, dtype=np.int32), np.zeros(size, dtype=bool), np.zeros(size)
        edges = None if self.cutoff is None else np.zeros(size, dtype=np.int64)
        compositions, pairs, digest = np.zeros(size, dtype=np.int64), [], hashlib.sha256()
        for n, frame in enumerate(self.frames[i] for i in part):
            if len(frame) == 0:
                raise ValueError(f"{source(frame)}: the frame has no atoms; remove it")
            results = frame.calc.results
            atoms[n], isolated[n] = len(frame), is_isolated_atom(frame)
            for name in labels:
                labels[name][n] = name in results and weight_of(frame, name) > 0
            if "forces" in results:
                largest[n] = np.abs(results["forces"]).max()
            if edges is not None and self.cutoff is not None:
                edges[n] = edges_within(frame, self.cutoff)
            counts = np.bincount(frame.numbers)
            compositions[n] = int.from_bytes(
                hashlib.blake2b(counts.tobytes(), digest_size=8).digest(), "big", signed=True
            )
            pairs += [(part[n], z) for z in np.flatnonzero(counts)]
            for content in content_of(frame):
                digest.update(content)
        of_element = np.array(pairs, dtype=np.int32).T
        return Survey(atoms, isolated, labels, largest, edges, of_element, compositions, digest.hexdigest())


def _joined(parts: Sequence[Survey]) -> Survey:
    first = parts[0]
    return Survey(
        np.concatenate([part.atoms for part in parts]),
        np.concatenate([part.isolated for part in parts]),
        {name: np.concatenate([part.labels[name] for part in parts]) for name in first.labels},
        np.concatenate([part.largest_force for part in parts]),
        None if first.edges is None else np.concatenate([part.edges for part in parts if part.edges is not None]),
        np.concatenate([part.of_element for part in parts], axis=1),
        np.concatenate([part.compositions for part in parts]),
        hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest(),
    )
