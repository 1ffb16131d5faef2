"""Peak memory of every contender, in a process of its own: what it fetches is counted, what it keeps too."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from equinet.bench.products.memory import peak_memory

from .contenders import FORCES, Contender, Prediction, Recipe

SHARE = 0.75  # of the free memory that a measurement may be expected to take
CAUTION = 1.25  # on what is expected


@dataclass(frozen=True)
class Need:
    """What a task takes at its peak, beyond the loaded model.

    Attributes:
        bytes: Graph, neighbour list, intermediate results and, for training, gradients and the optimiser's state; None
            where it was not measured.
        why: The reason, where it was not.
        fits: Whether it may be run here.
    """

    bytes: int | None
    why: str = ""
    fits: bool = True


@dataclass(frozen=True)
class Batch:
    """Structures to compute together, and their number of directed edges, to which memory is nearly proportional."""

    frames: tuple[Atoms, ...]
    edges: int


def needs(
    recipe: Recipe, batches: Mapping[str, Batch], tasks: Sequence[str], warm: Batch, device: str
) -> dict[tuple[str, str], Need]:
    """Peak memory of the tasks on all batches, by (batch, task).

    The process loads the model and does each task on ``warm``, whose purpose is that libraries are loaded and start their own
    memory; from there everything counts. Batches come in order of their edges. What is expected to take more than three
    quarters of the free memory, by what the one before took for each edge, is not run.

    Args:
        recipe: Of the contender.
        batches: By name.
        tasks: ``FORCES``, ``TRAINING``.
        warm: A few atoms.
        device: On CUDA it is torch's allocator that is asked.
    """
    order = sorted(batches, key=lambda name: batches[name].edges)
    found: dict[tuple[str, str], Need] = {}
    context = multiprocessing.get_context("spawn")
    arguments = (recipe, warm, tuple(tasks), torch.get_num_threads(), device)
    with ProcessPoolExecutor(1, context, initializer=_start, initargs=arguments) as pool:
        for name in order:
            for task in tasks:
                try:
                    found[name, task] = pool.submit(_measure, batches[name], task).result()
                except BrokenProcessPool:
                    found[name, task] = Need(
                        None, "its process was killed, most likely because memory ran out", fits=False
                    )
    return found


@dataclass
class _Worker:
    contender: Contender
    device: str
    at_start: int
    per_edge: dict[str, float]


_worker: _Worker | None = None


def _start(recipe: Recipe, warm: Batch, tasks: Sequence[str], threads: int, device: str) -> None:
    global _worker
    torch.set_num_threads(threads)
    contender, per_edge = recipe.build(), {}
    for task in tasks:
        for _ in range(2):  # the first loads libraries
            peak = peak_memory(lambda task=task: _work(contender, warm, task), device)  # type: ignore[misc]
        per_edge[task] = (peak or 0) / max(warm.edges, 1)
    _worker = _Worker(contender, device, _held(device), per_edge)


def _measure(batch: Batch, task: str) -> Need:
    assert _worker is not None, "_start has not run"
    expected, free = CAUTION * _worker.per_edge[task] * batch.edges, free_memory(_worker.device)
    if (why := refusal(expected, free)) is not None:
        return Need(None, why, fits=False)
    kept = max(
        0, _held(_worker.device) - _worker.at_start
    )  # by earlier work: it is not fetched again, so it counts here
    contender, device = _worker.contender, _worker.device
    peak = peak_memory(lambda: _work(contender, batch, task), device)
    if peak is None:
        return Need(None, "this system does not tell")
    _worker.per_edge[task] = (peak + kept) / max(batch.edges, 1)
    return Need(peak + kept)


def _work(contender: Contender, batch: Batch, task: str) -> None:
    atoms = sum(len(frame) for frame in batch.frames)
    labels = Prediction(np.zeros(len(batch.frames)), np.zeros((atoms, 3)))
    contender.load(batch.frames, None if task == FORCES else labels)
    contender.task(task)()


def refusal(expected: float, free: int | None) -> str | None:
    """Why not to run what is expected to take so many bytes; None if it may be run."""
    if free is None or expected <= SHARE * free:
        return None
    return f"would take about {expected / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"


def free_memory(device: str) -> int | None:
    """Bytes that can still be had, of the machine, of the control group if it has a limit, or of the GPU; None if unknown."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # "max" where there is none
        free = min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return free


def _held(device: str) -> int:
    """Bytes this process holds now."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
