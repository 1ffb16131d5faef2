"""Processes killed by SIGKILL at any moment, also several times in a row, and taken up again until they are done."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import dynamics
import training
from children import Child, killed, operations_and_seconds

DRAWN_EVERY = 20  # real plots in every so manyth case; they take longer than all the rest


class Found(NamedTuple):
    """What a case found: complaints, and what happened, counted."""

    complaints: list[str]
    events: Counter[str]


class Known(NamedTuple):
    """An undisturbed run: its file operations, the seconds they take, and its result."""

    operations: int
    seconds: float
    result: dict[str, Any]


Work = Callable[[Path], None]  # does it, or goes on with it, in a folder or a trajectory
Case = Callable[[random.Random, Path, int], Found]


def kills_training(shared: Path) -> Case:
    """A maker of cases in which a training is killed."""
    config = training.configuration(shared)
    known = undisturbed(partial(training.train, config), shared / "whole", "run", training)

    def case(source: random.Random, place: Path, number: int) -> Found:
        plots = number % DRAWN_EVERY == 3
        work = partial(training.train, config, plots=plots)
        return _killed_until_done(source, place / "run", training, work, known, factor=3 if plots else 1)

    return case


def kills_dynamics(shared: Path) -> Case:
    """A maker of cases in which a simulation is killed."""
    model = tiny_model(shared)
    known: dict[dynamics.Simulation, Known] = {}

    def case(source: random.Random, place: Path, number: int) -> Found:
        simulation = dynamics.any_simulation(source, model)
        name = f"run{simulation.suffix}"
        if simulation not in known:
            known[simulation] = undisturbed(simulation.run, shared / f"whole-{len(known)}", name, dynamics)
        return _killed_until_done(source, place / name, dynamics, simulation.run, known[simulation])

    return case


def undisturbed(work: Work, folder: Path, name: str, kind: Any) -> Known:
    """Do something in a folder without any disturbance; ``kind`` is the module that reads its results."""
    folder.mkdir()
    measured = operations_and_seconds(lambda: work(folder / name), folder)
    return Known(*measured, kind.result(folder / name))


def tiny_model(shared: Path) -> Path:
    """A model file, trained for a moment."""
    training.train(training.configuration(shared), shared / "model")
    return shared / "model" / "model.eqn"


def _killed_until_done(
    source: random.Random, out: Path, kind: Any, work: Work, known: Known, *, factor: int = 1
) -> Found:
    """Kill one to four times, look at the files after each, then let it come to its end."""
    events: Counter[str] = Counter()
    complaints = []
    step = -1
    for kill in range(source.choice((1, 1, 2, 4))):
        ended, how = killed(
            lambda: work(out), out.parent, source, known.operations // (kill + 1), factor * known.seconds / (kill + 1)
        )
        events["finished before" if ended.well else f"killed {how}"] += 1
        if ended.error:
            complaints.append(f"could not go on: {ended}")
        complaints += kind.unreadable(out)
        now = kind.steps_done(out)
        if now < step:
            complaints.append(f"went back from step {step} to {now}")
        events["of these before the first state"] += now < 0
        step = now
    ended = Child(lambda: work(out), out.parent).wait()
    if not ended.well:
        return Found([*complaints, f"could not come to its end: {ended}"], events)
    return Found([*complaints, *kind.differences(out, known.result)], events)
