"""Try the doctor on right data sets, where it must be silent, and on spoilt copies, where it must find the fault.

    python scripts/doctor/run.py FOLDER

FOLDER holds the published sets, by default that of EQUINET_DATA. Nothing is written. The exit code is 1 if a right set is refused
or a fault is not found.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from spoil import SPOILINGS

from equinet.datasets import read_frames
from equinet.datasets.doctor import diagnose
from equinet.tables import Column, Table, as_text

# Sets in which energies, forces and stresses of all kinds of matter are; of the largest, a part.
SPOILT = {
    "3bpa/train_300K.xyz.gz": 100,
    "acac/train_300K.xyz.gz": 100,
    "rmd17/aspirin/train_01.xyz.gz": 100,
    "rmd17/ethanol/train_01.xyz.gz": 100,
    "rmd17/benzene/train_01.xyz.gz": 100,
    "water_pbe0ts/test.xyz.gz": 80,
    "tiny/ethanol_gfn2.xyz": 100,
    "s66x8/s66x8_wb97x_631gd.xyz.gz": 264,
    "mlearn/Si_train.xyz.gz": 100,
    "mlearn/Mo_train.xyz.gz": 100,
    "mlearn/Li_train.xyz.gz": 100,
    "mlearn/Cu_test.xyz.gz": 100,
    "nbmotaw/test_unary_binary.xyz.gz": 180,
    "mattersim_bench/mptrj-random-1k.xyz.gz": 300,
    "phonon/AlN-mp661_rd.xyz.gz": 100,
    "phonon/NaCl-rd_rd.xyz.gz": 100,
}


def main() -> int:
    """Run as the description says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default=os.environ.get("EQUINET_DATA"), type=Path)
    parser.add_argument("--only", default="", help="part of the name of the sets to spoil")
    parser.add_argument("--spoiling", default="", help="part of the name of the spoilings")
    parser.add_argument("--seed", default=0, type=int)
    options = parser.parse_args()
    if options.folder is None:
        parser.error("say where the sets are, or set EQUINET_DATA")
    failures = right(options.folder, options.only) if not options.spoiling else 0
    failures += spoilt(options.folder, options.only, options.spoiling, options.seed)
    print(f"{failures} failures")
    return int(failures > 0)


def right(folder: Path, only: str) -> int:
    """Judge all sets as they are."""
    rows, failures = [], 0
    for path in sorted(folder.rglob("*.xyz*")):
        name = str(path.relative_to(folder))
        if only not in name:
            continue
        frames = read_frames(path)
        begin = time.perf_counter()
        found = diagnose({name: frames})
        seconds = time.perf_counter() - begin
        failures += any(finding.severity == "refuse" for finding in found)
        rows.append(
            (
                name,
                str(len(frames)),
                f"{seconds:.2f}",
                ", ".join(f"{f.name} ({f.severity}, {f.count})" for f in found) or "-",
            )
        )
    columns = [Column("right set"), Column("frames", number=True), Column("s", number=True), Column("said")]
    print(as_text([Table("", columns, rows)], 200))
    return failures


def spoilt(folder: Path, only: str, spoiling: str, seed: int) -> int:
    """Judge spoilt copies."""
    rows, failures, tried = [], 0, 0
    for name, most in SPOILT.items():
        if only not in name or not (folder / name).exists():
            continue
        frames = read_frames(folder / name)
        frames = frames[:: -(-len(frames) // most)]
        for each in SPOILINGS:
            if spoiling not in each.name or not each.applies(frames):
                continue
            tried += 1
            found = diagnose(each.spoil(frames, np.random.default_rng(seed)))
            names = {finding.name for finding in found}
            missed = not names & set(each.expected)
            failures += missed
            said = ", ".join(f"{f.name}{'' if f.severity == 'refuse' else ' (warn)'}" for f in found)
            if missed:
                print(f"missed: {name}, {each.name}: {said or 'nothing'}", flush=True)
            rows.append((name.split(".")[0], each.name, "MISSED" if missed else "found", said or "-"))
    columns = [Column("set"), Column("spoilt by"), Column(""), Column("said", fold=True)]
    print(as_text([Table("", columns, rows)], 160))
    print(f"{tried} spoilt copies by {len(SPOILINGS)} faults")
    return failures


if __name__ == "__main__":
    raise SystemExit(main())
