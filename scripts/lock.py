"""Lock files: the versions of constraints.txt with the sha256 of every file that the package index has of them.

    make lock        after a change of constraints.txt or of the requirements in pyproject.toml

writes `requirements/`: what equinet runs with (`torch.txt`, `run.txt`), what builds of torch for CUDA need besides (`cuda.txt`), what
tests, checks and the wheel need besides (`dev.txt`), and what this script needs (`lock.txt`). They are for every platform and version of Python that
torch has builds for. Never edit them; versions are chosen in constraints.txt alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CONSTRAINTS = REPOSITORY / "constraints.txt"
FOLDER = REPOSITORY / "requirements"
# What torch's builds for CUDA depend on, and its builds for the CPU do not.
CUDA = ("nvidia-", "cuda-", "triton")
# Builds that are on torch's own index only, which uv does not ask.
OTHER_BUILDS = {
    # torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl
    "torch==2.13.0": ["6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"],
}
HEADER = "# Made by `make lock` from constraints.txt: versions are changed there.\n"

Lock = dict[str, str]  # name -> its lines: name==version, marker, hashes


def resolve(*sources: str, more: str = "") -> Lock:
    """Lock everything that the requirements in ``sources`` and ``more`` lead to, for all platforms.

    Raises:
        SystemExit: If uv finds no versions that fit; it has said why.
    """
    command = [
        "uv",
        "pip",
        "compile",
        *sources,
        "-",
        "--constraint",
        str(CONSTRAINTS),
        "--universal",
        "--generate-hashes",
    ]
    command += ["--python-version", "3.11", "--no-annotate", "--no-header", "--quiet", "--no-config"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        command, input=more, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=os.environ | {"PATH": path}
    )
    if result.returncode:
        raise SystemExit(result.returncode)
    blocks = re.split(r"^(?=\S)", result.stdout, flags=re.MULTILINE)
    return {block.partition("==")[0]: with_other_builds(block) for block in blocks if block}


def with_other_builds(block: str) -> str:
    """The lines of one package, with the hashes of its builds elsewhere."""
    more = OTHER_BUILDS.get(block.split()[0], [])
    return block.rstrip("\n") + "".join(f" \\\n    --hash=sha256:{digest}" for digest in more) + "\n"


def lock_all() -> dict[str, Lock]:
    """Every lock file by its name; each has what those before it do not have."""
    tools = "pip\nsetuptools\n"  # which install the checkout itself, without fetching others for that
    run = resolve("pyproject.toml", more=tools)
    dev = resolve("pyproject.toml", "--extra", "dev", more=tools)
    cuda = {name: lines for name, lines in run.items() if name.startswith(CUDA)}
    run = {name: lines for name, lines in run.items() if name not in cuda}
    dev = {name: lines for name, lines in dev.items() if name not in run and (name not in cuda or name == "triton")}
    return {"torch": {"torch": run.pop("torch")}, "run": run, "cuda": cuda, "dev": dev, "lock": resolve(more="uv\n")}


def canonical(name: str) -> str:
    """Name of a package as lock files spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def not_pinned(locks: dict[str, Lock]) -> list[str]:
    """Packages that are locked but not in constraints.txt, as the lines that it lacks."""
    names = re.findall(r"^[\w.-]+", CONSTRAINTS.read_text(), re.MULTILINE)
    pinned = {canonical(name) for name in names}
    return sorted({lines.split()[0] for lock in locks.values() for name, lines in lock.items() if name not in pinned})


def main() -> None:
    """Write the lock files, or say which pins constraints.txt lacks."""
    locks = lock_all()
    if lacking := not_pinned(locks):
        raise SystemExit(
            "constraints.txt pins no version of these; add the lines and run this again:\n" + "\n".join(lacking)
        )
    FOLDER.mkdir(exist_ok=True)
    for name, lock in locks.items():
        (FOLDER / f"{name}.txt").write_text(HEADER + "".join(lock.values()))
        print(f"requirements/{name}.txt: {len(lock)} packages")


if __name__ == "__main__":
    main()
