"""Published sets in a configuration: found by name, with the isolated atoms that belong to them."""

from __future__ import annotations

import json

import pytest
from toy_set import toy_set

from equinet.checkpoint import read_header
from equinet.datasets.published.fetch import NotFetchedError
from equinet.train import DataConfig, prepare, read_config, run
from equinet.train.published import find_published
from equinet.train.run import SilentRun


@pytest.fixture
def toys(monkeypatch, tmp_path):
    with toy_set(monkeypatch, tmp_path) as placed:
        monkeypatch.setenv("EQUINET_DATA", str(tmp_path / "data"))
        for name in ("atoms", "train", "test"):
            placed.put(tmp_path / "data", name, packed=name == "train")
        yield placed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def lines(found):
    return [str(line) for line in found.lines()]


def test_names_of_sets_stay_in_a_configuration_and_files_become_absolute(toys, folder):
    (folder / "c.toml").write_text(
        '[data]\ntrain = ["toy/train", "mine.xyz"]\nvalid = "toy/vlid"\ntest = "./toy/test"\n'
    )
    data = read_config(folder / "c.toml", ["data.test=toy/test"]).data
    assert data.train == ["toy/train", str(folder / "mine.xyz")]
    assert (data.valid, data.test) == ("toy/vlid", "toy/test")
    (folder / "toy").mkdir()
    (folder / "toy" / "train").touch()
    assert read_config(folder / "c.toml").data.train[0] == str(folder / "toy" / "train")
    assert read_config(folder / "c.toml").data.test == str(folder / "toy" / "test")


def test_a_training_set_brings_the_isolated_atoms_of_their_own_file(toys, folder):
    found = find_published(DataConfig(train="toy/train", test="toy/test"))
    names = [path.rsplit("/", 1)[1] for path in found.data.train]
    assert names == ["train.xyz.gz", "atoms.xyz"]
    assert [line.split(": ")[0] for line in lines(found)] == [
        "published   train toy/train",
        "published   E0s from toy/atoms",
        "published   test toy/test",
    ]
    assert found.test.full_name == "toy/test"


@pytest.mark.parametrize("e0s", ["least_squares", {"H": -1.0}])
def test_isolated_atoms_are_left_where_the_references_come_from_elsewhere(toys, folder, e0s):
    found = find_published(DataConfig(train="toy/train", e0s=e0s))
    assert found.data.train.endswith("train.xyz.gz")
    assert found.test is None


def test_isolated_atoms_named_twice_count_once(toys, folder):
    assert len(find_published(DataConfig(train=["toy/train", "toy/atoms"])).data.train) == 2


def test_a_file_of_the_user_with_the_name_of_a_set_is_told(toys, folder):
    (folder / "toy").mkdir()
    (folder / "toy" / "train").touch()
    found = find_published(DataConfig(train=str(folder / "toy" / "train")))
    assert lines(found) == [
        f"{folder}/toy/train is a file of yours; the published set toy/train has the same name and is not used"
    ]


def test_what_cannot_be_had_is_told_before_anything_is_read(toys, folder):
    with pytest.raises(ValueError, match=r"there is no file toy/vlid, and the published set toy has no file 'vlid'"):
        find_published(DataConfig(train="toy/train", valid="toy/vlid"))
    with pytest.raises(NotFetchedError, match=r"toy/converted is in none of .*, and cannot be fetched"):
        find_published(DataConfig(train="toy/train", test="toy/converted"))


def test_a_run_takes_sets_by_name_and_compares_with_published_errors(toys, folder, make_config):
    said = []

    class Listener(SilentRun):
        def say(self, block):
            said.append(block.markdown() if hasattr(block, "markdown") else str(block))

    config = make_config(data={"train": "toy/train", "valid": 0.2, "test": "toy/test"}, epochs=1)
    prepared = prepare(config)
    assert (prepared.isolated, prepared.statistics.reference_origin) == (3, "isolated atoms")
    result = run(config, folder / "out", reporter=Listener())
    text = "\n".join(said)
    assert "published   E0s from toy/atoms: " in text
    assert "Theirs (published)" in text
    assert f"{json.loads((folder / 'out' / 'errors.json').read_text())['test']['energy_rmse_mev_per_atom']:.2f}" in text
    assert 'train = "toy/train"' in (folder / "out" / "config.toml").read_text()
    assert read_header(result.out / "model.eqn").training["config"]["data"]["test"] == "toy/test"
