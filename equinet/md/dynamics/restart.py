"""Files of a run: trajectory, log and restart file, written and read back."""

from __future__ import annotations

import csv
import glob
import io
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from equinet.runs.files import explained, remove_leftovers, sync
from equinet.tensorfile import read_tensors, save_tensors

from .ensembles import Settings
from .record import Observation, Summary
from .trajectory import append_frame, cut_trajectory

KIND = "state of a simulation"
FORMAT = 2  # since then with a checksum
SUFFIXES = (".traj", ".xyz", ".extxyz")
# Arrays that ASE's .traj files have a place for.
IN_TRAJ = ("numbers", "positions", "momenta", "masses", "tags", "initial_charges", "initial_magmoms")
COLUMNS = {
    "step": "step",
    "time_fs": "time_fs",
    "potential_energy": "potential_energy_eV",
    "kinetic_energy": "kinetic_energy_eV",
    "temperature": "temperature_K",
    "volume": "volume_A3",
    "pressure": "pressure_GPa",
}


@dataclass(frozen=True)
class State:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        settings: Settings of the run.
        fingerprint: Hash of the initial structure.
        step: Steps done.
        positions, momenta, cell: ``(atoms, 3)`` Å, ``(atoms, 3)`` in ASE's unit, ``(3, 3)`` Å.
        energy, forces: Results of the calculator at this step, eV and ``(atoms, 3)`` eV/Å, by which another calculator is noticed.
        rng: State of the random numbers.
        barostat: Its variables.
        degrees_of_freedom: That share the kinetic energy.
        wall_seconds: Spent so far.
        frames, trajectory_bytes, log_bytes: Length of trajectory and log at this step.
        notes: Notes for the user.
    """

    settings: Settings
    fingerprint: str
    step: int
    positions: NDArray[np.float64]
    momenta: NDArray[np.float64]
    cell: NDArray[np.float64]
    energy: float
    forces: NDArray[np.float64]
    rng: dict[str, Any]
    barostat: dict[str, float]
    degrees_of_freedom: int
    wall_seconds: float
    frames: int
    trajectory_bytes: int
    log_bytes: int
    notes: tuple[str, ...]


class RunFiles:
    """Trajectory OUT, log OUT.log.csv and restart file OUT.restart.

    A frame is appended first, then its line in the log, then the restart file is replaced, which says how long the
    other two are. Whenever the process dies, :meth:`cut_back` can therefore make the three agree.

    Args:
        out: Trajectory, ``.traj`` or extended XYZ (``.xyz``, ``.extxyz``).

    Raises:
        ValueError: If ``out`` ends in something else.
        FileNotFoundError: If its folder is not there.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.trajectory = Path(out)
        self.log = self.trajectory.with_name(self.trajectory.name + ".log.csv")
        self.restart = self.trajectory.with_name(self.trajectory.name + ".restart")
        self.lock = self.trajectory.with_name(f".{self.trajectory.name}.lock")
        if self.trajectory.suffix not in SUFFIXES:
            raise ValueError(f"`out` must end in {', '.join(SUFFIXES)}, got {self.trajectory}")
        if not self.trajectory.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {self.trajectory.parent} for `out`; make it first")
        self.frames = 0

    def refuse_existing(self) -> None:
        """Raise FileExistsError if any of the three files is there."""
        there = [path.name for path in (self.trajectory, self.log, self.restart) if path.exists()]
        if there:
            raise FileExistsError(
                f"{', '.join(there)} in {self.trajectory.parent} would be overwritten; continue that run with "
                "resume=True, or give `out` another name"
            )

    def cannot_hold(self, atoms: Atoms) -> list[str]:
        """Names of arrays of a structure that the format of the trajectory leaves out."""
        return [] if self.trajectory.suffix != ".traj" else [name for name in atoms.arrays if name not in IN_TRAJ]

    def append(self, frame: Atoms, observation: Observation) -> None:
        """Add a frame to the trajectory and a line to the log, all or nothing.

        Raises:
            OSError: If they cannot be written; names the trajectory and the remedy.
        """
        before = self.lengths()
        try:
            self._append_frame(frame)
            self._append_line(observation)
        except OSError as error:
            with suppress(OSError, ValueError):
                self._cut(**before)  # a full disk takes half a frame
            raise explained(error, self.trajectory) from error
        self.frames += 1

    def _append_frame(self, frame: Atoms) -> None:
        if self.trajectory.suffix == ".traj":
            append_frame(self.trajectory, frame)
            return
        text = io.StringIO()
        ase.io.write(text, frame, format="extxyz")
        with self.trajectory.open("ab") as file:
            file.write(text.getvalue().encode())  # at once, so that a kill leaves no half of it

    def _append_line(self, observation: Observation) -> None:
        values = {COLUMNS[name]: value for name, value in asdict(observation).items() if value is not None}
        with self.log.open("a", newline="") as file:
            writer = csv.DictWriter(file, values)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(values)

    def lengths(self) -> dict[str, int]:
        """Length of trajectory and log now, as the fields of :class:`State`."""
        return {
            "frames": self.frames,
            "trajectory_bytes": _size(self.trajectory),
            "log_bytes": _size(self.log),
        }

    def cut_back(self, state: State) -> None:
        """Drop from trajectory and log what was written after ``state``.

        Raises:
            ValueError: If they end before it.
            OSError: If they cannot be changed; names the trajectory and the remedy.
        """
        try:
            self._cut(state.frames, state.trajectory_bytes, state.log_bytes)
        except OSError as error:
            raise explained(error, self.trajectory) from error
        self.frames = state.frames

    def _cut(self, frames: int, trajectory_bytes: int, log_bytes: int) -> None:
        if self.trajectory.suffix == ".traj":
            cut_trajectory(self.trajectory, frames, trajectory_bytes)
        else:
            _cut_bytes(self.trajectory, trajectory_bytes)
        _cut_bytes(self.log, log_bytes)

    def remove_leftovers(self) -> None:
        """Remove restart files, and pictures beside them, that killed processes left half written."""
        for path in (self.restart, self.trajectory.with_suffix(".png")):
            remove_leftovers(path.parent, glob.escape(path.name))

    def save_state(self, state: State) -> None:
        """Replace the restart file, all or nothing, once the frames that it counts are on the disk."""
        for path in (self.trajectory, self.log):
            if path.exists():
                sync(path)
        values = {name: getattr(state, name) for name in State.__dataclass_fields__}
        arrays = {name: values.pop(name) for name in ("positions", "momenta", "cell", "forces")}
        header = {"kind": KIND, "format": FORMAT, **values, "settings": asdict(state.settings)}
        save_tensors(self.restart, {name: torch.tensor(array) for name, array in arrays.items()}, header)

    def read_state(self) -> State:
        """The state in the restart file.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged, something else, or from another version of equinet.
        """
        if not self.restart.exists():
            raise FileNotFoundError(f"there is no {self.restart}, so nothing to resume; start with resume=False")
        tensors, header = read_tensors(self.restart)
        if header.pop("kind", None) != KIND:
            raise ValueError(f"{self.restart} is an equinet file, but no restart file of a simulation")
        if header.pop("format", None) not in (1, FORMAT):
            raise ValueError(f"{self.restart} is from another version of equinet; finish the run with that version")
        header["settings"] = Settings(**header["settings"])
        header["notes"] = tuple(header["notes"])
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        return State(**header, **arrays)


def read_run(out: str | os.PathLike[str]) -> Summary:
    """Read the summary that :func:`simulate` returned for the trajectory ``out``; of an unfinished run as far as it is saved.

    Raises:
        FileNotFoundError: If log or restart file is missing.
        ValueError: If the restart file is damaged.
    """
    files = RunFiles(out)
    state = files.read_state()
    table = np.loadtxt(files.log, delimiter=",", skiprows=1, ndmin=2, max_rows=state.frames)
    with files.log.open() as file:
        names = file.readline().strip().split(",")
    columns: dict[str, Any] = {
        name: table[:, names.index(title)] if title in names else None for name, title in COLUMNS.items()
    }
    columns["step"] = columns["step"].astype(np.int64)
    return Summary(
        settings=state.settings,
        atoms=len(state.positions),
        seconds_per_step=state.wall_seconds / state.step if state.step else float("nan"),
        notes=state.notes,
        **columns,
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cut_bytes(path: Path, length: int) -> None:
    found = _size(path)
    if found < length:
        raise ValueError(f"{path} has {found} bytes, but the restart file expects {length}; put back the right file")
    if found > length:
        os.truncate(path, length)
