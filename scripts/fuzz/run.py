"""Feed equinet with damaged and hostile input and print what becomes of it.

``python scripts/fuzz/run.py --kind eqn --cases 2000 --seed 0``; without ``--kind`` all kinds, as many cases each as stand in
``KINDS``. A case is decided by kind, seed and number: ``--kind eqn --seed 0 --only 17 --keep DIR`` runs one again and keeps its file.
Linux only, since it bounds each case's memory.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork has one thread

import commands
import frames
import headers
import models
import pickles
import settings
from child import CLEAR, OUTCOMES, RIGHT, Outcome, run_case

# Maker of a kind: given a folder for what all cases share, a function from a random source and a file to write to a case.
Case = Callable[[], object]
Maker = Callable[[Path], Callable[[random.Random, Path], Case]]
KINDS: dict[str, tuple[Maker, str, int]] = {
    "eqn": (models.damaged_files, "model.eqn", 2000),
    "header": (headers.edited_headers, "model.eqn", 2000),
    "pickle": (pickles.pickles, "mace.model", 500),
    "frames": (frames.damaged_frames, "frames.xyz", 2000),
    "toml": (settings.configurations, "run.toml", 1000),
    "command": (commands.command_lines, "words", 500),
}


def run_kind(
    kind: str, cases: range, seed: int, *, seconds: int, gigabytes: float, keep: Path | None
) -> dict[int, Outcome]:
    """Outcomes of a kind by number of the case."""
    maker, name, _ = KINDS[kind]
    found, began = {}, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="equinet-fuzz-") as folder:
        shared, place = Path(folder, "shared"), Path(folder, "case")
        shared.mkdir()
        make = maker(shared)
        for number in cases:
            place.mkdir()
            random_source = random.Random(f"{kind} {seed} {number}")
            case = make(random_source, place / name)
            found[number] = run_case(case, place / name, seconds=seconds, bytes_more=int(gigabytes * 2**30))
            if keep is not None and (place / name).is_file():
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{kind}-{seed}-{number}{Path(name).suffix}").write_bytes((place / name).read_bytes())
            _remove(place)
            if sys.stderr.isatty():
                print(f"\r{kind} {number} {time.monotonic() - began:.0f} s", end="", file=sys.stderr)
    return found


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()


def table(found: dict[str, dict[int, Outcome]]) -> str:
    """Cases by kind and outcome, at most 80 columns wide."""
    lines = [f"{'kind':8}{'cases':>7}" + "".join(f"{outcome:>{max(9, 2)}}" for outcome in OUTCOMES)]
    for kind, outcomes in found.items():
        counts = [sum(each.kind == outcome for each in outcomes.values()) for outcome in OUTCOMES]
        lines.append(f"{kind:8}{len(outcomes):7}" + "".join(f"{count:9}" for count in counts))
    return "\n".join(lines)


def faults(kind: str, outcomes: dict[int, Outcome], *, shown: int = 4) -> list[str]:
    """What went wrong, each fault once with the numbers of the first cases."""
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, outcome in outcomes.items():
        if outcome.kind not in (RIGHT, CLEAR):
            alike[outcome.kind, outcome.what].append(number)
    lines = []
    for (name, what), numbers in sorted(alike.items(), key=lambda item: (OUTCOMES.index(item[0][0]), -len(item[1]))):
        lines.append(f"{kind} {name} x{len(numbers)}: {what}")
        first = " ".join(map(str, numbers[:shown]))
        lines.append(f"    cases {first}: {outcomes[numbers[0]].message[:160]!r}"[:240])
    return lines


def main() -> None:
    """Run the cases and print table and faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, action="append", help="repeatable; all by default")
    parser.add_argument("--cases", type=int, help="number of cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of the one case to run")
    parser.add_argument("--keep", type=Path, help="folder to keep the files in")
    parser.add_argument("--seconds", type=int, default=30, help="wall time of a case")
    parser.add_argument("--gigabytes", type=float, default=4.0, help="memory of a case beyond what the imports take")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of numbers that overflow
    found = {}
    for kind in given.kind or KINDS:
        count = KINDS[kind][2] if given.cases is None else given.cases
        cases = range(count) if given.only is None else range(given.only, given.only + 1)
        began = time.monotonic()
        found[kind] = run_kind(
            kind, cases, given.seed, seconds=given.seconds, gigabytes=given.gigabytes, keep=given.keep
        )
        print("\n".join(faults(kind, found[kind])))
        print(f"{kind}: {time.monotonic() - began:.0f} s, seed {given.seed}\n", flush=True)
        if given.only is not None:
            print(found[kind][given.only])
    print(table(found))
    if any(each.kind not in (RIGHT, CLEAR) for outcomes in found.values() for each in outcomes.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
