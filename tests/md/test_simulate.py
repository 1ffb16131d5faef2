"""Molecular dynamics: the right ensemble, exact restarts, nothing lost."""

import errno
import math
import resource
import signal
from contextlib import contextmanager
from importlib import import_module

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixCom, FixScaled
from ase.io.trajectory import Trajectory

from equinet.md import EquinetCalculator, Exploded, Interrupted, plot_run, read_run, simulate
from equinet.md.dynamics.ensembles import degrees_of_freedom, draw_momenta
from equinet.md.dynamics.restart import RunFiles
from equinet.md.dynamics.trajectory import cut_trajectory
from equinet.runs.interrupt import SIGNALS
from equinet.runs.lock import InUseError, exclusive
from equinet.tensorfile import save_tensors

NVT = {"ensemble": "nvt", "temperature": 300, "timestep": 1.0}


class Springs(Calculator):
    """Every atom on a spring of its own; the exact averages are known. Without stiffness, an ideal gas."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, sites, stiffness=1.0):
        super().__init__()
        self.sites, self.stiffness = sites, stiffness
        self.evaluations = 0
        self.fail_at = None
        self.failure = None

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.evaluations += 1
        if self.evaluations == self.fail_at:
            raise self.failure
        stretch = atoms.positions - self.sites
        self.results = {
            "energy": self.stiffness * (stretch**2).sum() / 2,
            "forces": -self.stiffness * stretch,
            "stress": np.zeros(6),
        }


@pytest.fixture
def crystal():
    return bulk("Al", cubic=True) * (2, 2, 1)


@pytest.fixture
def springs(crystal):
    return Springs(crystal.positions.copy())


@pytest.fixture
def box():
    """Random H, C and O in a triclinic cell."""
    positions = np.random.default_rng(0).uniform(0, 5, (6, 3))
    return Atoms("HCOHCO", positions=positions, cell=[[5, 0, 0], [1, 5, 0], [0.5, 0.7, 5.5]], pbc=True)


def stop_at(step):
    def progress(now, observation):
        if now == step:
            raise KeyboardInterrupt

    return progress


def assert_same_run(one, other):
    frames, others = ase.io.read(one, ":"), ase.io.read(other, ":")
    assert len(frames) == len(others)
    for a, b in zip(frames, others):
        assert a.info == b.info
        for quantity in ("get_positions", "get_momenta", "get_forces", "get_potential_energy", "get_cell"):
            np.testing.assert_array_equal(getattr(a, quantity)(), getattr(b, quantity)())
    assert RunFiles(one).log.read_text() == RunFiles(other).log.read_text()


@pytest.mark.parametrize("suffix", ["traj", "xyz"])
@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
def test_interrupted_and_resumed_is_bit_for_bit_the_same_as_never_interrupted(
    ensemble, suffix, potential, box, tmp_path
):
    settings = {"ensemble": ensemble, "temperature": 300, "timestep": 0.5, "save_every": 3, "seed": 4}
    whole, parts = tmp_path / f"whole.{suffix}", tmp_path / f"parts.{suffix}"
    expected = simulate(box, EquinetCalculator(potential, "cpu"), steps=30, out=whole, **settings)
    with pytest.raises(Interrupted, match=r"step 12 is in .*parts\.\w+\.restart. Continue with .* `resume=True`"):
        simulate(box, EquinetCalculator(potential, "cpu"), steps=30, out=parts, progress=stop_at(12), **settings)
    for steps in (20, 30):  # 20 is between two frames
        summary = simulate(box, EquinetCalculator(potential, "cpu"), steps=steps, out=parts, resume=True, **settings)
    assert_same_run(whole, parts)
    np.testing.assert_array_equal(summary.total_energy, expected.total_energy)
    assert len(np.unique(summary.temperature)) == 11


@pytest.mark.parametrize("suffix", ["traj", "xyz"])
@pytest.mark.parametrize("lost", ["append", "save_state"])
def test_a_crash_while_saving_loses_and_doubles_nothing(lost, suffix, crystal, springs, tmp_path, monkeypatch):
    whole, parts = tmp_path / f"whole.{suffix}", tmp_path / f"parts.{suffix}"
    simulate(crystal, springs, steps=100, out=whole, **NVT)
    original, calls = getattr(RunFiles, lost), []

    def crash(self, *args):
        calls.append(args)
        if lost == "append":
            original(self, *args)
        if len(calls) >= (
            5 if lost == "append" else 6
        ):  # and goes on being full; the first state comes before the first frame
            raise OSError("disk full")
        if lost == "save_state":
            original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(import_module("equinet.md.dynamics.simulate"), "SECONDS_BETWEEN_WRITES", 0.0)
        patch.setattr(RunFiles, lost, crash)
        with pytest.raises(OSError, match="disk full"):
            simulate(crystal, springs, steps=100, out=parts, **NVT)
    assert len(ase.io.read(parts, ":")) == 5
    assert len(read_run(parts).step) == 4
    simulate(crystal, springs, steps=100, out=parts, resume=True, **NVT)
    assert_same_run(whole, parts)


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(KeyboardInterrupt, Interrupted), (FloatingPointError, Exploded), (RuntimeError, RuntimeError), (None, None)],
)
def test_a_fast_run_writes_its_restart_file_when_it_ends_whatever_ends_it(
    failure, raised, crystal, springs, tmp_path, monkeypatch
):
    simulate(crystal, springs, steps=100, out=tmp_path / "whole.traj", **NVT)
    monkeypatch.setattr(import_module("equinet.md.dynamics.simulate"), "SECONDS_BETWEEN_WRITES", 1e9)
    original, written = RunFiles.save_state, []
    monkeypatch.setattr(RunFiles, "save_state", lambda self, state: written.append(state.step) or original(self, state))
    parts = tmp_path / "parts.traj"
    if failure is None:
        simulate(crystal, springs, steps=60, out=parts, **NVT)
    else:
        springs.fail_at, springs.failure = springs.evaluations + 68, failure
        with pytest.raises(raised):
            simulate(crystal, springs, steps=100, out=parts, **NVT)
    assert written == [0, 60]
    assert read_run(parts).step.tolist() == [0, 10, 20, 30, 40, 50, 60]
    simulate(crystal, springs, steps=100, out=parts, resume=True, **NVT)
    assert_same_run(tmp_path / "whole.traj", parts)


def test_a_slow_run_can_be_resumed_from_between_two_frames(crystal, springs, tmp_path, monkeypatch):
    simulate(crystal, springs, steps=100, out=tmp_path / "whole.traj", save_every=50, **NVT)
    monkeypatch.setattr(import_module("equinet.md.dynamics.simulate"), "SECONDS_BETWEEN_RESTARTS", 0.0)
    springs.fail_at, springs.failure = springs.evaluations + 38, KeyboardInterrupt
    with pytest.raises(Interrupted, match="step 36 is in"):
        simulate(crystal, springs, steps=100, out=tmp_path / "parts.traj", save_every=50, **NVT)
    simulate(crystal, springs, steps=100, out=tmp_path / "parts.traj", save_every=50, resume=True, **NVT)
    assert_same_run(tmp_path / "whole.traj", tmp_path / "parts.traj")


def test_interrupted_before_the_first_frame_says_so(crystal, springs, tmp_path):
    springs.fail_at, springs.failure = 1, KeyboardInterrupt
    with pytest.raises(Interrupted, match="before anything was saved"):
        simulate(crystal, springs, steps=10, out=tmp_path / "run.traj", **NVT)


def test_a_finished_run_goes_on_with_more_steps_and_not_with_fewer(crystal, springs, tmp_path):
    out = tmp_path / "run.traj"
    first = simulate(crystal, springs, steps=20, out=out, **NVT)
    again = simulate(crystal, springs, steps=20, out=out, resume=True, **NVT)
    assert again.step.tolist() == first.step.tolist() == [0, 10, 20]
    with pytest.raises(ValueError, match=r"`steps` is 10, but .*run\.traj is already at 20; ask for more"):
        simulate(crystal, springs, steps=10, out=out, resume=True, **NVT)


def test_an_existing_run_is_not_overwritten(crystal, springs, tmp_path):
    out = tmp_path / "run.xyz"
    out.write_text("precious")
    with pytest.raises(
        FileExistsError, match=r"run\.xyz in .* would be overwritten; .* resume=True, or give `out` another"
    ):
        simulate(crystal, springs, steps=10, out=out, **NVT)
    assert out.read_text() == "precious"


def test_resume_without_a_run_is_refused(crystal, springs, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no .*run\.traj\.restart, so nothing to resume; start with resume=False"
    ):
        simulate(crystal, springs, steps=10, out=tmp_path / "run.traj", resume=True, **NVT)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("timestep", 2.0, "`timestep` was 1.0 and is 2.0"),
        ("ensemble", "nve", "`ensemble` was nvt and is nve"),
        ("seed", 1, "`seed` was 0 and is 1"),
        ("temperature", 310, "`temperature` was 300.0 and is 310.0"),
        ("friction", 0.02, "`friction` was 0.01 and is 0.02"),
        ("save_every", 5, "`save_every` was 10 and is 5"),
    ],
)
def test_resume_with_another_setting_names_it(name, value, message, crystal, springs, tmp_path):
    simulate(crystal, springs, steps=10, out=tmp_path / "run.traj", **NVT)
    with pytest.raises(ValueError, match=f"cannot be resumed with other settings: {message}. Set"):
        simulate(crystal, springs, steps=20, out=tmp_path / "run.traj", resume=True, **{**NVT, name: value})


def test_resume_with_another_structure_is_refused(crystal, springs, tmp_path):
    simulate(crystal, springs, steps=10, out=tmp_path / "run.traj", **NVT)
    crystal.positions[0, 0] += 1e-6
    with pytest.raises(ValueError, match=r"`atoms` is not the structure that .*run\.traj began with"):
        simulate(crystal, springs, steps=20, out=tmp_path / "run.traj", resume=True, **NVT)


def test_resume_with_another_calculator_is_refused(crystal, springs, tmp_path):
    simulate(crystal, springs, steps=10, out=tmp_path / "run.traj", **NVT)
    with pytest.raises(ValueError, match=r"`calculator` is not the one of .* at step 10 its energy differs"):
        simulate(crystal, Springs(springs.sites, 1.1), steps=20, out=tmp_path / "run.traj", resume=True, **NVT)


@pytest.mark.parametrize(("suffix", "unit"), [("traj", "frames"), ("xyz", "bytes")])
def test_resume_with_a_trajectory_that_is_too_short_is_refused(suffix, unit, crystal, springs, tmp_path):
    out = tmp_path / f"run.{suffix}"
    simulate(crystal, springs, steps=20, out=out, **NVT)
    ase.io.write(out, ase.io.read(out, ":1"))
    with pytest.raises(ValueError, match=rf"run\.{suffix} has \d+ {unit}, but the restart file expects \d+; put back"):
        simulate(crystal, springs, steps=30, out=out, resume=True, **NVT)


def test_another_file_in_place_of_the_restart_file_is_refused(crystal, springs, tmp_path):
    out = tmp_path / "run.traj"
    save_tensors(tmp_path / "run.traj.restart", {}, {"kind": "potential"})
    with pytest.raises(ValueError, match="no restart file of a simulation"):
        simulate(crystal, springs, steps=10, out=out, resume=True, **NVT)
    save_tensors(tmp_path / "run.traj.restart", {}, {"kind": "state of a simulation", "format": 99})
    with pytest.raises(ValueError, match="from another version of equinet"):
        read_run(out)


def test_nve_conserves_the_energy(potential, box, tmp_path):
    settings = {"ensemble": "nve", "temperature": 300, "steps": 100, "save_every": 5}
    coarse, fine = (
        simulate(box, EquinetCalculator(potential), timestep=dt, out=tmp_path / f"{dt}.traj", **settings)
        for dt in (1.0, 0.5)
    )
    exchanged = np.ptp(fine.potential_energy)
    assert exchanged > 0.05  # there was something to conserve
    assert np.ptp(fine.total_energy) < 0.01 * exchanged
    assert abs(fine.drift_mev_per_atom_per_ps) < 1
    # Velocity Verlet: half the timestep, a quarter of the error.
    same_time = np.ptp(coarse.total_energy[:11]) / np.ptp(fine.total_energy)
    assert 3 < same_time < 5.5


def test_nvt_samples_the_boltzmann_distribution_of_springs(crystal, springs, tmp_path):
    summary = simulate(crystal, springs, steps=6000, out=tmp_path / "run.traj", friction=0.05, **NVT)
    settled = summary.step > 200
    per_degree = units.kB * 300 / 2 * 3 * len(crystal)
    assert summary.temperature[settled].mean() == pytest.approx(300, rel=0.05)
    assert summary.potential_energy[settled].mean() == pytest.approx(per_degree, rel=0.05)


def test_npt_brings_an_ideal_gas_to_its_pressure(tmp_path):
    rng = np.random.default_rng(1)
    gas = Atoms("Ar64", positions=rng.uniform(0, 14, (64, 3)), cell=[14] * 3, pbc=True)
    settings = {"ensemble": "npt", "temperature": 1000, "timestep": 2.0, "friction": 0.05, "pressure": 0.2}
    summary = simulate(gas, Springs(0.0, stiffness=0.0), steps=4000, out=tmp_path / "run.traj", **settings)
    settled = summary.step > 1000
    volume = 65 * units.kB * 1000 / (0.2 * units.GPa)  # <V> = (N + 1) kT / p
    assert summary.volume[settled].mean() == pytest.approx(volume, rel=0.1)
    assert summary.pressure[settled].mean() == pytest.approx(0.2, rel=0.1)
    assert summary.temperature[settled].mean() == pytest.approx(1000, rel=0.05)


def test_first_momenta_have_the_temperature_and_no_drift_or_turn():
    rng = np.random.default_rng(0)
    molecules = [molecule("C6H6") for _ in range(100)]
    temperatures = []
    for atoms in molecules:
        draw_momenta(atoms, 300, rng)
        degrees = degrees_of_freedom(atoms, "nve")
        temperatures.append(2 * atoms.get_kinetic_energy() / degrees / units.kB)
        assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12
        assert np.abs(atoms.get_angular_momentum()).max() < 1e-12
    assert degrees == 30
    assert np.mean(temperatures) == pytest.approx(300, rel=0.05)


@pytest.mark.parametrize(
    ("atoms", "ensemble", "expected"),
    [
        (molecule("H2O"), "nve", 3),
        (molecule("CO2"), "nve", 4),
        (Atoms("O"), "nve", 0),
        (molecule("H2O"), "nvt", 9),
        (bulk("Al", cubic=True), "nve", 9),
    ],
)
def test_degrees_of_freedom_are_those_that_move(atoms, ensemble, expected):
    draw_momenta(atoms, 300, np.random.default_rng(0))
    assert degrees_of_freedom(atoms, ensemble) == expected


def test_a_structure_that_drifts_keeps_all_degrees_of_freedom():
    atoms = molecule("H2O")
    atoms.set_momenta(np.random.default_rng(0).standard_normal((3, 3)))
    assert degrees_of_freedom(atoms, "nve") == 9


def test_momenta_that_are_there_are_kept_and_noted(crystal, springs, tmp_path):
    crystal.set_momenta(np.full((16, 3), 0.5))
    summary = simulate(
        crystal, springs, ensemble="nve", temperature=300, timestep=1.0, steps=0, out=tmp_path / "run.traj"
    )
    np.testing.assert_array_equal(ase.io.read(tmp_path / "run.traj").get_momenta(), 0.5)
    assert "kept the momenta that the structure came with (108 K)" in summary.notes
    assert math.isnan(summary.seconds_per_step)


def test_the_callers_atoms_stay_as_they_were(crystal, springs, tmp_path):
    before = crystal.copy()
    simulate(crystal, springs, steps=10, out=tmp_path / "run.traj", **NVT)
    assert crystal == before
    assert crystal.calc is None


def test_fixed_atoms_stay_and_frames_have_raw_forces(crystal, springs, tmp_path):
    crystal.set_constraint(FixAtoms([0, 1]))
    springs.sites[0] += 0.1
    summary = simulate(crystal, springs, steps=20, out=tmp_path / "run.traj", **NVT)
    last = ase.io.read(tmp_path / "run.traj")
    np.testing.assert_array_equal(last.positions[:2], crystal.positions[:2])
    assert np.abs(last.positions[2:] - crystal.positions[2:]).min() > 0
    np.testing.assert_allclose(last.get_forces(apply_constraint=False)[0], 0.1)
    assert last.get_potential_energy() == summary.potential_energy[-1]
    assert last.info == {"step": 20, "time_fs": 20.0}


def test_progress_and_log_and_summary_tell_the_same(crystal, springs, tmp_path):
    seen = []
    summary = simulate(
        crystal,
        springs,
        steps=25,
        out=tmp_path / "run.traj",
        progress=lambda step, now: seen.append((step, now)),
        **NVT,
    )
    assert [step for step, _ in seen] == summary.step.tolist() == [0, 10, 20]
    assert [now.total_energy for _, now in seen] == summary.total_energy.tolist()
    assert [now.time_fs for _, now in seen] == summary.time_fs.tolist() == [0, 10, 20]
    lines = (tmp_path / "run.traj.log.csv").read_text().splitlines()
    assert lines[0] == "step,time_fs,potential_energy_eV,kinetic_energy_eV,temperature_K"
    assert len(lines) == 4
    assert summary.seconds_per_step > 0
    assert summary.volume is None


def test_the_seed_decides_the_run(crystal, springs, tmp_path):
    energies = [
        simulate(crystal, springs, steps=10, out=tmp_path / f"{n}.traj", seed=seed, **NVT).total_energy[-1]
        for n, seed in enumerate((1, 1, 2))
    ]
    assert energies[0] == energies[1] != energies[2]


def test_an_explosion_names_step_and_temperature_and_keeps_the_trajectory(crystal, springs, tmp_path):
    out = tmp_path / "run.traj"
    with pytest.raises(Exploded, match=r"exploded at step (\d+) .* temperature is .* K, more than 20000 K.*timestep"):
        simulate(crystal, springs, ensemble="nve", temperature=300, timestep=150.0, steps=1000, save_every=1, out=out)
    with Trajectory(out) as frames:
        assert 1 < len(frames) < 100
        assert np.isfinite(frames[-1].positions).all()


@pytest.mark.parametrize("failure", [FloatingPointError("forces are not finite"), ValueError("atoms on one spot")])
def test_a_calculator_that_fails_on_the_way_is_an_explosion(failure, crystal, springs, tmp_path):
    springs.fail_at, springs.failure = 15, failure
    with pytest.raises(Exploded, match=rf"exploded at step 13 \(13 fs\): at \d+ K, the next step failed: {failure}"):
        simulate(crystal, springs, steps=20, out=tmp_path / "run.traj", **NVT)
    assert len(ase.io.read(tmp_path / "run.traj", ":")) == 2


def test_forces_that_are_nan_are_an_explosion(crystal, springs, tmp_path):
    springs.sites[3, 0] = np.nan
    with pytest.raises(Exploded, match=r"at step 1 .* temperature is nan K"):
        simulate(crystal, springs, steps=20, out=tmp_path / "run.traj", **NVT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensemble": "nvp"}, '`ensemble` must be "nve", "nvt" or "npt", got \'nvp\''),
        ({"temperature": -1}, "`temperature` must be 0 K or more, got -1.0"),
        ({"timestep": 0}, "`timestep` must be positive .* got 0.0"),
        ({"friction": 0}, "`friction` must be positive .* got 0.0"),
        ({"ensemble": "npt", "pressure": math.inf}, "`pressure` must be a finite number of GPa, got inf"),
        ({"pressure": 1}, "`pressure` is 1.0 GPa, but nvt keeps the cell as it is; use npt"),
        ({"save_every": 0}, "`save_every` must be 1 step or more, got 0"),
        ({"seed": -1}, "`seed` must be 0 or more, got -1"),
        ({"steps": -5}, "`steps` must be 0 or more, those before a resume included, got -5"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(changes, message, crystal, springs, tmp_path):
    with pytest.raises(ValueError, match=message):
        simulate(crystal, springs, out=tmp_path / "run.traj", **{**NVT, "steps": 10, **changes})
    assert not list(tmp_path.iterdir())


def with_mass(crystal, value):
    masses = crystal.get_masses()
    masses[5] = value
    crystal.set_masses(masses)


def with_position(crystal, value):
    crystal.positions[5, 1] = value


def with_momentum(crystal, value):
    crystal.set_momenta(np.ones((len(crystal), 3)))
    crystal.arrays["momenta"][5, 2] = value


@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt"])
@pytest.mark.parametrize(
    ("spoil", "values", "sentence"),
    [
        (with_mass, [0.0, -1.0, np.nan, np.inf], r"the mass of atom 5 \(Al\) is \S+; set it with `atoms.set_masses`"),
        (with_position, [np.nan, np.inf], r"the position of atom 5 \(Al\) is not finite: \["),
        (with_momentum, [np.nan, np.inf], r"the momentum of atom 5 \(Al\) is not finite: \["),
    ],
)
def test_atoms_that_cannot_move_are_refused_before_anything_is_written(
    crystal, springs, tmp_path, spoil, values, sentence, ensemble
):
    for value in values:
        spoiled = crystal.copy()
        spoil(spoiled, value)
        with pytest.raises(ValueError, match=sentence):
            simulate(spoiled, springs, **{**NVT, "ensemble": ensemble}, steps=1, out=tmp_path / "run.traj")
    assert not list(tmp_path.iterdir())
    assert springs.evaluations == 0


def test_a_cell_that_is_not_finite_is_refused_by_the_dynamics(crystal, springs, tmp_path):
    crystal.cell[1, 1] = np.nan
    with pytest.raises(ValueError, match=r"the cell is not finite: .*; correct the structure"):
        simulate(crystal, springs, **NVT, steps=1, out=tmp_path / "run.traj")


def test_a_structure_that_does_not_fit_the_ensemble_is_refused(crystal, springs, tmp_path):
    run = {"calculator": springs, "steps": 10, "out": tmp_path / "run.traj"}
    with pytest.raises(ValueError, match="`atoms` is empty"):
        simulate(Atoms(), **run, **NVT)
    crystal.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ValueError, match=r"nvt integrator cannot hold distances fixed \(FixBondLengths\)"):
        simulate(crystal, **run, **NVT)
    with pytest.raises(ValueError, match=r"cannot keep constraints \(FixBondLengths\); remove them or use nvt"):
        simulate(crystal, **run, **{**NVT, "ensemble": "npt"})
    crystal.pbc = [True, True, False]
    with pytest.raises(ValueError, match=r"npt needs three periodic directions, `atoms.pbc` is \[True, True, False\]"):
        simulate(crystal, **run, **{**NVT, "ensemble": "npt"})


def test_an_unknown_format_or_folder_is_refused(crystal, springs, tmp_path):
    with pytest.raises(ValueError, match=r"`out` must end in \.traj, \.xyz, \.extxyz, got .*run\.dcd"):
        simulate(crystal, springs, steps=10, out=tmp_path / "run.dcd", **NVT)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere for `out`"):
        simulate(crystal, springs, steps=10, out=tmp_path / "nowhere" / "run.traj", **NVT)


def test_a_drift_needs_nve_and_two_frames(crystal, springs, tmp_path):
    nvt = simulate(crystal, springs, steps=20, out=tmp_path / "nvt.traj", **NVT)
    with pytest.raises(ValueError, match="nvt exchanges energy with a thermostat; only nve has a drift"):
        _ = nvt.drift_mev_per_atom_per_ps
    short = simulate(crystal, springs, steps=5, out=tmp_path / "nve.traj", **{**NVT, "ensemble": "nve"})
    with pytest.raises(ValueError, match="a drift needs two saved frames, got 1"):
        _ = short.drift_mev_per_atom_per_ps


@pytest.mark.parametrize(("ensemble", "steps"), [("nve", 100), ("nvt", 1000), ("npt", 100), ("nve", 0)])
def test_a_run_can_be_drawn_from_summary_or_path(ensemble, steps, crystal, springs, tmp_path):
    settings = {**NVT, "ensemble": ensemble}
    summary = simulate(crystal, springs, steps=steps, out=tmp_path / "run.traj", **settings)
    plot_run(summary, tmp_path / "summary.png", title="springs")
    plot_run(tmp_path / "run.traj", tmp_path / "path.png")
    assert (tmp_path / "summary.png").stat().st_size > 10_000
    assert (tmp_path / "path.png").read_bytes()[:4] == b"\x89PNG"


# Signals, locks, and what a run is made of


def raise_at(step, number):
    def progress(now, observation):
        if now == step:
            signal.raise_signal(number)

    return progress


@pytest.mark.parametrize("number", SIGNALS, ids=[each.name for each in SIGNALS])
def test_a_signal_stops_after_the_step_under_way_and_nothing_is_lost(number, crystal, springs, tmp_path):
    whole, parts = tmp_path / "whole.traj", tmp_path / "parts.traj"
    simulate(crystal, springs, steps=50, out=whole, **NVT)
    with pytest.raises(Interrupted, match="step 30 is in") as raised:
        simulate(crystal, springs, steps=50, out=parts, progress=raise_at(30, number), **NVT)
    assert raised.value.signal == number
    simulate(crystal, springs, steps=50, out=parts, resume=True, **NVT)
    assert_same_run(whole, parts)


def test_a_run_that_another_process_writes_is_left_alone(crystal, springs, tmp_path):
    out = tmp_path / "run.traj"
    with exclusive(RunFiles(out).lock, "x"), pytest.raises(InUseError, match=r"run\.traj is being written by process"):
        simulate(crystal, springs, steps=10, out=out, **NVT)
    assert not out.exists()
    simulate(crystal, springs, steps=10, out=out, **NVT)


@pytest.mark.parametrize("suffix", ["traj", "xyz"])
@pytest.mark.parametrize("after", ["the first state", "half a frame", "the first frame"])
def test_a_run_killed_before_its_first_frame_is_complete_can_be_resumed(
    after, suffix, crystal, springs, tmp_path, monkeypatch
):
    whole, parts = tmp_path / f"whole.{suffix}", tmp_path / f"parts.{suffix}"
    simulate(crystal, springs, steps=30, out=whole, **NVT)
    append = RunFiles.append

    def killed(self, *args):
        if after == "half a frame":
            self.trajectory.write_bytes(whole.read_bytes()[:100])
        if after == "the first frame":
            append(self, *args)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(RunFiles, "append", killed)
        patch.setattr(import_module("equinet.md.dynamics.simulate")._Run, "_keep_state", lambda self: None)
        with pytest.raises(SystemExit):
            simulate(crystal, springs, steps=30, out=parts, **NVT)
    with pytest.raises(FileExistsError, match="resume=True"):
        simulate(crystal, springs, steps=30, out=parts, **NVT)
    simulate(crystal, springs, steps=30, out=parts, resume=True, **NVT)
    assert_same_run(whole, parts)


@contextmanager
def largest_file(size):
    """Within it no file grows beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", ["traj", "xyz"])
