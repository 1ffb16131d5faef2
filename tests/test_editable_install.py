"""An editable installation is found from everywhere, the folder that holds the clone included."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``equinet`` like a clone, with as much of the package as `import equinet` reads, installed in its ``.venv``."""
    clone = tmp_path_factory.mktemp("work") / "equinet"
    (clone / "equinet").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "equinet/__init__.py", "equinet/lazy.py"):
        shutil.copy(REPOSITORY / name, clone / name)
    venv = clone / ".venv"
    run(Path(sys.executable), "-m", "venv", "--without-pip", str(venv))
    python = venv / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # pip and setuptools are those of this environment; its *.pth, equinet's among them, are not read from here.
    (Path(site) / "tools.pth").write_text(sysconfig.get_path("purelib"))
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-script-location")
    run(python, *pip, "--no-deps", "--no-build-isolation", "--no-index", "--editable", str(clone))
    return clone


def run(python: Path, *arguments: str, folder: Path | None = None) -> str:
    """Output of Python in ``folder``, without the PYTHONPATH of the tests."""
    result = subprocess.run(
        [str(python), *arguments], cwd=folder, env={"PATH": ""}, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("place", ["beside the clone", "in the clone", "elsewhere"])
def test_a_script_finds_the_package(clone: Path, place: str, tmp_path: Path) -> None:
    folder = {"beside the clone": clone.parent, "in the clone": clone, "elsewhere": tmp_path}[place]
    script = folder / "script.py"
    script.write_text("import equinet; print(equinet.__file__, equinet.__version__)")
    assert run(clone / ".venv/bin/python", "script.py", folder=folder).split()[0] == str(clone / "equinet/__init__.py")
    assert run(clone / ".venv/bin/python", "-c", script.read_text(), folder=folder)
