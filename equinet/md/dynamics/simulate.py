"""Molecular dynamics that can be stopped at any moment and continued to the last bit."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from ase.io.jsonio import encode

from equinet.runs.interrupt import GentleInterrupt, signal_of
from equinet.runs.lock import exclusive

from .ensembles import (
    Ensemble,
    Settings,
    barostat_state,
    degrees_of_freedom,
    draw_momenta,
    integrator,
    require_suitable,
    restore_barostat,
)
from .record import Observation, Summary, labels_in, make_frame
from .restart import RunFiles, State, read_run

Progress = Callable[[int, Observation], None]

# A temperature this many times the one asked for (or 1000 K, if that is more) is no longer physics.
EXPLODED = 20.0

# A slow run loses no more than this when it is killed between two saved frames.
SECONDS_BETWEEN_RESTARTS = 60.0

# Of a fast run most restart files would be overwritten before anyone could need them, and writing one takes longer than a step.
# So it waits for this long, or for the end, whatever that is; if the process is killed, at most so much is computed again.
SECONDS_BETWEEN_WRITES = 1.0

# More than any rounding, also in float32 on a GPU, and less than any other model would differ.
SAME_ENERGY = 1e-4  # eV per atom
SAME_FORCE = 2e-3  # eV/Å


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or another signal stopped the run; the message says how to go on.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class Exploded(FloatingPointError):
    """The run became unphysical; the message says when, and what usually causes it."""


def simulate(
    atoms: Atoms,
    calculator: BaseCalculator,
    *,
    ensemble: Ensemble,
    temperature: float,
    timestep: float,
    steps: int,
    out: str | os.PathLike[str],
    friction: float = 0.01,
    pressure: float = 0.0,
    save_every: int = 10,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Run molecular dynamics with any ASE calculator.

    The first velocities are drawn from the Maxwell-Boltzmann distribution, unless ``atoms`` has momenta already: these
    are kept, and ``Summary.notes`` says so. Next to the trajectory there are OUT.log.csv, with one line per frame, and
    OUT.restart, from which ``resume=True`` continues. Run and resume give bit for bit the trajectory of a run that was
    never stopped, if the calculator gives the same numbers for the same structure (on one CPU thread equinet's does).

    Args:
        atoms: The structure to begin with, also when resuming. It is copied; constraints are kept.
        calculator: Evaluates energy and forces, for npt also the stress.
        ensemble: ``"nve"``, ``"nvt"`` or ``"npt"``; see :class:`Settings`. A molecule in nvt wanders and turns, as the
            thermostat acts on every degree of freedom; ``ase.constraints.FixCom`` holds it.
        temperature: Temperature in K. In nve that of the first velocities only; from a relaxed structure about half of it becomes
            potential energy.
        timestep: Timestep in fs. With hydrogen 0.5 to 1, else 1 to 2.
        steps: Steps from the start to the end of the run, those before a resume included.
        out: Trajectory, ``.traj`` or extended XYZ.
        friction: Friction of the thermostat, in 1/fs.
        pressure: Pressure in GPa; npt only.
        save_every: Steps from one frame to the next; frames are at its multiples, step 0 included.
        seed: Seed of the random numbers.
        resume: Continue the run that is in ``out``, with the same settings.
        progress: Called after every saved frame with the step and what was observed.

    Returns:
        The whole run, also the part before a resume.

    Raises:
        FileExistsError: If ``out`` is there and ``resume`` is not set; nothing is overwritten.
        FileNotFoundError: If the folder of ``out`` is not there, or there is nothing to resume.
        ValueError: If a setting cannot work, or on resume is not what the run began with.
        InUseError: If another process writes to ``out``; names it.
        OSError: If the disk is full or cannot be written; the run can be resumed.
        Exploded: If temperature or energy go out of bounds; the trajectory stays, as far as it went.
        Interrupted: On Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, after the step under way; says how to continue.
    """
    settings = Settings(
        ensemble=ensemble,
        temperature=float(temperature),
        timestep=float(timestep),
        friction=float(friction),
        pressure=float(pressure),
        save_every=int(save_every),
        seed=int(seed),
    )
    require_steps(steps)
    require_suitable(atoms, settings)
    files = RunFiles(out)
    run = _Run(atoms, calculator, settings, files)
    with exclusive(files.lock, str(files.trajectory)), GentleInterrupt(lambda: None) as stop:
        files.remove_leftovers()
        try:
            if resume:
                run.resume(steps)
            else:
                run.begin(progress)
            run.advance(steps, progress, stop)
        except KeyboardInterrupt as interrupt:
            run.write_state()
            raise Interrupted(run.farewell(), signal_of(interrupt)) from interrupt
        finally:
            run.write_state()
    return read_run(out)


