"""Signals to `equinet train` and `equinet md` as a user starts them: what they say, and whether the command they name goes on."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ase.io
import dynamics
import training
from kills import Case, Found, tiny_model

from equinet.train.config import to_toml

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)
LONGEST = 120  # seconds
EPOCHS, STEPS, SAVE_EVERY = 6, 1000, 7


def signals(shared: Path) -> Case:
    """A maker of cases in which a command gets a signal; trainings and simulations take turns."""
    model = tiny_model(shared)
    config = training.configuration(shared, epochs=EPOCHS)
    (shared / "config.toml").write_text(to_toml(config))
    ase.io.write(shared / "start.xyz", training.structure())
    whole: dict[str, dict[str, Any]] = {}

    def case(source: random.Random, place: Path, number: int) -> Found:
        trains = number % 2 == 0
        kind: Any = training if trains else dynamics
        sent = SIGNALS[number // 2 % len(SIGNALS)]
        name = ("run", f"run{dynamics.SUFFIXES[number // 2 % 2]}")[not trains]

        def command(out: Path) -> list[str]:
            if trains:
                return ["train", str(shared / "config.toml"), "--out", str(out)]
            start = ["md", str(model), str(shared / "start.xyz"), "--out", str(out), "--steps", str(STEPS)]
            return [*start, "--ensemble", "nvt", "--timestep", "0.25", "--save-every", str(SAVE_EVERY)]

        if name not in whole:
            (shared / "undisturbed").mkdir(exist_ok=True)
            out = shared / "undisturbed" / name
            code, said = _ended(_start(command(out)))
            if code:
                raise RuntimeError(f"a command that nothing disturbs fails: {said}")
            whole[name] = kind.result(out)
        out = place / name
        state = out / training.MODULE.STATE if trains else dynamics.RunFiles(out).restart
        process = _start(command(out))
        log = out / "metrics.jsonl" if trains else dynamics.RunFiles(out).log
        lines = source.randint(0, EPOCHS if trains else STEPS // SAVE_EVERY * 9 // 10)
        while process.poll() is None and not (state.exists() and _lines(log) >= lines):
            time.sleep(0.002)
        time.sleep(source.uniform(0, 0.3 if trains else 0.01))  # after the last epoch come tests and plots
        os.kill(process.pid, sent)  # not yet waited for
        code, said = _ended(process)
        what = "train" if trains else "md"
        events = Counter({f"{sent.name} {what}": 1})
        if code == 0:
            events[f"{what} finished before"] += 1
            return Found(_differences(kind, out, whole[name]), events)
        events["of these while testing"] += "while testing" in said
        complaints = kind.unreadable(out)
        if code != 128 + sent:
            complaints.append(f"exit code {code} after {sent.name}: {said[-150:]!r}")
        if "Traceback" in said:
            complaints.append(f"a traceback after {sent.name}")
        going_on = [*command(out), "--resume"]
        if trains:
            if told := re.search(r"To go on: equinet (.*--resume)", said):
                going_on = shlex.split(told[1])
            else:
                complaints.append(f"does not say how to go on: {said[-150:]!r}")
        elif "same call and --resume" not in said:
            complaints.append(f"does not say how to go on: {said[-150:]!r}")
        code, said = _ended(_start(going_on))
        if code:
            return Found([*complaints, f"does not go on: {said[-150:]!r}"], events)
        return Found([*complaints, *_differences(kind, out, whole[name])], events)

    return case


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _differences(kind: Any, out: Path, expected: dict[str, Any]) -> list[str]:
    return [each for each in kind.differences(out, expected) if not each.startswith("files")] + [
        f"left {path.name}" for path in out.parent.rglob("*.partial")
    ]


def _start(words: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [sys.executable, "-m", "equinet", *words]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_signals,
    )


def _hear_signals() -> None:
    """Undo what nohup and a shell's & do to what they start: to ignore SIGHUP, or SIGINT."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code as a shell shows it, and what was said."""
    said, _ = process.communicate(timeout=LONGEST)
    return (process.returncode if process.returncode >= 0 else 128 - process.returncode), said
