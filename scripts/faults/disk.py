"""A disk that is full from a random moment on: a small one in memory where mounting is allowed, else operations that fail."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dynamics
import training
from children import Child, Ended
from kills import Case, Found, Known, Work, tiny_model, undisturbed

MEGABYTES = 2
REMEDY = "the disk is full: make room and go on"


def full_disk(shared: Path) -> Case:
    """A maker of cases in which the disk becomes full; trainings and simulations take turns."""
    model = tiny_model(shared)
    config = training.configuration(shared)
    known: dict[Any, Known] = {}

    def case(source: random.Random, place: Path, number: int) -> Found:
        if number % 2:
            simulation = dynamics.any_simulation(source, model)
            name, kind, work, key = f"run{simulation.suffix}", dynamics, simulation.run, simulation
        else:
            plots = number % 4 == 0
            name, kind, work, key = "run", training, partial(training.train, config, plots=plots), plots
        if key not in known:
            known[key] = undisturbed(work, shared / f"whole-{len(known)}", name, kind)
        return _filled(source, place, name, kind, work, known[key])

    return case


def _filled(source: random.Random, place: Path, name: str, kind: Any, work: Work, known: Known) -> Found:
    """Run work until the disk is full, look at what it says and leaves, make room, and let it come to its end."""
    at = source.randint(1, known.operations)
    with _small_disk(place) as disk:
        out = disk / name
        if disk == place or source.random() < 0.4:
            how = "operations fail"
            ended = Child(lambda: work(out), disk, full_from=at).wait()
        else:
            how = "tmpfs"
            ended = _ballasted(lambda: work(out), disk, at, source.choice((0, 0, 4096, 16384)))
        events = Counter({f"{kind.__name__}, {how}": 1})
        complaints = _about(ended, disk) if not ended.well else []
        events["finished before"] += ended.well
        complaints += kind.unreadable(out)
        complaints += [f"left {path.name.split('.')[0]}...partial" for path in disk.rglob("*.partial")]
        ended = Child(lambda: work(out), disk).wait()
        if not ended.well:
            return Found([*complaints, f"could not come to its end: {ended}"], events)
        return Found([*complaints, *kind.differences(out, known.result)], events)


def _about(ended: Ended, disk: Path) -> list[str]:
    """What is wrong with the error of a child that found the disk full."""
    if ended.code or REMEDY not in ended.message or str(disk) not in ended.message:
        return [f"not one clear error: {ended}"]
    return []


def _ballasted(work: Callable[[], None], disk: Path, at: int, room: int) -> Ended:
    """Run work, fill the disk but for a little room when it is about to do an operation, and empty it in the end."""
    child = Child(work, disk, at=at)
    child.wait_for_operation()
    ballast = os.open(disk.parent / ".ballast", os.O_WRONLY | os.O_CREAT)
    size = 0
    try:
        while True:
            size += os.write(ballast, b"\0" * 4096)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    os.ftruncate(ballast, max(size - room, 0))
    ended = child.wait()
    os.close(ballast)
    (disk.parent / ".ballast").unlink()
    return ended


@contextmanager
def _small_disk(place: Path) -> Iterator[Path]:
    """A folder on a small disk of its own; ``place`` itself where mounting is not allowed."""
    disk = place / "mounted"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={MEGABYTES}m"]
    if subprocess.run(["mount", *options, "equinet-faults", str(disk)], capture_output=True, check=False).returncode:
        disk.rmdir()
        yield place
        return
    try:
        (disk / "runs").mkdir()
        yield disk / "runs"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
