"""Cards of published data sets: origin, checksums, licence, citation, units, split and published errors, one TOML file each."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from equinet.quotes import quoted

HERE = Path(__file__).parent
EV_PER_A3_IN_GPA = 160.2176634
# Factors to the units that tables of errors show; energies of whole structures are divided by the number of atoms.
TO_SHOWN_UNIT = {
    "meV": 1.0,
    "meV/atom": 1.0,
    "eV/atom": 1e3,
    "meV/Å": 1.0,
    "eV/Å": 1e3,
    "GPa": 1e3 / EV_PER_A3_IN_GPA,
}
Kind = Literal["mae", "rmse", "norm"]


@dataclass(frozen=True, kw_only=True)
class ErrorColumn:
    """One column of published errors.

    Attributes:
        property: Name of the property.
        kind: "mae" or "rmse" of components, or "norm", the mean norm of the error of a vector or tensor.
        unit: Unit as published.
    """

    property: str
    kind: Kind
    unit: str


@dataclass(frozen=True, kw_only=True)
class PublishedErrors:
    """Errors of several models on one file of a set, as published.

    Attributes:
        file: File they were measured on, within the set.
        trained_on: File or data that the models were trained on.
        source: Publication.
        columns: Property, kind and unit of each number.
        errors: Model and its numbers, one per column.
    """

    file: str
    trained_on: str
    source: str
    columns: tuple[ErrorColumn, ...]
    errors: tuple[tuple[Any, ...], ...]

    def in_shown_units(self, atoms: tuple[int, int]) -> dict[str, list[float]]:
        """Numbers of each model in the units of equinet's tables of errors: meV/atom, meV/Å, meV/Å³.

        Args:
            atoms: Least and largest number of atoms in a frame of the file.

        Raises:
            ValueError: If energies of whole structures are given and their sizes differ.
        """
        if any(column.unit == "meV" for column in self.columns) and atoms[0] != atoms[1]:
            raise ValueError(
                f"errors of total energies on {self.file} have no value per atom: its frames differ in size"
            )
        factors = [TO_SHOWN_UNIT[column.unit] / (atoms[0] if column.unit == "meV" else 1) for column in self.columns]
        return {model: [factor * value for factor, value in zip(factors, values)] for model, *values in self.errors}


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file of a published set.

    Attributes:
        set: Name of the set.
        name: Name within the set, without ending.
        role: Part of the split: "train", "test" or "isolated atoms".
        frames: Number of frames.
        atoms: Least and largest number of atoms in a frame.
        elements: Chemical symbols.
        labels: Properties with labels.
        sha256: SHA-256 of the extended XYZ file.
        sha256_gz: SHA-256 of a gzipped copy in circulation.
        isolated_atoms: File of the set with the isolated atoms that belong to this one; empty without.
        url: Address of exactly this file; empty where it was converted from files in another format.
        made: How it is made from the files of the origin; empty where ``url`` has it.
    """

    set: str
    name: str
    role: str
    frames: int
    atoms: tuple[int, int]
    elements: tuple[str, ...]
    labels: tuple[str, ...]
    sha256: str
    sha256_gz: str
    isolated_atoms: str = ""
    url: str = ""
    made: str = ""

    @property
    def full_name(self) -> str:
        """Name by which a configuration asks for it, ``acac/train_300K``."""
        return f"{self.set}/{self.name}"

    @property
    def published(self) -> tuple[PublishedErrors, ...]:
        """Errors published for this file."""
        return tuple(table for table in find_card(self.set).published if table.file == self.name)


@dataclass(frozen=True, kw_only=True)
class Card:
    """A published data set.

    Attributes:
        name: Name of the set.
        title: Name and purpose in a line.
        use: Purpose in a few words.
        about: Contents.
        origin: Address of the page that has it.
        licence: Licence of the data.
        cite: Publications to cite.
        level_of_theory: Method of the labels.
        split: Official split and measure.
        units, keys: Units and names of the labels in the files, by property; those that equinet expects without being told.
        files: Files.
        e0s: Energies of isolated atoms in eV, where they are published.
        notes: Peculiarities.
        published: Published errors.
    """

    name: str
    title: str
    use: str
    about: str
    origin: str
    licence: str
    cite: tuple[str, ...]
    level_of_theory: str
    split: str
    units: Mapping[str, str]
    keys: Mapping[str, str]
    files: tuple[DataFile, ...]
    e0s: Mapping[str, float]
    notes: tuple[str, ...]
    published: tuple[PublishedErrors, ...]

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols in all files."""
        return tuple(sorted({symbol for file in self.files for symbol in file.elements}))

    @property
    def frames(self) -> int:
        """Number of frames in all files."""
        return sum(file.frames for file in self.files)


@cache
def cards() -> dict[str, Card]:
    """All cards by name."""
    return {path.stem: _read(path) for path in sorted(HERE.glob("*.toml"))}


def _read(path: Path) -> Card:
    tree = tomllib.loads(path.read_text(encoding="utf-8"))
    made = tree.pop("made", "")
    files = tuple(
        DataFile(set=path.stem, made="" if "url" in each else made, **_with_tuples(each)) for each in tree.pop("files")
    )
    published = tuple(
        PublishedErrors(
            columns=tuple(ErrorColumn(**column) for column in each.pop("columns")),
            errors=tuple(tuple(row) for row in each.pop("errors")),
            **each,
        )
        for each in tree.pop("published", [])
    )
    optional = {"e0s": tree.pop("e0s", {}), "notes": tuple(tree.pop("notes", ()))}
    return Card(name=path.stem, files=files, published=published, **optional, **_with_tuples(tree))


def _with_tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def is_set_name(text: str, folder: Path) -> bool:
    """True if a text names a published set and not a file: its first part is a card, and no such file or folder exists.

    Args:
        text: File, or name such as ``acac/train_300K``; ``./acac/train_300K`` is a file.
        folder: Folder from which files are looked for.
    """
    return text.split("/")[0] in cards() and not os.path.exists(folder / text)


def find_card(name: str) -> Card:
    """Find the card of a set.

    Raises:
        ValueError: If there is none; suggests the nearest.
    """
    if name not in cards():
        near = difflib.get_close_matches(name.lower(), cards(), n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]}?" if near else "."
        raise ValueError(f"there is no published set {quoted(name)}{meant} There are: {', '.join(cards())}")
    return cards()[name]


def find_file(name: str) -> DataFile:
    """Find a file of a published set by its full name, ``acac/train_300K``.

    Raises:
        ValueError: If there is no such set or file; suggests the nearest.
    """
    set_name, _, rest = name.partition("/")
    card = find_card(set_name)
    files = {file.name: file for file in card.files}
    if rest not in files:
        near = difflib.get_close_matches(rest, files, n=1, cutoff=0.4)
        meant = f"; did you mean {set_name}/{near[0]}?" if rest and near else "."
        what = f"no file {quoted(rest)}" if rest else "several files, so name one"
        raise ValueError(
            f"the published set {set_name} has {what}{meant} There are: "
            + ", ".join(file.full_name for file in card.files)
        )
    return files[rest]


def nearest_name(path: str) -> str:
    """The set name that a path of a missing file resembles, as in ``acca/train_300K``; empty if there is none."""
    full = [file.full_name for card in cards().values() for file in card.files]
    parts = path.split("/")
    for count in (2, 3):
        if near := difflib.get_close_matches("/".join(parts[-count:]), full, n=1, cutoff=0.8):
            return near[0]
    return ""
