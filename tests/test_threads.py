"""Several threads at a time: calculators of their own or one for all, and what is made once in a process."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from equinet.checkpoint import save_potential
from equinet.md import EquinetCalculator
from equinet.ops.codegen.once import once
from equinet.potential import Potential

THREADS = 8


def structure(number: int) -> Atoms:
    places = [[0, 0, 0], [1.3, 0, 0], [0, 1.4, 0], [-1, 0, 0.3]]
    return Atoms("C2OH", places + np.random.default_rng(number).normal(scale=0.05, size=(4, 3)))


def evaluate(calculator: EquinetCalculator, number: int) -> tuple[float, np.ndarray]:
    atoms = structure(number)
    atoms.calc = calculator
    return atoms.get_potential_energy(), atoms.get_forces()


def same(found: list[tuple[float, np.ndarray]], expected: list[tuple[float, np.ndarray]]) -> bool:
    return all(e == f and np.array_equal(a, b) for (e, a), (f, b) in zip(found, expected, strict=True))


def test_threads_that_share_a_calculator_get_the_results_of_their_own_structures(
    potential: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    calculator = EquinetCalculator(potential, device="cpu")
    expected = [evaluate(calculator, n) for n in range(24)]
    calculate = EquinetCalculator.calculate

    def slow(self: EquinetCalculator, *args: object) -> None:
        calculate(self, *args)  # type: ignore[arg-type]
        time.sleep(0.002)  # so that another thread gets its turn where it should not

    monkeypatch.setattr(EquinetCalculator, "calculate", slow)
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda n: evaluate(calculator, n), range(24)))
    assert same(found, expected)


def test_a_copy_and_a_pickle_of_a_calculator_take_turns_of_their_own(potential: Potential) -> None:
    calculator = EquinetCalculator(potential, device="cpu")
    expected = [evaluate(calculator, 1)]
    for other in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        with calculator._turn, ThreadPoolExecutor(1) as pool:  # held here, free there
            assert same([pool.submit(evaluate, other, 1).result(timeout=30)], expected)


OWN = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from test_threads import THREADS, evaluate, same
from equinet.md import EquinetCalculator

start = threading.Barrier(THREADS)

def work(number):
    start.wait()  # all of them make and compile everything at the same moment
    calculator = EquinetCalculator(sys.argv[1], device="cpu")
    return [evaluate(calculator, n) for n in (number, number + 100)]

with ThreadPoolExecutor(THREADS) as pool:
    found = [each for pair in pool.map(work, range(THREADS)) for each in pair]
alone = EquinetCalculator(sys.argv[1], device="cpu")
print(same(found, [evaluate(alone, n) for number in range(THREADS) for n in (number, number + 100)]))
"""


def test_threads_with_calculators_of_their_own_may_begin_at_once_in_a_fresh_process(
    potential: Potential, tmp_path: Path
) -> None:
    save_potential(potential, tmp_path / "model.eqn")
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", OWN, str(tmp_path / "model.eqn")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_what_is_made_once_is_made_by_one_thread_and_kept() -> None:
    made = []

    @once
    def slow(key: int, *, doubled: bool = False) -> object:
        time.sleep(0.02)
        made.append(key)
        return object()

    start = threading.Barrier(THREADS)

    def ask(_: int) -> object:
        start.wait()
        return slow(3)

    with ThreadPoolExecutor(THREADS) as pool:
        assert len(set(pool.map(ask, range(THREADS)))) == 1
    assert slow(3, doubled=True) is not slow(3)
    assert made == [3, 3]


def test_what_is_made_once_may_ask_for_more_and_a_failure_is_not_kept() -> None:
    tries = []

    @once
    def inner() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("not yet")
        return 1

    @once
    def outer() -> int:
        return inner() + 1

    with pytest.raises(ValueError, match="not yet"):
        outer()
    assert outer() == outer() == 2
    assert len(tries) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_forked_while_a_thread_makes_something_can_make_it_too() -> None:
    inside, leave = threading.Event(), threading.Event()

    @once
    def slow() -> int:
        inside.set()
        leave.wait(30)
        return 1

    maker = threading.Thread(target=slow)
    maker.start()
    inside.wait(30)
    context = torch.multiprocessing.get_context("fork")
    quick = once(lambda: 0)
    child = context.Process(target=quick)
    child.start()
    child.join(30)
    leave.set()
    maker.join()
    assert child.exitcode == 0
    child.close()
