"""Whole models side by side: training step, energies and forces, step of molecular dynamics, peak memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from equinet.bench.core import COMPILED, EQUINET, memory
from equinet.bench.core import record as core
from equinet.bench.core.machine import load_average
from equinet.bench.core.record import Settings, time_rows
from equinet.bench.core.timing import Ratio, Timing, Timings, threads

from .dynamics import Block, steps_in_block
from .lineup import LineUp, line_up
from .problems import Architecture, Structures
from .runners import DYNAMICS, FORCES, TASKS, TRAINING, Equinet, Prediction, Runner, relative_error

# Largest relative error against float64 with which a result counts as the same: of energies and forces, of the gradient of
# the loss. The loss depends on small differences between forces and labels, so its gradient has fewer digits.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
GRADIENT_TOLERANCE = {"float32": 1e-3, "float64": 1e-8}
# mace-torch keeps coordinates in the precision of the weights: their rounding, 6e-8 of the coordinate, moves atoms, and a
# force changes by about ten times itself per Å.
STIFFNESS = 10.0  # 1/Å
CHECKED_ATOMS = 200  # up to so many the gradient is checked on the problem itself, beyond on a piece of it
NOISE = 0.3  # on the labels, over the root mean square force or 1 eV/Å; little noise would leave the loss to rounding


@dataclass(frozen=True)
class Plan:
    """Models and structures to measure.

    Attributes:
        architectures: Models.
        problems: Structures.
        peers: Names of other packages' models.
        tasks: Some of ``TASKS``; ``DYNAMICS`` needs ``FORCES``.
        settings: Settings; the budget is for one task on one problem.
    """

    architectures: Sequence[Architecture]
    problems: Sequence[Structures]
    peers: Sequence[str] = ()
    tasks: tuple[str, ...] = TASKS
    settings: Settings = field(default_factory=Settings)


@dataclass(kw_only=True)
class Row(core.Row):
    """Result of one contender at one task.

    The error is that of energies and forces, in training that of the gradient of the loss; the time that of one step.

    Attributes:
        model: Name of the architecture.
        atoms: Atoms in the batch; for an MD step in its one structure.
        edges: Directed edges of the batch.
        parameters: Number of weights.
        over_equinet: Median time over equinet's; None for equinet.
        load: Load average of the machine when it was timed, if the system tells.
    """

    model: str
    atoms: int
    edges: int
    parameters: int = 0
    over_equinet: Ratio | None = None
    load: float | None = None

    @property
    def place(self) -> str:
        """Runner, model, problem and task as text."""
        return f"{self.contender}, {self.model}, {self.problem}, {self.task}"


def measure(plan: Plan, say: Callable[[str], None] = lambda text: None) -> Iterator[list[Row]]:
    """Measure; gives the rows of one architecture after the other, of all its problems.

    Args:
        plan: Models, structures and settings.
        say: Function called with a description of each step.

    Raises:
        ValueError: If an architecture has no counterpart in another package, or a model does not know an element.
    """
    dtype, device = plan.settings.dtype, plan.settings.device
    for architecture in plan.architectures:
        with tempfile.TemporaryDirectory() as folder, threads(plan.settings.threads):
            say(f"{architecture.name}: building {', '.join([EQUINET, *plan.peers])}")
            lineup = line_up(architecture, plan.problems, plan.peers, dtype, device, Path(folder))
            taken = _memory(plan, lineup, say)
            rows = []
            for problem in plan.problems:
                rows += _Bout(plan, lineup, problem, taken).rows(say)
            yield rows


def _memory(plan: Plan, lineup: LineUp, say: Callable[[str], None]) -> dict[str, dict[tuple[str, str], memory.Need]]:
    """Peak memory by contender and (problem, task)."""
    tasks = [task for task in (FORCES, TRAINING) if task in plan.tasks]
    batches = {p.name: lineup.batch(p.frames) for p in plan.problems}
    warm = lineup.batch(lineup.samples[:1])
    found = {}
    for name in lineup.runners:
        if name == COMPILED:  # it would be compiled once more, for minutes
            found[name] = {(batch, task): memory.Need(None) for batch in batches for task in tasks}
            continue
        say(f"{lineup.architecture.name}: memory of {name}")
        found[name] = memory.needs(lineup.recipes[name], batches, tasks, warm, plan.settings.device)
    return found


class _Bout:
    """All contenders of an architecture at one problem."""

    def __init__(
        self,
        plan: Plan,
        lineup: LineUp,
        problem: Structures,
        taken: Mapping[str, Mapping[tuple[str, str], memory.Need]],
    ) -> None:
        self.plan, self.lineup, self.problem = plan, lineup, problem
        self.needs = {
            name: {task: taken[name][problem.name, FORCES if task == DYNAMICS else task] for task in plan.tasks}
            for name in taken
        }
        pairs = [(name, task) for task in plan.tasks for name in lineup.recipes]
        self.found = {pair: self._blank(*pair, lineup.runners.get(pair[0])) for pair in pairs}

    def rows(self, say: Callable[[str], None]) -> list[Row]:
        """Check, then time; one row for each task and contender."""
        # Dynamics after forces: how many steps are timed at once follows from the time of an evaluation.
        for task in sorted(self.plan.tasks, key=(FORCES, DYNAMICS, TRAINING).index):
            rows = [self.found[name, task] for name in self.lineup.runners if self._may_run(name, task)]
            say(f"{self.lineup.architecture.name}, {self.problem.name}: {task}")
            if task != DYNAMICS:
                self._check(task, rows)
            load = load_average()
            if task == DYNAMICS:
                timings = self._time_dynamics(rows)
            else:
                timings, _ = time_rows(rows, lambda row: self._runner(row).task(row.task), self.plan.settings)
            for row in rows:
                row.load = load if row.timing else None
                if row.timing and row.contender != EQUINET and self.found[EQUINET, task].timing:
                    row.over_equinet = timings.ratio(row.contender, EQUINET)
        return list(self.found.values())

    def _runner(self, row: Row) -> Runner:
        return self.lineup.runners[row.contender]

    def _blank(self, name: str, task: str, runner: Runner | None) -> Row:
        problem = self.problem
        row = Row(
            model=self.lineup.architecture.name,
            problem=problem.name,
            atoms=len(problem.frames[0]) if task == DYNAMICS else problem.atoms,
            edges=self.lineup.batch(problem.frames).size,
            task=task,
            contender=name,
        )
        if runner is None:
            return replace(row, notes=(self.lineup.refused[name],))
        need = self.needs[name][task]
        notes = tuple(note for note in (runner.note, need.why, runner.cannot(task)) if note)
        peak = None if task == DYNAMICS else need.bytes
        return replace(row, parameters=runner.parameters, peak=peak, notes=notes)

    def _may_run(self, name: str, task: str) -> bool:
        row = self.found[name, task]
        return self.needs[name][task].fits and not row.wrong and not self.lineup.runners[name].cannot(task)

    def _check(self, task: str, rows: Sequence[Row]) -> None:
        """Compare with float64; those that compute the same function have their batch loaded."""
        frames, truth = self.problem.frames, self.lineup.truth
        if not self._truth_fits(task):
            frames = tuple(self.lineup.samples)
        labels = self._labels(truth, frames)
        expected = truth.predict() if task == FORCES else truth.gradient()[1]
        for row in rows:
            self._runner(row).load(frames, labels)
            error, row.first_call = _error(self._runner(row), expected)
            self._judge(row, error)
            if frames is not self.problem.frames:
                row.notes += ("checked on a piece of the structures",)
            if row.wrong and task == FORCES and DYNAMICS in self.plan.tasks:
                self._judge(self.found[row.contender, DYNAMICS], error)
        if frames is not self.problem.frames:
            labels = Prediction(np.zeros(len(self.problem.frames)), np.zeros((self.problem.atoms, 3)))
            for row in rows:
                if not row.wrong:
                    self._runner(row).load(self.problem.frames, labels)

    def _judge(self, row: Row, error: float) -> None:
        """Fill in the error, and that it is wrong if it is."""
        row.error = error
        if not error <= self._tolerance(row.contender, row.task):
            row.wrong = f"relative error {error:.1e} against float64; no time"

    def _tolerance(self, name: str, task: str) -> float:
        """The relative error up to which a result counts as the same."""
        if task == TRAINING:
            return GRADIENT_TOLERANCE[self.plan.settings.dtype]
        extent = max(float(np.abs(frame.positions).max()) for frame in self.problem.frames)
        rounding = 0.0 if name == EQUINET else STIFFNESS * extent * np.finfo(self.plan.settings.dtype).eps / 2
        return TOLERANCE[self.plan.settings.dtype] + float(rounding)

    def _truth_fits(self, task: str) -> bool:
        """Return True if float64 fits on the problem itself: twice equinet's memory, and not too slow."""
        if task == TRAINING and self.problem.atoms > CHECKED_ATOMS:
            return False
        need = self.needs[EQUINET][task]
        free = memory.free_memory("cpu")
        return need.bytes is None or memory.refusal(2 * memory.CAUTION * need.bytes, free) is None

    def _labels(self, truth: Equinet, frames: Sequence) -> Prediction:
        """Return labels to train on, the truth with noise, and load them into ``truth``."""
        truth.load(frames)
        found, rng = truth.predict(), np.random.default_rng(1)
        spread = NOISE * max(1.0, float(np.sqrt((found.forces**2).mean())))
        labels = Prediction(
            found.energy + rng.normal(scale=spread, size=found.energy.shape),
            found.forces + rng.normal(scale=spread, size=found.forces.shape),
        )
        truth.load(frames, labels)
        return labels

    def _time_dynamics(self, rows: Sequence[Row]) -> Timings:
        """Time blocks of steps, then see whether the forces at their end are those of a fresh neighbour list."""
        medians = [t.median for row in rows if (t := self.found[row.contender, FORCES].timing)]
        steps = steps_in_block(max(medians, default=0.0))
        blocks = {r.contender: Block(self.problem.frames[0], self._runner(r).calculator(), steps) for r in rows}
        timings, _ = time_rows(rows, lambda row: blocks[row.contender].run, self.plan.settings)
        per_step = Timings({name: _divided(timings[name], blocks[name].evaluations) for name in timings})
        for row in rows:
            if row.timing is None:
                continue
            row.first_call, row.timing = row.timing.first_call / (steps + 1), per_step[row.contender]
            if self._truth_fits(FORCES):
                atoms = blocks[row.contender].atoms
                self.lineup.truth.load([atoms])
                forces = self.lineup.truth.predict().forces
                self._judge(row, relative_error(atoms.calc.results["forces"], forces, least=1.0))
            if row.wrong:
                row.timing = None
        return per_step


def _error(contender: Runner, expected: Prediction | np.ndarray) -> tuple[float, float]:
    """Relative error, and how long it took to compute."""
    began = time.perf_counter()
    if isinstance(expected, Prediction):
        prediction = contender.predict()
        return prediction.error(expected), time.perf_counter() - began
    _, gradient = contender.gradient()
    return relative_error(gradient, expected), time.perf_counter() - began


def _divided(timing: Timing, parts: int) -> Timing:
    """The timing of one of so many equal parts."""
    seconds = tuple(value / parts for value in timing.seconds)
    return replace(timing, seconds=seconds, calls=timing.calls * parts, first_call=timing.first_call / parts)
