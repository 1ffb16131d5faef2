"""Disturb trainings and simulations in every way that a machine knows, and print whether anything was lost.

``python scripts/faults/run.py --what kills-training --cases 100 --seed 0``; without ``--what`` all campaigns, as many cases each as
stand in ``CAMPAIGNS``. A case is decided by campaign, seed and number, but for the moments that the machine's speed decides:
``--only 17 --keep DIR`` runs one again and keeps its files. Linux only.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork has one thread

import disk
import kills
import nve
import pairs
import signals
import threads

CAMPAIGNS = {
    "kills-training": (kills.kills_training, 100),
    "kills-dynamics": (kills.kills_dynamics, 50),
    "signals": (signals.signals, 20),
    "full-disk": (disk.full_disk, 10),
    "pairs": (pairs.pairs, 10),
    "threads": (threads.threads, 20),
    "nve": (nve.nve, 1),
}


def run_campaign(what: str, cases: range, seed: int, keep: Path | None) -> dict[int, kills.Found]:
    """What each case of a campaign found."""
    maker, _ = CAMPAIGNS[what]
    found, began = {}, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="equinet-faults-") as folder:
        shared, place = Path(folder, "shared"), Path(folder, "case")
        shared.mkdir()
        case = maker(shared)
        for number in cases:
            place.mkdir()
            found[number] = case(random.Random(f"{what} {seed} {number}"), place, number)
            if keep is not None:
                shutil.copytree(place, keep / f"{what}-{seed}-{number}")
            shutil.rmtree(place)
            if sys.stderr.isatty():
                print(f"\r{what} {number} {time.monotonic() - began:.0f} s", end="", file=sys.stderr)
    return found


def faults(what: str, found: dict[int, kills.Found]) -> list[str]:
    """What went wrong, each complaint once with the numbers of its first cases."""
    alike: dict[str, list[int]] = defaultdict(list)
    for number, each in found.items():
        for complaint in each.complaints:
            alike[complaint].append(number)
    return [f"{what} x{len(numbers)}: {each}\n    cases {numbers[:6]}"[:400] for each, numbers in alike.items()]


def events(found: dict[int, kills.Found]) -> list[str]:
    """What happened, counted over all cases, in lines of at most 76 characters."""
    total = sum((each.events for each in found.values()), Counter())
    lines, line = [], ""
    for text in (f"{count} {event}" for event, count in sorted(total.items()) if count):
        if line and len(line) + len(text) > 74:
            lines.append(line)
            line = ""
        line += f"{'; ' if line else ''}{text}"
    return [*lines, line]


def main() -> None:
    """Run the campaigns and print faults and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=CAMPAIGNS, action="append", help="repeatable; all by default")
    parser.add_argument("--cases", type=int, help="number of cases of each campaign")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of the one case to run")
    parser.add_argument("--keep", type=Path, help="folder to keep the files of the cases in")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    table = [f"{'campaign':16}{'cases':>7}{'right':>7}{'wrong':>7}{'seconds':>9}"]
    lost = 0
    for what in given.what or CAMPAIGNS:
        count = CAMPAIGNS[what][1] if given.cases is None else given.cases
        cases = range(given.first, given.first + count) if given.only is None else range(given.only, given.only + 1)
        began = time.monotonic()
        found = run_campaign(what, cases, given.seed, given.keep)
        wrong = sum(bool(each.complaints) for each in found.values())
        lost += wrong
        if complaints := faults(what, found):
            print("\n".join(complaints), flush=True)
        seconds = time.monotonic() - began
        table.append(f"{what:16}{len(found):7}{len(found) - wrong:7}{wrong:7}{seconds:9.0f}")
        table += [f"    {line}" for line in events(found)]
        print("\n".join(table[-1 - len(events(found)) :]), flush=True)
    print(f"\nseed {given.seed}\n" + "\n".join(table))
    if lost:
        sys.exit(1)


if __name__ == "__main__":
    main()
