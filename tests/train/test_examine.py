"""Training examines its data first: refuses, accepts by name, and tells what may be meant."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import TINY

from equinet.tables import as_text
from equinet.train import parse_config, prepare
from equinet.train.config import RunConfig
from equinet.train.examine import e0s_by_number


def configuration(train: Path, **data: object) -> RunConfig:
    return parse_config({"data": {"train": str(train), "valid": 0.25, **data}, "model": TINY})


@pytest.fixture
def gradients(tmp_path: Path, sample: dict[str, list[Atoms]]) -> Path:
    """The sample's training frames with gradients in place of forces."""
    frames = []
    for atoms in sample["train"]:
        copy, labels = atoms.copy(), dict(atoms.calc.results)
        if "forces" in labels:
            labels["forces"] = -labels["forces"]
        copy.calc = SinglePointCalculator(copy, **labels)
        frames.append(copy)
    ase.io.write(tmp_path / "gradients.xyz", frames)
    return tmp_path / "gradients.xyz"


def test_gradients_are_refused_with_the_way_to_accept_them(gradients: Path) -> None:
    with pytest.raises(ValueError, match=r"forces-sign: .*gradients(.|\n)*`data.accept = \[\"forces-sign\""):
        prepare(configuration(gradients))


def test_what_is_accepted_is_told_before_the_first_step(gradients: Path) -> None:
    prepared = prepare(configuration(gradients, accept=["forces-sign"]))
    assert "accepted    forces-sign" in as_text(prepared.remarks, 200)


def test_unused_keys_and_overlap_are_told(files: dict[str, str]) -> None:
    prepared = prepare(configuration(Path(files["train"]), valid=files["train"]))
    text = as_text(prepared.remarks, 200)
    assert "16 frames of valid are in train, too" in text
    assert "perhaps" not in text


def test_an_accepted_finding_has_a_name_that_there_is(files: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no finding 'force-sign'; did you mean 'forces-sign'"):
        configuration(Path(files["train"]), accept=["force-sign"])


def test_a_table_of_reference_energies_is_judged(files: dict[str, str]) -> None:
    config = configuration(Path(files["train"]), e0s={"H": -13.6, "C": -1029.0, "O": -2042.0})
    assert e0s_by_number(config.data) == {1: -13.6, 6: -1029.0, 8: -2042.0}
    assert e0s_by_number(configuration(Path(files["train"])).data) is None
    with pytest.raises(ValueError, match=r"e0s: with E0s of H -13\.6, C -1029, O -2042 eV"):
        prepare(config)
