"""Peak memory of a call in this process, and of the tasks of a contender in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SHARE = 0.75  # of the free memory that a measurement may be expected to take
CAUTION = 1.25  # on what is expected


def peak_memory(call: Callable[[], None], device: torch.device | str = "cpu") -> int | None:
    """Peak bytes that ``call`` takes on top of what is allocated already; None where that cannot be measured.

    On CUDA what torch's allocator gave out. On the processor the growth of the resident set: Linux forgets its peak when asked
    to; free memory is handed back before, so that it is counted when it is taken again. To a page (4 kB), and libraries that
    keep buffers of their own (matrix products) count where they fetch them during the call.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    gc.collect(1)  # young things; to look through all there is takes a second beside large libraries
    try:
        ctypes.CDLL(None).malloc_trim(0)
        CLEAR.write_text("5")  # the peak becomes what is resident now
        before = _resident("VmRSS")
        call()
        return max(0, _resident("VmHWM") - before)
    except (OSError, AttributeError):  # not Linux, not glibc, or not permitted
        return None


def _resident(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if match is None:
        raise OSError(f"{STATUS} has no {field}")
    return 1024 * int(match[1])


@dataclass(frozen=True)
class Need:
    """Peak memory of a task beyond the loaded model.

    Attributes:
        bytes: Inputs, intermediate results and what the task keeps; None where it was not measured.
        why: Reason where it was not.
        fits: True if the task may be run here.
    """

    bytes: int | None
    why: str = ""
    fits: bool = True


class Load(Protocol):
    """Input of a task; picklable."""

    @property
    def size(self) -> int:
        """Number of edges or the like, to which memory is nearly proportional."""


class Worker(Protocol):
    """Recipe of a contender for another process; picklable."""

    def build(self) -> Any:
        """Return the contender."""

    def work(self, built: Any, load: Any, task: str) -> None:
        """Do a task once, from its inputs on."""


def needs(
    worker: Worker, loads: Mapping[str, Load], tasks: Sequence[str], warm: Load, device: str
) -> dict[tuple[str, str], Need]:
    """Measure peak memory of tasks in a process of their own, by (load, task).

    The process builds the contender and does each task on ``warm``, so that libraries are loaded and start their own memory;
    from there everything counts. Loads come in order of their sizes. What is expected to take more than three quarters of
    the free memory, by what the one before took per unit of size, is not run.

    Args:
        worker: Recipe of the contender.
        loads: Inputs by name.
        tasks: Names of tasks.
        warm: A small input.
        device: Name of the device; on CUDA torch's allocator is asked.
    """
    order = sorted(loads, key=lambda name: loads[name].size)
    found: dict[tuple[str, str], Need] = {}
    context = multiprocessing.get_context("spawn")
    arguments = (worker, warm, tuple(tasks), torch.get_num_threads(), device)
    with ProcessPoolExecutor(1, context, initializer=_start, initargs=arguments) as pool:
        for name in order:
            for task in tasks:
                try:
                    found[name, task] = pool.submit(_measure, loads[name], task).result()
                except BrokenProcessPool:
                    why = "its process was killed, most likely because memory ran out"
                    found[name, task] = Need(None, why, fits=False)
    return found


@dataclass
class _State:
    """State of the other process: the contender, and what it held at the start."""

    worker: Worker
    built: Any
    device: str
    at_start: int
    per_size: dict[str, float]


_state: _State | None = None


def _start(worker: Worker, warm: Load, tasks: Sequence[str], threads: int, device: str) -> None:
    global _state
    torch.set_num_threads(threads)
    built, per_size = worker.build(), {}
    for task in tasks:
        for _ in range(2):  # the first loads libraries
            peak = peak_memory(lambda task=task: worker.work(built, warm, task), device)  # type: ignore[misc]
        per_size[task] = (peak or 0) / max(warm.size, 1)
    _state = _State(worker, built, device, _held(device), per_size)


def _measure(load: Load, task: str) -> Need:
    assert _state is not None, "_start has not run"
    state = _state
    if (why := refusal(CAUTION * state.per_size[task] * load.size, free_memory(state.device))) is not None:
        return Need(None, why, fits=False)
    # Kept by earlier work: it is not fetched again, so it counts here.
    kept = max(0, _held(state.device) - state.at_start)
    peak = peak_memory(lambda: state.worker.work(state.built, load, task), state.device)
    if peak is None:
        return Need(None, "this system does not tell")
    state.per_size[task] = (peak + kept) / max(load.size, 1)
    return Need(peak + kept)


def refusal(expected: float, free: int | None) -> str | None:
    """Return why not to run what is expected to take so many bytes; None if it may be run."""
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
