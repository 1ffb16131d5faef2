"""Command lines of equinet: wrong words, numbers, files of the wrong kind, files that are not there."""

from __future__ import annotations

import contextlib
import os
import random
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from child import Wrong, complaint_about
from models import ethanol, small_potential

import equinet
from equinet.cli import app

ODD_WORDS = (
    "-1",
    "0",
    "1e30",
    "nan",
    "inf",
    "",
    " ",
    "é",
    "--",
    "-",
    "--help",
    "x" * 3000,
    "\x1b[31m",
    "[red]",
    "../..",
    "/dev/null",
    "/",
    "1,2",
    "True",
    "float16",
    "gpu",
    "cuda:9",
    "meta",
    "$HOME",
    "a\nb",
)
FILES = (
    "model.eqn",
    "frames.xyz",
    "run.toml",
    "cut.eqn",
    "empty",
    "noise",
    "folder",
    "no_such_file",
    "folder/no_such",
    "text.xyz",
    "gone/away/model.eqn",
    "model.model",
)
# What a command takes: words that are right, of which one or two are then spoilt. FILE is any file.
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("show", "model.eqn"),
    ("keys",),
    ("keys", "--architecture", "mace"),
    ("evaluate", "model.eqn", "frames.xyz", "--batch-size", "2"),
    ("evaluate", "model.eqn", "frames.xyz", "--json", "out.json", "--energy-key", "energy"),
    ("evaluate", "model.eqn", "frames.xyz", "--dtype", "float64", "--device", "cpu"),
    ("evaluate", "model.eqn", "frames.xyz", "--matmul", "ieee", "--forces-key", "forces"),
    ("md", "model.eqn", "frames.xyz", "--out", "run.traj", "--steps", "3", "--save-every", "1"),
    ("md", "model.eqn", "frames.xyz", "--out", "run.xyz", "--steps", "2", "--ensemble", "nve", "--timestep", "0.1", "--seed", "1"),
    ("md", "model.eqn", "frames.xyz", "--out", "run.traj", "--steps", "2", "--temperature", "300", "--friction", "0.01", "--dtype", "float32"),
    ("md", "model.eqn", "frames.xyz", "--out", "run.traj", "--steps", "2", "--resume"),
    ("train", "run.toml", "--out", "run", "--set", "train.epochs=0"),
    ("train", "run.toml", "--out", "run", "--set", "model.channels=2", "--set", "train.epochs=1"),
    ("train", "run.toml", "--resume", "--out", "run"),
    ("convert-mace", "model.model", "out.eqn"),
    ("convert-mace", "model.model", "out.eqn", "--dtype", "float32", "--head", "Default"),
    ("convert", "model.eqn", "out.eqn", "--to", "matrix"),
    ("check", "model.eqn", "frames.xyz", "--max-frames", "1"),
    ("explain", "cg", "--json", "out.json"),
    ("bench", "tp", "--degrees", "1", "--pairs", "2", "--channels", "1"),
)  # fmt: skip
USAGE = 2


def command_lines(shared: Path) -> Callable[[random.Random, Path], Callable[[], object]]:
    """Words of a command line, most of them right; a failure must end with one sentence and a code that is not zero."""
    potential = small_potential()

    def make(source: random.Random, file: Path) -> Callable[[], object]:
        folder = file.parent
        _lay_out(folder, potential)
        words = list(source.choice(COMMANDS))
        for _ in range(source.choice((0, 1, 1, 1, 2))):
            _spoil(source, words)
        file.write_text("\n".join(map(repr, words)))

        def case() -> None:
            os.chdir(folder)
            os.environ["HOME"] = str(folder)
            code, said = run_command(words, folder / "said")
            require_clear(words, code, said, file)

        return case

    return make


def _lay_out(folder: Path, potential: equinet.Potential) -> None:
    equinet.save(potential, folder / "model.eqn")
    (folder / "cut.eqn").write_bytes((folder / "model.eqn").read_bytes()[:-100])
    atoms = ethanol()
    rows = "\n".join(f"{symbol} {x} {y} {z} 0.1 0.2 -0.3" for symbol, (x, y, z) in zip(atoms.symbols, atoms.positions))
    frame = f"{len(atoms)}\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-4200.0\n{rows}\n"
    (folder / "frames.xyz").write_text(frame * 4)
    (folder / "run.toml").write_text(
        '[data]\ntrain = "frames.xyz"\nvalid = 0.25\ne0s = { H = -13.0, C = -1000.0, O = -2000.0 }\n[model]\nchannels = 2\nsh_degree = 1\ncorrelation = 1\nlayers = 1\n'
    )
    (folder / "empty").write_bytes(b"")
    (folder / "noise").write_bytes(random.Random(0).randbytes(500))
    (folder / "text.xyz").write_text("this is no frame\n")
    (folder / "model.model").write_bytes(b"PK\x03\x04" + bytes(50))
    (folder / "folder").mkdir()


def _spoil(source: random.Random, words: list[str]) -> None:
    at = source.randrange(len(words))
    what = source.choice(("odd", "odd", "file", "file", "gone", "twice", "swap"))
    if what == "odd":
        words[at] = source.choice(ODD_WORDS)
    elif what == "file":
        places = [n for n, word in enumerate(words) if "." in word and not word.startswith("-")] or [at]
        words[source.choice(places)] = source.choice(FILES)
    elif what == "gone":
        del words[at]
        words or words.append("show")
    elif what == "twice":
        words.insert(at, words[at])
    else:
        other = source.randrange(len(words))
        words[at], words[other] = words[other], words[at]


def run_command(words: Sequence[str], said: Path) -> tuple[int, str]:
    """Exit code of a command line, and what it wrote to its stream of errors; what it raises passes through."""
    complaints = said.with_name("complaints")
    with said.open("wb") as file, complaints.open("wb") as errors:
        os.dup2(file.fileno(), 1)
        os.dup2(errors.fileno(), 2)
    code = 0
    try:
        with contextlib.suppress(BrokenPipeError):
            app(list(words), prog_name="equinet", standalone_mode=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code, complaints.read_text(errors="replace")


def require_clear(words: Sequence[str], code: int, said: str, file: Path) -> None:
    """A command line that failed said so in one sentence.

    Raises:
        ValueError: With that sentence, which :mod:`child` judges.
        Wrong: If it failed without a word, or went well although a value of it was none.
    """
    for word in words:  # which the user wrote, and may see again however odd they are
        said = said.replace(word, "WORD") if len(word) > 20 or not word.isprintable() else said
    if "Traceback (most recent call last)" in said:
        raise RuntimeError(said[-1000:])
    errors = re.findall(r"^error: .*", said, flags=re.MULTILINE)
    if code == 0:
        if errors:
            raise Wrong("an error, and the exit code is 0: " + errors[0])
        return
    if code == USAGE:
        if "Usage" not in said and "─ Error ─" not in said:
            raise Wrong(f"exit code 2 without a word on usage: {words}")
        raise ValueError(f"usage, {file.name}")
    if code == 1 and words[0] == "check" and not errors:
        return  # a random model may fail a check
    if not errors:
        raise Wrong(f"exit code {code} without an error: {words} {said[-300:]}")
    message = errors[-1] + f" ({file.name})"
    tail = said[said.index(errors[-1]) + len(errors[-1]) :].strip()
    if len(errors) > 1 or tail.count("\n") > 1 or complaint_about(message, file):
        raise ValueError(f"not one sentence: {said[-800:]}")
    raise ValueError(message)
