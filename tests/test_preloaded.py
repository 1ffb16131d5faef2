"""Programs that are forked from a process with torch in it behave as those that the interpreter starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import preloaded
import pytest

TELLS = """
import os, sys
import torch
print(sys.argv, os.getcwd(), os.environ.get("WORD"), __name__, sys.path[0] in ("", os.getcwd()))
print("aside", file=sys.stderr)
print([name for name in sys.modules if name.partition(".")[0] == "equinet"], torch.get_num_threads(), sys.stdin.read())
"""


@pytest.mark.parametrize(
    "program",
    [
        TELLS,
        "import sys; print('half'); sys.exit(3)",
        "import sys; sys.exit('a reason')",
        "import atexit; atexit.register(print, 'at the end'); print('before')",
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
        "import warnings; warnings.warn('now')",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os; os._exit(7)",
    ],
    ids=["surroundings", "status", "reason", "atexit", "threads", "warning", "signal", "at once"],
)
def test_a_program_does_and_prints_the_same_as_by_itself(program: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", program, "one", "--two"]
    environment = {**os.environ, "WORD": "here"}
    alone = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    forked = preloaded.run(command, cwd=tmp_path, env=environment)
    assert (forked.returncode, forked.stdout, forked.stderr) == (alone.returncode, alone.stdout, alone.stderr)


def test_an_error_ends_with_its_traceback() -> None:
    done = preloaded.run([sys.executable, "-c", "raise ValueError('it')"])
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: it\n")


def test_scripts_modules_and_commands_run(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NUMBER = 5")
    (tmp_path / "script.py").write_text("import sys, beside; print(sys.argv[1:], beside.NUMBER, __file__)")
    done = preloaded.run([sys.executable, "-W", "ignore", "script.py", "x"], cwd=tmp_path)
    assert done.stdout == "['x'] 5 script.py\n", done.stderr
    shown = [
        preloaded.run(command).stdout
        for command in (["equinet", "--help"], [sys.executable, "-m", "equinet", "--help"])
    ]
    assert all("convert-mace" in each for each in shown)
    with pytest.raises(ValueError, match=r"`command` must begin with .* or a script beside it, got 'no-such-command'"):
        preloaded.run(["no-such-command"])


def test_modules_are_found_where_pythonpath_says(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("NUMBER = 6")
    code = "import elsewhere; print(elsewhere.NUMBER)"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert preloaded.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}).stdout == "6\n"
    assert "No module named 'elsewhere'" in preloaded.run([sys.executable, "-c", code]).stderr


def test_every_program_draws_random_numbers_of_its_own() -> None:
    code = "import random, numpy, torch; print(random.random(), numpy.random.rand(), torch.rand(1).item(), sep='\\n')"
    first, second = (preloaded.run([sys.executable, "-c", code]).stdout.split() for _ in range(2))
    assert not set(first) & set(second)


def test_a_program_that_hangs_is_ended_and_the_next_one_runs() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        preloaded.run([sys.executable, "-c", "import time; time.sleep(600)"], timeout=0.1)
    assert preloaded.run([sys.executable, "-c", "print('next')"]).stdout == "next\n"
