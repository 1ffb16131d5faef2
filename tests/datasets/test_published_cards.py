"""Cards of published data sets: complete, in equinet's own units and keys, and true to the files where these are here."""

from __future__ import annotations

import gzip
import hashlib
import re

import pytest
from toy_set import toy_set

from equinet.datasets import find_labels, is_isolated_atom, read_frames
from equinet.datasets.published import cards, find_card, find_file, is_set_name, locate, with_isolated_atoms
from equinet.datasets.published.card import nearest_name
from equinet.datasets.published.tables import card_blocks, list_table
from equinet.tables import as_text

NAMES = ["3bpa", "acac", "mattersim_bench", "mlearn", "nbmotaw", "phonon", "rmd17", "s66x8", "water_pbe0ts"]
FILES = [file for card in cards().values() for file in card.files]


def test_there_is_a_card_for_every_set():
    assert list(cards()) == NAMES


@pytest.mark.parametrize("card", cards().values(), ids=NAMES)
def test_a_card_says_where_from_under_which_licence_and_whom_to_cite(card):
    assert all((card.title, card.about, card.licence, card.cite, card.level_of_theory, card.split))
    assert re.search(r"https://github\.com/.+/tree/[0-9a-f]{40}/", card.origin)
    assert all(file.url or file.made for file in card.files)


@pytest.mark.parametrize("card", cards().values(), ids=NAMES)
def test_units_and_keys_of_every_set_are_those_that_equinet_expects(card):
    """So that a name needs no further settings."""
    expected = {"length": "Å", "energy": "eV", "forces": "eV/Å", "stress": "eV/Å³"}
    assert dict(card.units) == {name: expected[name] for name in card.units}
    assert all(name == key for name, key in card.keys.items())
    assert {label for file in card.files for label in file.labels} == set(card.keys)


@pytest.mark.parametrize("file", FILES, ids=[file.full_name for file in FILES])
def test_a_file_has_checksums_and_is_fetched_from_a_fixed_commit(file):
    assert re.fullmatch("[0-9a-f]{64}", file.sha256)
    assert re.fullmatch("[0-9a-f]{64}", file.sha256_gz)
    assert not file.url or re.match(r"https://raw\.githubusercontent\.com/.+/[0-9a-f]{40}/.+\.xyz$", file.url)
    assert file.role in ("train", "test", "isolated atoms")


def test_the_checksums_of_all_files_differ():
    assert len({file.sha256 for file in FILES}) == len({file.sha256_gz for file in FILES}) == len(FILES)


@pytest.mark.parametrize("name", ["acac/train_300K", "acac/isolated_atoms", "mlearn/Si_test", "3bpa/iso_atoms"])
def test_a_card_is_true_to_its_file(name, shared_data):
    file = find_file(name)
    content = (shared_data / f"{name}.xyz.gz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == file.sha256_gz
    assert hashlib.sha256(gzip.decompress(content)).hexdigest() == file.sha256
    frames = read_frames(shared_data / f"{name}.xyz.gz")
    sizes = [len(atoms) for atoms in frames]
    assert (len(frames), min(sizes), max(sizes)) == (file.frames, *file.atoms)
    assert {symbol for atoms in frames for symbol in atoms.symbols} == set(file.elements)
    assert {label for atoms in frames for label in find_labels(atoms)} == set(file.labels)
    assert all(is_isolated_atom(atoms) for atoms in frames) == (file.role == "isolated atoms")
    for atoms in frames if file.role == "isolated atoms" else ():
        assert find_labels(atoms)["energy"] == pytest.approx(find_card(file.set).e0s[str(atoms.symbols)], abs=1e-8)


def test_published_errors_are_converted_to_the_units_that_equinet_shows():
    (acac,) = find_file("acac/test_MD_300K").published
    assert acac.in_shown_units((15, 15))["MACE"] == pytest.approx([0.9 / 15, 5.1])  # meV of 15 atoms; meV/Å
    (universal,) = find_file("mattersim_bench/mptrj-random-1k").published
    energy, forces, stress = universal.in_shown_units((2, 192))["mattersim-5M"]
    assert (energy, forces) == pytest.approx((24.0, 109.0))
    assert stress == pytest.approx(0.186 / 160.2176634 * 1000)  # GPa in meV/Å³


def test_errors_of_total_energies_mean_nothing_where_frames_differ_in_size():
    (acac,) = find_file("acac/test_MD_300K").published
    with pytest.raises(ValueError, match="have no value per atom: its frames differ in size"):
        acac.in_shown_units((14, 15))


def test_a_training_file_brings_its_isolated_atoms():
    assert [each.name for each in with_isolated_atoms(find_file("3bpa/train_300K"))] == ["train_300K", "iso_atoms"]
    assert with_isolated_atoms(find_file("3bpa/test_300K")) == [find_file("3bpa/test_300K")]


# Names


def test_a_file_of_the_user_wins_over_a_set(tmp_path):
    assert is_set_name("acac/train_300K", tmp_path)
    assert not is_set_name("./acac/train_300K", tmp_path)
    assert not is_set_name("frames/train_300K", tmp_path)
    (tmp_path / "acac").mkdir()
    (tmp_path / "acac" / "train_300K").touch()
    assert not is_set_name("acac/train_300K", tmp_path)


def test_an_unknown_set_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"no published set 'acaq'; did you mean acac\? There are: 3bpa, acac"):
        find_card("acaq")
    with pytest.raises(ValueError, match=r"no published set 'zzzzzzz'\. There are: 3bpa"):
        find_card("zzzzzzz")


def test_an_unknown_file_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"acac has no file 'train_300'; did you mean acac/train_300K\? There are"):
        find_file("acac/train_300")
    with pytest.raises(ValueError, match=r"acac has several files, so name one\. There are: acac/isolated_atoms"):
        find_file("acac")
    assert nearest_name("/home/me/acca/train_300K") == "acac/train_300K"
    assert nearest_name("rmd17/asprin/train_01") == "rmd17/aspirin/train_01"
    assert nearest_name("frames/train.xyz") == ""


def test_a_path_that_leads_nowhere_suggests_a_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no file .*acca/train_300K; did you mean the published set acac/train"
    ):
        locate(tmp_path / "acca" / "train_300K")
    with pytest.raises(ValueError, match=r"there is no file acac/trian_300K, and the published set acac has no file"):
        locate("acac/trian_300K")
    assert locate("acca/train_300*").path == "acca/train_300*"  # a pattern is the reader's


def test_a_file_of_the_user_with_the_name_of_a_set_is_told(tmp_path, monkeypatch):
    with toy_set(monkeypatch, tmp_path):
        path = tmp_path / "toy" / "train"
        path.parent.mkdir()
        path.write_text("mine")
        monkeypatch.chdir(tmp_path)
        found = locate("toy/train")
        assert (found.path, found.file) == ("toy/train", None)
        assert "is a file of yours; the published set toy/train has the same name and is not used" in found.note
        assert locate(path).note


# Tables


def test_the_list_fits_into_80_columns():
    text = as_text([list_table(cards().values())], width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(name in text for name in NAMES)


def test_a_card_is_shown_with_everything_on_it(tmp_path, monkeypatch):
    with toy_set(monkeypatch, tmp_path) as toys:
        toys.put(tmp_path / "cache" / "equinet" / "data", "train")
        text = as_text(card_blocks(find_card("toy")))
    for part in ("Nobody, 2026", "GFN2-xTB", "a file in another format", "toy/converted", "A paper", "Theirs", "18.0"):
        assert part in text
    assert re.search(r"toy/train +train, with atoms .*yes", text)
    assert re.search(r"toy/test +test .*no", text)
