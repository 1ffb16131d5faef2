"""Two processes that want the same files at the same moment."""

from __future__ import annotations

import os
import random
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import dynamics
import training
from children import Child, killed
from kills import Case, Found, Known, Work, tiny_model, undisturbed


def pairs(shared: Path) -> Case:
    """A maker of cases with two trainings, two resumed ones, two simulations, two resumed ones."""
    model = tiny_model(shared)
    config = training.configuration(shared)
    known: dict[Any, Known] = {}

    def case(source: random.Random, place: Path, number: int) -> Found:
        resumes = number % 4 in (1, 3)
        what = "resumes" if resumes else "starts"
        if number % 4 < 2:
            name, kind, work, key = "run", training, partial(training.train, config), None
        else:
            simulation = dynamics.any_simulation(source, model, steps=150)
            name, kind, work, key = f"run{simulation.suffix}", dynamics, simulation.run, simulation
        if key not in known:
            known[key] = undisturbed(work, shared / f"whole-{len(known)}", name, kind)
        return _both(source, place / name, kind, work, what, known[key])

    return case


def _both(source: random.Random, out: Path, kind: Any, work: Work, what: str, known: Known) -> Found:
    """Let two children begin at once; one must come to its end as if it were alone, the other say who holds the files."""
    if what == "resumes":
        for _ in range(20):
            killed(lambda: work(out), out.parent, source, known.operations // 2, known.seconds / 2)
            if kind.steps_done(out) >= 0:
                break
    gate = os.pipe()
    children = [Child(lambda: work(out), out.parent, gate=gate) for _ in range(2)]
    pids = [child.pid for child in children]
    os.close(gate[0])
    os.close(gate[1])  # now
    ended = [child.wait() for child in children]
    events = Counter({f"two {kind.__name__} {what}": 1})
    complaints = []
    if [each.well for each in ended].count(True) != 1:
        complaints.append(f"{sum(each.well for each in ended)} came to their end: {ended[0]}; {ended[1]}")
    for each, other in zip(ended, reversed(pids), strict=True):
        if not each.well:
            named = each.error == "InUseError" and (f"process {other} on" in each.message)
            events["named the other"] += named
            # Between taking the lock and writing its name into it, or when it is over, there is nobody to name.
            unnamed = each.error == "FileExistsError" or "by another process" in each.message
            events["could not name it"] += unnamed and not named
            if not (named or unnamed):
                complaints.append(f"does not say who holds the files: {each}")
    return Found([*complaints, *kind.differences(out, known.result)], events)
