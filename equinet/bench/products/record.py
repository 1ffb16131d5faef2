"""What was measured, as plain data."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .ceilings import Ceilings
from .contenders import Expressivity
from .passes import ALLOWED
from .problems import Problem
from .timing import Ratio, Timing

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass
class Measured:
    """One pass of one contender.

    Attributes:
        timing: Seconds; None if the pass failed.
        failure: Why it failed.
        ratio: Time of the baseline over this time: how many times faster than the baseline.
        flops: Useful operations.
        bytes: The least that is moved.
        roofline: The least time, by operations and bytes, over the time it took.
        peak_memory: Bytes on top of the inputs.
    """

    timing: Timing | None
    failure: str | None = None
    ratio: Ratio | None = None
    flops: float | None = None
    bytes: int = 0
    roofline: float | None = None
    peak_memory: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "timing": None if self.timing is None else self.timing.as_json(),
            "failure": self.failure,
            "times_faster_than_baseline": None if self.ratio is None else asdict(self.ratio),
            "flops": self.flops,
            "bytes": self.bytes,
            "roofline_fraction": self.roofline,
            "peak_memory_bytes": self.peak_memory,
        }


@dataclass
class Row:
    """One contender on one problem: absent, wrong, or measured.

    Attributes:
        name: Of the contender.
        absent: Why it did not take part; then nothing else is there.
        wrong: What its check found wrong; then there are no times.
        same_function: Whether it computes what the exact couplings compute.
        expressivity: What it can express.
        errors: Relative errors of value, gradients and second derivatives, by pass.
        checked_nodes: How many nodes were checked.
        build_seconds: To make it.
        first_call_seconds: The first forward call, in which things are compiled.
        passes: By name.
    """

    name: str
    absent: str | None = None
    wrong: str | None = None
    same_function: bool = True
    expressivity: Expressivity | None = None
    errors: dict[str, float] = field(default_factory=dict)
    checked_nodes: int = 0
    build_seconds: float = 0.0
    first_call_seconds: float = 0.0
    passes: dict[str, Measured] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        plain = {key: value for key, value in vars(self).items() if key not in ("passes", "expressivity")}
        express = None if self.expressivity is None else asdict(self.expressivity)
        return {**plain, "expressivity": express, "passes": {n: found.as_json() for n, found in self.passes.items()}}


@dataclass
class Table:
    """All contenders on one problem."""

    problem: Problem
    ceilings: Ceilings | None
    baseline: str | None
    rows: list[Row]

    def as_json(self) -> dict[str, Any]:
        problem = self.problem
        return {
            "problem": problem.name,
            "kind": problem.kind,
            "spec": str(problem.spec),
            "nodes": problem.nodes,
            "edges": problem.edges,
            "channels": problem.spec.channels,
            "ceilings": None if self.ceilings is None else asdict(self.ceilings),
            "baseline": self.baseline,
            "contenders": [row.as_json() for row in self.rows],
        }


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        dtype: Of features and weights.
        device: Where.
        threads: Of the processor.
        rounds: In which everybody takes a turn.
        budget: Seconds of timing for each problem, shared by the three passes; building, checking and first calls come on top.
        reference: Whether the reference forms take part.
        clock: ``"wall"``, or ``"cpu"``: processor time of one thread, which leaves out what other processes take.
        baseline: Whose time is divided by everybody's; by default e3nn, else cuequivariance, else the first.
    """

    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    threads: int = 1
    rounds: int = 11
    budget: float = 60.0
    reference: bool = False
    baseline: str | None = None
    clock: str = "wall"

    def __post_init__(self) -> None:
        if self.dtype not in ALLOWED:
            raise ValueError(f"--dtype must be float32 or float64, got {str(self.dtype).removeprefix('torch.')}")
        if self.device.type not in ("cpu", "cuda"):
            raise ValueError(f"--device must be cpu or cuda, got {self.device}")
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch finds no CUDA device here; `equinet doctor` says why")
        if self.threads < 1:
            raise ValueError(f"--threads must be 1 or more, got {self.threads}")
        if self.clock not in CLOCKS:
            raise ValueError(f"--clock must be wall or cpu, got {self.clock!r}")
        if self.clock == "cpu" and (self.threads > 1 or self.device.type != "cpu"):
            raise ValueError("--clock cpu adds up all threads: take --threads 1 and --device cpu, or --clock wall")


@dataclass
class Record:
    """All problems of a run, and on what they were measured."""

    machine: dict[str, Any]
    settings: Settings
    tables: list[Table]

    @property
    def unsteady(self) -> list[str]:
        """Whose times cannot be trusted, as ``problem, contender, pass``."""
        return [
            f"{table.problem.name}, {row.name}, {name}"
            for table in self.tables
            for row in table.rows
            for name, found in row.passes.items()
            if found.timing is not None and found.timing.unsteady
        ]

    def as_json(self) -> dict[str, Any]:
        settings = {**vars(self.settings), "device": str(self.settings.device)}
        settings["dtype"] = str(self.settings.dtype).removeprefix("torch.")
        return {
            "machine": self.machine,
            "settings": settings,
            "unsteady": self.unsteady,
            "problems": [table.as_json() for table in self.tables],
        }
