"""Threads that evaluate at once, in processes that have just begun: nothing wrong, and every process ends as it should."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from kills import Case, Found, tiny_model

THREADS = 8
EVALUATIONS = 200  # of every thread in the first case; in the others a few, as they are about the start
FEW = 20
WORKER = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from ase import Atoms
from equinet.md import EquinetCalculator

model, threads, count, seed, shares = sys.argv[1], *map(int, sys.argv[2:])
places = [[0, 0, 0], [1.3, 0, 0], [0, 1.4, 0], [-1, 0, 0.3]]
start = threading.Barrier(threads)

def evaluate(calculator, number):
    atoms = Atoms("C2OH", places + np.random.default_rng(number).normal(scale=0.05, size=(4, 3)))
    atoms.calc = calculator
    return atoms.get_potential_energy(), atoms.get_forces().tobytes()

def new():
    return EquinetCalculator(model, device="cpu", dtype="float64")

def work(thread):
    start.wait()
    calculator = shared or new()
    return [evaluate(calculator, seed + thread * count + n) for n in range(count)]

shared = new() if shares else None
with ThreadPoolExecutor(threads) as pool:
    found = [each for some in pool.map(work, range(threads)) for each in some]
alone = new()
print("wrong", sum(each != evaluate(alone, seed + n) for n, each in enumerate(found)), "of", len(found))
"""


def threads(shared: Path) -> Case:
    """A maker of cases, each a fresh process; calculators are shared and own by turns."""
    model = tiny_model(shared)

    def case(source: random.Random, place: Path, number: int) -> Found:
        count, seed, shares = EVALUATIONS if number < 2 else FEW, source.randrange(10**6), number % 2
        arguments = [str(each) for each in (model, THREADS, count, seed, shares)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", WORKER, *arguments], env=environment, capture_output=True, text=True, timeout=300
        )
        events = Counter({"processes": 1, f"evaluations, {'shared' if shares else 'own'}": THREADS * count})
        complaints = []
        if done.returncode or done.stderr:
            complaints.append(f"code {done.returncode}: {done.stderr[-200:]!r}")
        if done.stdout != f"wrong 0 of {THREADS * count}\n":
            complaints.append(f"said {done.stdout!r}")
        return Found(complaints, events)

    return case
