"""The table of published MACE files: well formed, found by content, hinted at by name, honest about licences."""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import preloaded
import pytest

from equinet.convert.mace import published
from equinet.convert.mace.published import Published, identify, look_alike, published_files, sha256_of

REPOSITORY = Path(__file__).resolve().parents[3]
PUBLISHED = published_files()
WITH_HASH = [one for one in PUBLISHED if one.sha256 is not None]


def named(name: str) -> Published:
    return next(one for one in PUBLISHED if one.name == name)


def cached(file: str) -> str:
    """The name mace-torch gives a downloaded file: letters, digits and underscores only."""
    return "".join(c for c in file if c.isalnum() or c == "_")


@pytest.mark.parametrize("field", ["name", "file", "url"])
def test_no_two_entries_share_a_name_a_file_or_an_address(field: str) -> None:
    values = [getattr(one, field) for one in PUBLISHED]
    assert len(set(values)) == len(values)


def test_hashes_are_unique_and_64_lowercase_hex_digits() -> None:
    hashes = [str(one.sha256) for one in WITH_HASH]
    assert len(set(hashes)) == len(hashes)
    assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in hashes)


def test_the_models_that_are_downloaded_by_default_have_hash_and_size() -> None:
    for name in ("MACE-MP-0 medium", "MACE-MPA-0 medium", "MACE-OFF23 medium"):
        assert named(name).sha256 is not None
        assert named(name).size is not None


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: one.name)
def test_an_address_is_of_the_publisher_and_ends_in_the_file_name(one: Published) -> None:
    assert re.match(r"https://(github|raw\.githubusercontent)\.com/ACEsuit/", one.url)
    assert one.url.endswith(f"/{one.file}")


@pytest.mark.parametrize("one", WITH_HASH, ids=lambda one: one.name)
def test_a_file_is_found_by_its_hash(one: Published) -> None:
    assert identify(str(one.sha256)) is one
    assert identify(f"{one.sha256}\n".upper()) is one


def test_an_unknown_hash_is_nobodys() -> None:
    assert identify("0" * 64) is None
    assert identify("") is None


def test_one_wrong_digit_is_another_file() -> None:
    digits = str(named("MACE-MP-0 medium").sha256)
    assert identify(("1" if digits[0] == "0" else "0") + digits[1:]) is None
    assert identify(digits[:8]) is None


@pytest.mark.parametrize("one", [one for one in PUBLISHED if one.licence == "ASL"], ids=lambda one: one.name)
def test_an_academic_model_warns_and_names_itself_its_licence_and_where_to_read_it(one: Published) -> None:
    assert not one.commercial
    warning = one.warning()
    assert warning is not None
    for part in (
        one.name,
        "ASL",
        "Academic Software License",
        "non-commercial",
        "converted",
        "fine-tuned",
        "https://github.com/gabor1/ASL",
    ):
        assert part in warning


@pytest.mark.parametrize("one", [one for one in PUBLISHED if one.licence == "MIT"], ids=lambda one: one.name)
def test_an_mit_model_does_not_warn(one: Published) -> None:
    assert one.commercial
    assert one.warning() is None


@pytest.mark.parametrize("family", ["MP-0", "MPA-0", "ANI-CC"])
def test_families_released_under_mit(family: str) -> None:
    assert {one.licence for one in PUBLISHED if one.name.startswith(f"MACE-{family}")} == {"MIT"}


@pytest.mark.parametrize("family", ["OMAT", "MATPES", "MH", "OMOL", "OFF", "POLAR"])
def test_families_released_for_academic_use(family: str) -> None:
    assert {one.licence for one in PUBLISHED if one.name.startswith(f"MACE-{family}")} == {"ASL"}


def test_a_licence_without_terms_is_refused() -> None:
    with pytest.raises(ValueError, match="`licence` must be one of MIT, ASL, not 'GPL'"):
        replace(PUBLISHED[0], licence="GPL")