@pytest.mark.parametrize("frames", [8, 42])  # at 42 a .traj moves its table of frames
@pytest.mark.parametrize("room", [100, 400, 1000])
def test_a_full_disk_takes_no_half_frames(room, frames, suffix, crystal, springs, tmp_path):
    whole, parts = tmp_path / f"whole.{suffix}", tmp_path / f"parts.{suffix}"
    settings = {**NVT, "save_every": 1, "resume": False}
    simulate(crystal, springs, steps=60, out=whole, **settings)
    simulate(crystal, springs, steps=frames - 1, out=parts, **settings)
    saved = ase.io.read(parts, ":")
    assert len(saved) == frames
    settings["resume"] = True
    with largest_file(parts.stat().st_size + room), pytest.raises(OSError, match=rf"parts.{suffix} cannot be written"):
        simulate(crystal, springs, steps=60, out=parts, **settings)
    assert len(ase.io.read(parts, ":")) == len(RunFiles(parts).log.read_text().splitlines()) - 1 == frames
    simulate(crystal, springs, steps=60, out=parts, **settings)
    assert_same_run(whole, parts)


def test_a_log_that_cannot_grow_takes_the_frame_back(crystal, springs, tmp_path, monkeypatch):
    out = tmp_path / "run.xyz"
    simulate(crystal, springs, steps=20, out=out, **NVT)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("csv.DictWriter.writerow", fail)
        with pytest.raises(OSError, match=r"run.xyz cannot be written: the disk is full: make room and go on"):
            simulate(crystal, springs, steps=60, out=out, resume=True, **NVT)
    assert len(ase.io.read(out, ":")) == 3