def require_steps(steps: int) -> None:
    """Raise ValueError if a run cannot have so many steps."""
    if steps < 0:
        raise ValueError(f"`steps` must be 0 or more, those before a resume included, got {steps}")


class _Run:
    """A run in memory: the atoms as they move, and what must not get lost."""

    def __init__(self, atoms: Atoms, calculator: BaseCalculator, settings: Settings, files: RunFiles) -> None:
        self.settings = settings
        self.files = files
        self.fingerprint = fingerprint(atoms)
        self.atoms = atoms.copy()
        self.atoms.calc = calculator
        self.rng = np.random.default_rng(settings.seed)
        self.step = 0
        self.wall_seconds = 0.0
        self.notes: tuple[str, ...] = ()
        self.stale = labels_in(atoms)
        self._unwritten: State | None = None
        self._last_write = -math.inf

    def begin(self, progress: Progress | None) -> None:
        """Set momenta, write step 0."""
        self.files.refuse_existing()
        if self.atoms.get_momenta().any():
            self.notes = (f"kept the momenta that the structure came with ({self.atoms.get_temperature():.0f} K)",)
        else:
            draw_momenta(self.atoms, self.settings.temperature, self.rng)
        if self.stale:
            self.notes += (f"left out of the frames, as labels of the first structure: {', '.join(self.stale)}",)
        if lost := [name for name in self.files.cannot_hold(self.atoms) if name not in self.stale]:
            self.notes += (f"{self.files.trajectory.suffix} cannot hold the arrays {', '.join(lost)}; an .xyz can",)
        self.degrees_of_freedom = degrees_of_freedom(self.atoms, self.settings.ensemble)
        self.dynamics = integrator(self.atoms, self.settings, self.rng)
        self._unwritten = self._state()
        self.write_state()  # before all else, so that there is something to resume, whatever happens
        self._begin_trajectory(progress)

    def _begin_trajectory(self, progress: Progress | None) -> None:
        observation = self._record()
        self._keep_state()
        if progress is not None:
            progress(0, observation)

    def resume(self, steps: int) -> None:
        """Take up the state in the restart file.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If settings, structure or calculator differ, or more than ``steps`` are done already.
        """
        state = self.files.read_state()
        self._require_same_run(state, steps)
        self.atoms.set_cell(state.cell, scale_atoms=False, apply_constraint=False)
        self.atoms.set_positions(state.positions, apply_constraint=False)
        self.atoms.set_momenta(state.momenta, apply_constraint=False)
        self._require_same_calculator(state)
        self.files.cut_back(state)
        self.dynamics = integrator(self.atoms, self.settings, self.rng)
        restore_barostat(self.dynamics, state.barostat)
        self.rng.bit_generator.state = state.rng
        self.degrees_of_freedom = state.degrees_of_freedom
        self.step, self.wall_seconds, self.notes = state.step, state.wall_seconds, state.notes
        if not state.frames:  # the run ended before its first frame
            self._begin_trajectory(None)

    def advance(self, steps: int, progress: Progress | None, stop: GentleInterrupt) -> None:
        """Go on to step ``steps``, saving on the way.

        Raises:
            Exploded: If a step fails or ends beyond all bounds.
            StopRequested: If a signal asked to stop; the last step is kept.
        """
        last_save = last_step = time.perf_counter()
        while self.step < steps:
            self._one_step()
            due = self.step % self.settings.save_every == 0
            observation = self._record() if due else None
            now = time.perf_counter()
            self.wall_seconds += now - last_step
            last_step = now
            if due or self.step == steps or now - last_save > SECONDS_BETWEEN_RESTARTS:
                self._keep_state()
                last_save = now
            if observation is not None and progress is not None:
                progress(self.step, observation)
            if stop.requested is not None:
                self._keep_state()
                stop.check()

    def farewell(self) -> str:
        """Message for a user who stopped the run."""
        if not self.files.restart.exists():
            return "interrupted before anything was saved"
        return (
            f"interrupted; step {self.files.read_state().step} is in {self.files.restart}. "
            "Continue with the same call and `resume=True`"
        )

    def _one_step(self) -> None:
        before = self._temperature()
        try:
            self.dynamics.step()
        except (FloatingPointError, ValueError) as error:
            # No neighbour list or no finite forces: in the middle of a run, atoms are where none should be.
            raise Exploded(self._explosion(f"at {before:.0f} K, the next step failed: {error}")) from error
        self.step += 1
        limit = EXPLODED * max(self.settings.temperature, 1000.0)
        temperature = self._temperature()
        if not temperature < limit:
            raise Exploded(self._explosion(f"the temperature is {temperature:.4g} K, more than {limit:.0f} K"))

    def _explosion(self, what: str) -> str:
        return (
            f"the run exploded at step {self.step} ({self.step * self.settings.timestep:g} fs): {what}. "
            f"{self.files.trajectory} holds it up to then. Usual causes: `timestep` {self.settings.timestep:g} fs is "
            "too long, the first structure is far from equilibrium (relax it), or the run left the training data"
        )

    def _temperature(self) -> float:
        kinetic = self.atoms.get_kinetic_energy()
        return 2 * kinetic / (units.kB * self.degrees_of_freedom) if self.degrees_of_freedom else 0.0

    def _record(self) -> Observation:
        """Append the atoms as they are now to trajectory and log."""
        npt = self.settings.ensemble == "npt"
        stress = self.atoms.get_stress(voigt=False, include_ideal_gas=True) if npt else None
        observation = Observation(
            step=self.step,
            time_fs=self.step * self.settings.timestep,
            potential_energy=float(self.atoms.get_potential_energy()),
            kinetic_energy=float(self.atoms.get_kinetic_energy()),
            temperature=float(self._temperature()),
            volume=float(self.atoms.get_volume()) if npt else None,
            pressure=None if stress is None else float(-np.trace(stress) / 3 / units.GPa),
        )
        self.files.append(make_frame(self.atoms, observation, self.stale), observation)
        return observation

    def write_state(self) -> None:
        """Bring the restart file up to the last saved frame."""
        if self._unwritten is not None:
            self.files.save_state(self._unwritten)
            self._unwritten, self._last_write = None, time.perf_counter()

    def _keep_state(self) -> None:
        """Remember where the run is, for the restart file, and write that one if the last time is long ago."""
        self._unwritten = self._state()
        if time.perf_counter() - self._last_write > SECONDS_BETWEEN_WRITES:
            self.write_state()

    def _state(self) -> State:
        return State(
            settings=self.settings,
            fingerprint=self.fingerprint,
            step=self.step,
            positions=self.atoms.get_positions(),
            momenta=self.atoms.get_momenta(),
            cell=self.atoms.cell[:].copy(),
            energy=float(self.atoms.get_potential_energy()),
            forces=self.atoms.get_forces(),
            rng=dict(self.rng.bit_generator.state),
            barostat=barostat_state(self.dynamics),
            degrees_of_freedom=self.degrees_of_freedom,
            wall_seconds=self.wall_seconds,
            notes=self.notes,
            **self.files.lengths(),
        )

    def _require_same_run(self, state: State, steps: int) -> None:
        """Refuse what would make the second half of the trajectory another experiment than the first."""
        now, then = asdict(self.settings), asdict(state.settings)
        changes = [f"`{name}` was {then[name]} and is {now[name]}" for name in now if now[name] != then[name]]
        if changes:
            raise ValueError(
                f"{self.files.trajectory} cannot be resumed with other settings: {'; '.join(changes)}. Set them back, "
                "or start another run from its last frame"
            )
        if state.fingerprint != self.fingerprint:
            raise ValueError(
                f"`atoms` is not the structure that {self.files.trajectory} began with (positions, cell, elements, "
                "masses, momenta and constraints count); pass the one it began with"
            )
        if steps < state.step:
            raise ValueError(
                f"`steps` is {steps}, but {self.files.trajectory} is already at {state.step}; ask for more"
            )

    def _require_same_calculator(self, state: State) -> None:
        energy = abs(self.atoms.get_potential_energy() - state.energy) / len(self.atoms)
        force = np.abs(self.atoms.get_forces() - state.forces).max()
        if not (energy < SAME_ENERGY and force < SAME_FORCE):
            raise ValueError(
                f"`calculator` is not the one of {self.files.trajectory}: at step {state.step} its energy differs by "
                f"{energy:.2g} eV/atom and a force by {force:.2g} eV/Å; use the same model in the same precision"
            )


def fingerprint(atoms: Atoms) -> str:
    """Hash of all that a run takes from its first structure."""
    digest = hashlib.sha256()
    arrays = (atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc, atoms.get_masses(), atoms.get_momenta())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(encode([constraint.todict() for constraint in atoms.constraints]).encode())
    return digest.hexdigest()