@pytest.mark.parametrize("wrong", ["", "01bfe221", "01BFE22100139F424713CF921144E5509CBE353D67AA9FA1BE9C6E1E0ED35845"])
def test_a_shortened_or_capital_hash_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="`sha256` of MACE-MP-0 small must be 64 lowercase hex digits"):
        replace(PUBLISHED[0], sha256=wrong)


GOOD_ROW = {"name": "a", "file": "b", "url": "c", "licence": "MIT", "note": ""}


def test_hash_and_size_of_a_row_may_be_absent() -> None:
    assert published._published(GOOD_ROW) == Published(name="a", file="b", url="c", licence="MIT", note="")


@pytest.mark.parametrize(
    "row",
    [{"sha265": "0" * 64}, {"size": 1.5}, {"size": True}, {"note": 1}, *({name: None} for name in GOOD_ROW)],
    ids=str,
)
def test_a_damaged_row_of_the_table_is_a_bug(row: dict[str, object]) -> None:
    damaged = {name: value for name, value in (GOOD_ROW | row).items() if value is not None}
    with pytest.raises(ValueError, match=r"published\.toml: wrong row"):
        published._published(damaged)


def test_the_table_is_read_once_and_only_when_asked_for() -> None:
    code = (
        "from equinet.convert.mace.published import _table, identify\n"
        "before = _table.cache_info().currsize\n"
        "identify(''), identify('')\n"
        "print(before, _table.cache_info().misses)"
    )
    result = preloaded.run([sys.executable, "-c", code], cwd=REPOSITORY)
    assert result.stdout.split() == ["0", "1"], result.stderr


def test_the_table_is_installed_with_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["equinet"]
    assert any(published._TABLE.relative_to(REPOSITORY / "equinet").match(pattern) for pattern in patterns)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 12_345])
def test_the_hash_of_a_file_is_the_hash_of_all_its_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(i * i % 251 for i in range(10_007)) * (size // 10_007 + 1)
    path = tmp_path / "some.model"
    path.write_bytes(content[:size])
    assert sha256_of(path) == hashlib.sha256(content[:size]).hexdigest()
    assert sha256_of(str(path)) == sha256_of(path)


@pytest.mark.parametrize("one", PUBLISHED, ids=lambda one: one.name)
def test_a_file_is_hinted_at_by_the_names_it_is_released_and_cached_under(one: Published) -> None:
    assert look_alike(one.file) is one
    assert look_alike(cached(one.file)) is one
    assert look_alike(f"cache/mace/{one.file}") is one
    assert look_alike(f"C:\\models\\{one.file}") is one


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("20231203mace128L1_epoch199model", "MACE-MP-0 medium"),
        ("20231210mace128L0_energy_epoch249model", "MACE-MP-0 small"),
        ("MACE_MPtrj_20229model", "MACE-MP-0 large"),
        ("macempa0mediummodel", "MACE-MPA-0 medium"),
        ("macemh1model", "MACE-MH-1"),
        ("MACEPOLAR1Smodel", "MACE-POLAR-1 small"),
        ("MACEOFF23_smallmodelrawtrue", "MACE-OFF23 small"),
        ("MACE-OFF23_medium.model", "MACE-OFF23 medium"),
        ("46jrkm3v", "MACE-MP-0 small"),
        ("5yyxdm76", "MACE-MP-0 medium"),
        ("5f5yavf3", "MACE-MP-0 large"),
    ],
)
def test_names_found_in_real_caches(file_name: str, name: str) -> None:
    assert look_alike(file_name) is named(name)


@pytest.mark.parametrize(
    "file_name", ["", "my.model", "mace.model", "MACE-OFF23.model", "2023-12-03-mace-128-L1_epoch-199.model/notes.txt"]
)
def test_another_name_is_like_nothing(file_name: str) -> None:
    assert look_alike(file_name) is None