def test_files_that_cannot_be_cut_back_are_named(crystal, springs, tmp_path, monkeypatch):
    out = tmp_path / "run.xyz"
    simulate(crystal, springs, steps=20, out=out, **NVT)
    with out.open("a") as file:
        file.write("half a frame")

    def fail(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.truncate", fail)
    with pytest.raises(OSError, match=r"run.xyz cannot be written: the disk can only be read: choose another place"):
        simulate(crystal, springs, steps=60, out=out, resume=True, **NVT)


@pytest.mark.parametrize("name", ["run.traj", "run[1].xyz"])
def test_restart_files_that_killed_processes_left_half_written_are_cleared_away(name, crystal, springs, tmp_path):
    out = tmp_path / name
    simulate(crystal, springs, steps=10, out=out, **NVT)
    others = tmp_path / "other.traj.restart.1-2.partial"
    picture = out.with_name(f"{out.stem}.png.12-3.partial")
    for path in (RunFiles(out).restart.with_name(f"{name}.restart.12-3.partial"), picture, others):
        path.write_text("half")
    simulate(crystal, springs, steps=20, out=out, resume=True, **NVT)
    assert list(tmp_path.glob("*.partial")) == [others]


@pytest.mark.parametrize("frames", [1, 2, 40, 43, 44, 60])
def test_a_trajectory_is_cut_where_it_is(frames, crystal, tmp_path):
    # The table of frames moves at 1, 42 and 1764 frames; what lies before its new place cannot be given back to the disk.
    path, lengths = tmp_path / "run.traj", {}
    for n in range(60):
        crystal.positions[0, 0] = n
        with Trajectory(path, "a") as trajectory:
            trajectory.write(crystal)
        lengths[n + 1] = path.stat().st_size
    inode = path.stat().st_ino
    cut_trajectory(path, frames, lengths[frames])
    assert path.stat().st_ino == inode
    assert path.stat().st_size == (lengths[frames] if frames > 42 else lengths[60])
    with Trajectory(path, "a") as trajectory:
        crystal.positions[0, 0] = 99
        trajectory.write(crystal)
    assert [atoms.positions[0, 0] for atoms in ase.io.read(path, ":")] == [*range(frames), 99]
    cut_trajectory(path, frames + 1, path.stat().st_size)
    assert len(ase.io.read(path, ":")) == frames + 1
    with pytest.raises(ValueError, match=f"has {frames + 1} frames, but the restart file expects 99"):
        cut_trajectory(path, 99, 0)


@pytest.mark.parametrize(
    "constraint",
    [FixScaled(0, [True, False, True]), FixCartesian([0, 3], [True, True, False]), FixAtoms([1]), FixCom()],
    ids=lambda constraint: type(constraint).__name__,
)
def test_selective_dynamics_run_and_resume(constraint, crystal, springs, tmp_path):
    crystal.set_constraint(constraint)
    whole, parts = tmp_path / "whole.traj", tmp_path / "parts.traj"
    simulate(crystal, springs, steps=40, out=whole, **NVT)
    with pytest.raises(Interrupted):
        simulate(crystal, springs, steps=40, out=parts, progress=stop_at(20), **NVT)
    simulate(crystal, springs, steps=40, out=parts, resume=True, **NVT)
    assert_same_run(whole, parts)
    first, last = ase.io.read(whole, 0), ase.io.read(whole, -1)
    moved = np.abs(last.positions - first.positions).max(axis=0)
    assert (moved > 1e-3).all()
    if isinstance(constraint, FixScaled | FixCartesian):
        fixed = last.positions[0] - first.positions[0]
        np.testing.assert_allclose(fixed[constraint.mask], 0, atol=1e-12)


@pytest.mark.parametrize("suffix", ["traj", "xyz"])
def test_frames_carry_all_that_the_structure_carries_but_stale_labels(suffix, crystal, springs, tmp_path):
    crystal.set_tags(range(len(crystal)))
    crystal.set_initial_charges(np.linspace(-1, 1, len(crystal)))
    crystal.set_initial_magnetic_moments(np.arange(len(crystal)) % 2)
    crystal.set_array("residue", np.arange(len(crystal)) // 4)
    crystal.set_array("REF_forces", np.ones((len(crystal), 3)))
    crystal.info |= {"name": "fcc", "setup": 3, "REF_energy": -1.0}
    out = tmp_path / f"run.{suffix}"
    summary = simulate(crystal, springs, steps=20, out=out, **NVT)
    stale = "left out of the frames, as labels of the first structure: REF_energy, REF_forces"
    lost = [".traj cannot hold the arrays residue; an .xyz can"] if suffix == "traj" else []
    assert summary.notes == (stale, *lost)
    for frame in ase.io.read(out, ":"):
        assert (frame.info["name"], frame.info["setup"]) == ("fcc", 3)
        for name in ("tags", "initial_charges", "initial_magmoms", *([] if lost else ["residue"])):
            np.testing.assert_allclose(frame.arrays[name], crystal.arrays[name], rtol=0, atol=1e-8)
        assert not {"REF_energy", "REF_forces"} & {*frame.info, *frame.arrays}
