"""ASE trajectories (``.traj``): frames added and cut off where they are, without a copy."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from ase import Atoms
from ase.io.trajectory import Trajectory

# ASE's ULM format: a magic word and a tag, then three int64, little-endian: version, number of frames, place of the table of
# frames. Frames and tables follow in the order in which they were written.
COUNT_AT, TABLE_AT = 32, 40


def append_frame(path: Path, frame: Atoms) -> None:
    """Add a frame to a trajectory, which is made if it is not there.

    Raises:
        OSError: If it cannot be written; nothing is written later.
    """
    trajectory = Trajectory(path, "a")
    try:
        trajectory.write(frame)  # the number of frames comes last, so half a frame does not count
        trajectory.close()
    except BaseException:
        # Closed by ASE it would count the half frame, and by the garbage collector write the rest of its buffer.
        trajectory.backend.fd.raw.close()
        raise


def cut_trajectory(path: Path, frames: int, length: int) -> None:
    """Drop frames from the end of a trajectory.

    Args:
        path: Trajectory; it may be missing if ``frames`` is 0.
        frames: Frames to keep.
        length: Bytes that the file had when it had so many frames. What follows is given back to the disk unless the table of
            frames has moved there since.

    Raises:
        ValueError: If the trajectory has fewer frames, or none that can be read.
    """
    if not frames:
        path.unlink(missing_ok=True)
        return
    found = _frames_of(path)
    if found < frames:
        raise ValueError(f"{path} has {found} frames, but the restart file expects {frames}; put back the right file")
    with path.open("r+b") as file:
        file.seek(COUNT_AT)
        file.write(struct.pack("<q", frames))
        file.flush()
        os.fsync(file.fileno())
        file.seek(TABLE_AT)
        (table,) = struct.unpack("<q", file.read(8))
        if table < length:
            file.truncate(length)


def _frames_of(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with Trajectory(path) as trajectory:
            return len(trajectory)
    except (OSError, ValueError, TypeError, KeyError, IndexError, struct.error) as error:
        raise ValueError(f"{path} is no trajectory that can be read ({error}); put back the right file") from error
