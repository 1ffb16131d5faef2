"""The doctor's table of packages: another project of the name ``equinet`` beside this one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from equinet.tables import Text
from equinet.verify import installation

THEIRS = "[console_scripts]\nequinet-train = equinet.train.cross_validate:equinet_train\n"
OURS = "[console_scripts]\nequinet = equinet.cli:app\n"


def install(folder: Path, entry_points: str, record: str | None, metadata: str = "dist-info/METADATA") -> None:
    """Put the metadata of a distribution ``equinet`` 9.9 into ``folder``, as pip or an old editable installation does."""
    kind, _, name = metadata.partition("/")
    place = folder / f"equinet-9.9.{kind}"
    place.mkdir()
    (place / name).write_text("Metadata-Version: 2.1\nName: equinet\nVersion: 9.9\nSummary: phase equilibria\n")
    (place / "entry_points.txt").write_text(entry_points)
    if record is not None:
        (place / "RECORD").write_text("".join(f"{file},,\n" for file in record.split()))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("record", ["equinet/__init__.py equinet/args.py", None])
def test_another_project_of_this_name_is_named_with_the_remedy(
    site: Path, record: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, THEIRS, record)
    remedy = ": pip uninstall equinet, then install this equinet again from its checkout"
    row = ("equinet", "9.9", "phase equilibria", (Text("another project's package", "bad"), remedy))
    assert installation.namesakes() == [row]
    monkeypatch.setattr(installation, "self_test", list)
    packages = next(table for table in installation.report() if table.title == "packages")
    assert row in packages.rows


def test_one_that_brings_no_package_of_this_name_is_no_harm(site: Path) -> None:
    install(site, THEIRS, "something_else/__init__.py")
    assert installation.namesakes() == []


@pytest.mark.parametrize("metadata", ["dist-info/METADATA", "egg-info/PKG-INFO"])
def test_what_an_older_installation_of_ours_left_is_not_taken_for_another_project(site: Path, metadata: str) -> None:
    install(site, OURS, "equinet/__init__.py", metadata)
    assert installation.namesakes() == []
