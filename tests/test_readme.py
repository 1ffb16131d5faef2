"""The README's code and the examples, run as a reader would, only shorter."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import preloaded
import pytest
import torch

from equinet.datasets import SAMPLE

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
# Of its couplings' number is how long code is made for a model.
SMALL = "--set model.channels=4 --set model.sh_degree=2 --set model.correlation=2"
# Commands run as printed, with these added so that they take seconds.
SHORTER = {
    "equinet train": f"--set train.epochs=1 --set data.train=few.xyz {SMALL}",
    "equinet md": "--steps 5",
    "equinet check": "--max-frames 2",
    "equinet convert": "--copies 1",
    "equinet bench model": "--rounds 3 --seconds 0.2",
    "equinet bench conv": "--method cg --budget 1 --nodes 8",
    "equinet bench swap": "--minutes 0.01 --seeds 1 --only fourier --set data.train=few.xyz --set data.test=few.xyz "
    f"{SMALL}",
}


# Pages whose commands and Python run one after the other, on the same desk.
PAGES = [README, *((REPOSITORY / "docs" / f"{name}.md").read_text() for name in ("training", "products"))]


def blocks(language: str) -> list[str]:
    return [
        block
        for page in PAGES
        for block in re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    ]


def run(command: list[str], folder: Path) -> str:
    done = preloaded.run(command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("frames.xyz", "test.xyz", "start.xyz"):
        shutil.copy(SAMPLE["train" if name == "frames.xyz" else "test"], folder / name)
    lines = SAMPLE["train"].read_text().splitlines(keepends=True)
    (folder / "few.xyz").write_text("".join(lines[: 3 * 3 + 24 * 11]))  # three isolated atoms and 24 frames of ethanol
    for toml in blocks("toml"):
        name = toml.splitlines()[0].removeprefix("# ")
        (folder / name).write_text(toml)
    return folder


def test_commands_and_python_of_the_readme_run(desk):
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("equinet")]
    assert {line.split()[1] for line in commands} >= {
        "keys",
        "train",
        "evaluate",
        "show",
        "md",
        "check",
        "explain",
        "convert",
        "bench",
    }
    for line in commands:
        if "cuda" in line and not torch.cuda.is_available():
            continue
        extra = next((added for start, added in SHORTER.items() if line.startswith(start)), "")
        run([*line.split(), *extra.split()], desk)
    for name in (
        "run/model.eqn",
        "run/config.toml",
        "run/metrics.jsonl",
        "run/errors.json",
        "errors.json",
        "parity.png",
        "nvt.traj",
        "gaunt.eqn",
        "swap/swap.md",
    ):
        assert (desk / name).stat().st_size > 0, name
    script = desk / "readme.py"
    script.write_text("\n".join(blocks("python")))
    printed = run([sys.executable, str(script)], desk)
    assert "MACE(" in printed
    assert "(9, 3)" in printed
    assert "torch.Size([36, 3]) torch.Size([4, 3, 3])" in printed


def test_the_readme_names_both_commands_and_stays_short():
    assert "make demo" in README
    assert "make test" in README
    assert len(README.splitlines()) <= 130


def test_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (REPOSITORY / target).exists(), target


def test_examples_run_and_are_short(tmp_path):
    printed = run([sys.executable, str(REPOSITORY / "examples" / "train_from_script.py"), "1"], tmp_path)
    assert "epoch   1" in printed
    assert (tmp_path / "ethanol.eqn").exists()
    printed = run([sys.executable, str(REPOSITORY / "examples" / "run_md.py"), "ethanol.eqn", "50"], tmp_path)
    assert " K" in printed
    printed = run([sys.executable, str(REPOSITORY / "examples" / "choose_a_product.py")], tmp_path)
    assert re.search(r"gaunt_grid 2 degrees +17 ", printed)
    assert re.search(r"cp 32 +9 +\de-0[123] ", printed)
    for name in ("train_from_script.py", "run_md.py", "choose_a_product.py"):
        assert len((REPOSITORY / "examples" / name).read_text().splitlines()) < 40
