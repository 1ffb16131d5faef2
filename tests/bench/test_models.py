"""What is measured is right before it is timed, and nothing is left out in silence. No test looks at a time."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule
from rich.console import Console

from equinet.bench.core import EQUINET, memory
from equinet.bench.core.memory import Need
from equinet.bench.core.record import Record, Settings
from equinet.bench.core.report import closing, write
from equinet.bench.core.timing import Timing
from equinet.bench.models import report, run, size
from equinet.bench.models.dynamics import Block, steps_in_block
from equinet.bench.models.lineup import line_up, require_same
from equinet.bench.models.pair import random_potential
from equinet.bench.models.problems import Architecture, Structures, molecules
from equinet.bench.models.runners import DYNAMICS, FORCES, TASKS, TRAINING, Equinet, Prediction
from equinet.cli.render import show
from equinet.md import EquinetCalculator
from equinet.models import MACEConfig
from equinet.verify.backends import reference_potential

TINY = Architecture("tiny", MACEConfig(channels=4, max_l=1, sh_degree=2, correlation=2, cutoff=4.0))
WATER = Structures("water", (molecule("H2O"), molecule("H2O2")))


@pytest.fixture
def no_processes(monkeypatch):
    """Memory is measured in processes of their own, which take seconds to start."""

    def pretend(worker, batches, tasks, warm, device):
        return {(batch, task): Need(1000) for batch in batches for task in tasks}

    monkeypatch.setattr(memory, "needs", pretend)


@pytest.fixture
def plan():
    return run.Plan([TINY], [WATER], settings=Settings(rounds=3, budget=0.2))


def test_every_task_of_every_problem_has_a_row(plan, no_processes):
    (rows,) = run.measure(plan)
    assert [(row.problem, row.task, row.contender) for row in rows] == [("water", task, EQUINET) for task in TASKS]
    for row in rows:
        assert row.timing is not None
        assert row.parameters > 0
        assert row.error is not None
        assert row.error < (1e-5 if row.task != TRAINING else 1e-3)
    assert rows[0].atoms == 7
    assert rows[2].atoms == 3, "dynamics follows one structure"


def test_forces_that_are_wrong_get_no_time(plan, no_processes, monkeypatch):
    right = Equinet.predict

    def wrong(self):
        found = right(self)
        return found if self.dtype == "float64" else Prediction(found.energy, found.forces * 1.001)

    monkeypatch.setattr(Equinet, "predict", wrong)
    (rows,) = run.measure(plan)
    found = {row.task: row for row in rows}
    for task in (FORCES, DYNAMICS):
        assert found[task].wrong
        assert found[task].timing is None
    assert found[FORCES].error == pytest.approx(1e-3, rel=0.1)
    text = shown(report.SUITE, rows)
    assert "WRONG: equinet, water, energy + forces: relative error 1.0e-03" in text


def test_a_gradient_that_is_wrong_gets_no_training_time(plan, no_processes, monkeypatch):
    right = Equinet.gradient
    monkeypatch.setattr(
        Equinet, "gradient", lambda self: right(self) if self.dtype == "float64" else (0.0, 1.01 * right(self)[1])
    )
    (rows,) = run.measure(plan)
    assert [bool(row.wrong) for row in rows] == [True, False, False]


def test_dynamics_with_stale_neighbours_get_no_time(plan, no_processes, monkeypatch):
    real = EquinetCalculator.calculate

    def stale(self, atoms=None, properties=("energy",), system_changes=()):
        real(self, atoms, properties, system_changes)
        self.results["forces"] = self.results["forces"] * 1.01

    monkeypatch.setattr(EquinetCalculator, "calculate", stale)
    (rows,) = run.measure(plan)
    assert {row.task: bool(row.wrong) for row in rows} == {TRAINING: False, FORCES: False, DYNAMICS: True}


def test_what_does_not_fit_into_memory_is_left_out_with_the_reason(plan, monkeypatch):
    def full(worker, batches, tasks, warm, device):
        needs = {(batch, task): Need(1000) for batch in batches for task in tasks}
        return {**needs, ("water", TRAINING): Need(None, "would take about 99.0 GB, and 1.0 GB are free", fits=False)}

    monkeypatch.setattr(memory, "needs", full)
    (rows,) = run.measure(plan)
    assert [row.timing is None for row in rows] == [True, False, False]
    assert "would take about 99.0 GB, and 1.0 GB are free (water, training step)" in shown(report.SUITE, rows)


def test_equinet_in_float64_is_held_against_its_formulas():
    potential = random_potential(TINY.config, (1, 8), WATER.frames, 3.0)
    right, broken = Equinet(reference_potential(potential), "float64"), Equinet(potential, "float64")
    require_same(broken, right, WATER.frames)
    with torch.no_grad():
        next(iter(potential.model.interactions[0].linear.parameters())).mul_(1.001)
    with pytest.raises(ArithmeticError, match="WRONG: equinet in float64 is not the same function"):
        require_same(broken, right, WATER.frames)


def test_a_training_step_that_is_timed_leaves_the_weights(tmp_path):
    contender = line_up(TINY, [WATER], (), "float32", "cpu", tmp_path).runners[EQUINET]
    contender.load(WATER.frames, Prediction(np.ones(2), np.ones((7, 3))))
    before = [weight.clone() for weight in contender.potential.parameters()]
    contender.task(TRAINING)()
    assert all(torch.equal(a, b) for a, b in zip(before, contender.potential.parameters()))
    assert all(weight.grad is not None for weight in contender.potential.parameters())


def test_random_potentials_have_forces_of_one_ev_per_angstrom():
    potential = random_potential(TINY.config, (1, 6, 8), molecules(2).frames, 12.0)
    contender = Equinet(potential, "float64")
    contender.load(molecules(2).frames)
    found = contender.predict()
    assert np.sqrt((found.forces**2).mean()) == pytest.approx(1.0)
    assert np.abs(found.energy).min() > 1e-2


def test_forces_that_cancel_are_not_held_against_their_tiny_sum():
    relaxed = Prediction(np.array([-4.0]), np.full((5, 3), 1e-9))
    assert Prediction(relaxed.energy, relaxed.forces + 1e-6).error(relaxed) == pytest.approx(1e-6)
    strained = Prediction(np.array([-4.0]), np.full((5, 3), 50.0))
    assert Prediction(strained.energy, strained.forces + 1e-3).error(strained) == pytest.approx(2e-5)
    assert Prediction(strained.energy * np.nan, strained.forces).error(strained) == np.inf


def test_a_block_of_dynamics_begins_at_the_same_place_every_time(potential):
    start = molecule("CH3OH")
    block = Block(start, EquinetCalculator(potential), steps=3)
    ends = []
    for _ in range(2):
        block.run()
        ends.append(block.atoms.positions.copy())
    assert np.allclose(*ends, atol=1e-12)
    flight = block.atoms.get_velocities() * 3 * 0.5 * units.fs
    assert np.allclose(ends[0] - start.positions, flight, atol=1e-3)
    assert 1e-2 < np.abs(flight).max() < 0.2
    assert (steps_in_block(1e-4), steps_in_block(0.2), steps_in_block(60)) == (20, 5, 2)


def test_memory_is_expected_from_edges_and_refused_beyond_what_is_free():
    assert memory.refusal(7.4e9, 10_000_000_000) is None
    assert memory.refusal(7.6e9, 10_000_000_000) == "would take about 7.6 GB, and 10.0 GB are free"
    assert memory.refusal(1e15, None) is None


@pytest.mark.slow
def test_memory_is_measured_in_another_process(tmp_path):
    lineup = line_up(TINY, [WATER], (), "float32", "cpu", tmp_path)
    frames = molecules(40).frames
    lineup = line_up(TINY, [molecules(40)], (), "float32", "cpu", tmp_path)
    batches = {"all": lineup.batch(frames)}
    found = memory.needs(lineup.recipes[EQUINET], batches, (FORCES, TRAINING), lineup.batch(frames[:1]), "cpu")
    if found["all", FORCES].bytes is None:
        pytest.skip("this system does not tell its peak memory")
    graph = 40 * batches["all"].size  # bytes: two indices and three offsets for each edge
    assert found["all", TRAINING].bytes > graph
    assert found["all", FORCES].bytes < 2e9


def test_the_exponent_of_a_power_law_is_found():
    found = size.fit([(n, 3e-4 * n**1.5) for n in (64, 512, 4096)])
    assert found.exponent == pytest.approx(1.5)
    assert found.per_atom == pytest.approx(3e-4 * 4096**0.5)
    assert size.fit([(64, 1.0), (512, 2.0)]) is None
    with pytest.raises(ValueError, match="`largest` must be 512 or more"):
        size.problems(500)
    assert [problem.atoms for problem in size.problems(1000)] == [64, 216, 512, 1000]


def a_row(atoms=64, task=FORCES, contender=EQUINET, seconds=(1.0, 1.1, 1.05), **more):
    timing = Timing(tuple(seconds), tuple(range(len(seconds))), 1, 2.0)
    of = {"model": "m", "problem": f"{atoms} atoms", "atoms": atoms, "edges": 30 * atoms, "task": task}
    return run.Row(**of, contender=contender, parameters=7, error=1e-7, timing=timing, **more)


def test_a_record_is_written_for_people_and_for_programs(tmp_path, plan):
    record = report.record_of(plan, "equinet bench model")
    record.rows = [a_row(task=task, peak=2_000_000) for task in TASKS]
    names = write(report.SUITE, record, tmp_path)
    assert all((tmp_path / name).stat().st_size > 0 for name in names)
    tree = json.loads((tmp_path / "model.json").read_text())
    assert tree["rows"][0]["timing"]["seconds"] == [1.0, 1.1, 1.05]
    assert tree["problems"][0]["name"] == "tiny"
    assert tree["problems"][0]["config"]["channels"] == 4
    assert {"torch", "equinet"} <= tree["machine"]["versions"].keys()
    assert "| 64 atoms | energy + forces | 1.05 s ±2 %, 3 rounds |" in (tmp_path / "model_table.md").read_text()
    assert len((tmp_path / "model.csv").read_text().splitlines()) == 4


def test_cost_against_size_is_written_with_its_slopes(tmp_path, plan):
    record = report.record_of(plan, "equinet bench size")
    record.rows = [a_row(n, seconds=[n * 1e-4] * 3, peak=n * 50_000) for n in (64, 512, 4096)]
    write(size.SUITE, record, tmp_path)
    text = (tmp_path / "size_table.md").read_text()
    assert "time ~ N^1.00, 100 µs per atom at 4,096 atoms; memory ~ N^1.00, 50.0 kB per atom" in text
    assert json.loads((tmp_path / "size.json").read_text())["fits"][EQUINET]["bytes"]["exponent"] == pytest.approx(1.0)
    assert "N^1.00" in shown(size.SUITE, record.rows)


def test_unsteady_times_are_said_loudly():
    rows = [a_row(task=task, seconds=(1.0, 2.0, 2.0)) for task in TASKS]
    assert "UNSTEADY: the median is more than 1.3 times the minimum" in shown(report.SUITE, rows)
    steady = [replace(row, timing=a_row().timing) for row in rows]
    assert "UNSTEADY" not in shown(report.SUITE, steady)


def shown(suite, rows) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    record = Record("", Settings(), rows=rows)
    show(console, [*suite.terminal(record), *closing(suite, record)])
    return console.export_text()
