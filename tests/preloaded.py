"""Programs in processes of their own that start at once: each is forked from one that has imported torch and the like already.

:func:`run` stands for ``subprocess.run([sys.executable, ...])`` where what is tested is not how a process starts. The program finds
modules of other projects imported, and none of equinet: those it imports itself, as it would alone.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy
import torch

# What takes long to import; in the order that takes the least time. Whichever is not installed is left out.
MODULES = (
    "torch.fx.experimental.proxy_tensor", "e3nn.o3", "e3nn.nn", "scipy.optimize", "scipy.spatial", "scipy.linalg",
    "ase.io.extxyz", "ase.build", "ase.md", "ase.md.langevin", "ase.optimize", "torch_geometric.utils", "torch_geometric.data",
    "llvmlite.binding", "safetensors.torch", "vesin", "pydantic", "typer", "rich.table", "rich.progress", "rich.console",
    "matplotlib.pyplot",
)  # fmt: skip


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a program of Python and wait for its end.

    Args:
        command: ``[sys.executable, ...]`` with ``-W ignore`` or nothing, then ``-c CODE``, ``-m MODULE`` or a script, and arguments;
            or the name of a script of this environment, such as ``equinet``, and arguments.
        cwd: Folder to run it in; that of the tests if not given.
        env: Its whole environment; that of the tests if not given. What is read when torch is imported is as in the tests.
        timeout: Seconds after which it is killed.

    Returns:
        As ``subprocess.run`` does, with all that was printed.

    Raises:
        subprocess.TimeoutExpired: If it was killed.
        ValueError: If ``command`` is nothing of the above.
    """
    words = [str(word) for word in command]
    if words[0] == sys.executable:
        words = words[1:]
    else:
        script = shutil.which(words[0], path=os.fspath(Path(sys.executable).parent))
        if script is None:
            raise ValueError(f"`command` must begin with {sys.executable} or a script beside it, got {words[0]!r}")
        words = [script, *words[1:]]
    if not hasattr(os, "fork"):
        return subprocess.run(
            [sys.executable, *words], cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True, check=False
        )
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        request = {
            "words": words,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "files": files,
            "timeout": timeout,
        }
        parent = _parent()
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(json.dumps(request) + "\n")
        parent.stdin.flush()
        status = json.loads(parent.stdout.readline())
        printed, complaints = (Path(file).read_text(encoding="utf-8", errors="replace") for file in files)
    if status is None:
        raise subprocess.TimeoutExpired(words, timeout, printed, complaints)
    return subprocess.CompletedProcess(words, os.waitstatus_to_exitcode(status), printed, complaints)


@cache
def _parent() -> subprocess.Popen[str]:
    """The process that others are forked from, one for each process of the tests."""
    parent = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    atexit.register(parent.communicate)  # the end of its input is its end
    return parent


def _serve() -> None:
    """Run what is asked for line by line; in the process of a program, that program."""
    for name in MODULES:
        with suppress(ImportError):
            importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    before = os.environ.get("PYTHONPATH", "")
    gc.freeze()  # what is here by now is never looked through for what may be freed, which would copy it into every child
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _live(request, before)
        answers.write(json.dumps(_end_of(child, request["timeout"])) + "\n")
        answers.flush()


def _end_of(child: int, timeout: float) -> int | None:
    """Status of a child that has ended; None after it was killed."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _live(request: dict[str, Any], before: str) -> NoReturn:
    """Become a program and end as it does, but without taking everything that was imported apart, which takes seconds."""
    code = 1
    try:
        _become(request, before)
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _become(request: dict[str, Any], before: str) -> None:
    """Run a program as the interpreter would."""
    for number, (file, flags) in enumerate(
        [(os.devnull, os.O_RDONLY), *((file, os.O_WRONLY | os.O_CREAT) for file in request["files"])]
    ):
        opened = os.open(file, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    # Anew: these know nothing of what the other process read, and write as those of a program whose output is a file.
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", errors="backslashreplace", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    old = [entry for entry in before.split(os.pathsep) if entry]
    new = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    rest = [entry for entry in sys.path[1:] if entry not in old]
    words = request["words"]
    if words[0] == "-W":
        warnings.simplefilter(words[1])
        words = words[2:]
    kind = words[0] if words[0] in ("-c", "-m") else "script"
    first = str(Path(words[0]).resolve().parent) if kind == "script" else request["cwd"]
    sys.path[:] = [first, *new, *rest]
    importlib.invalidate_caches()
    for generator in (random, numpy.random, torch.random):
        generator.seed()  # as random as those of any new process
    if kind == "script":
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
    elif kind == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *words[2:]]
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(words[1], "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    _serve()
