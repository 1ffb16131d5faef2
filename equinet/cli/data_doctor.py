"""Commands that look at data before a training: `equinet data report` and `equinet data doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import console
from .data import data
from .outputs import OUTPUT_FILE
from .render import progress, show

if TYPE_CHECKING:
    from ase import Atoms

    from equinet.train.config import DataConfig

Files = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help="Labelled frames, extended XYZ or anything ASE reads, also compressed."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Names of labels as in a configuration, e.g. --set data.energy_key=REF_energy. Repeatable; `equinet keys` lists them.",
    ),
]


@data.command("report")
def report_command(
    files: Files,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write everything to this file."), OUTPUT_FILE
    ] = None,
    settings: Settings = None,
    cutoff: Annotated[float, typer.Option(help="Radius within which neighbours are counted, in Å.")] = 5.0,
) -> None:
    """Report what equinet makes of files of frames, before anything is trained on them.

        equinet data report train.xyz test.xyz

    Labels of each file, keys that nothing uses, energies of isolated atoms, ranges by configuration type, shortest distances against
    covalent radii, duplicates inside and across files, and the frames that lie furthest out, by file and number (from 0).
    """
    from equinet.datasets.report import blocks, report
    from equinet.train.config import data_config
    from equinet.train.report.record import write_json

    config = data_config(files, settings or [])
    found = report(_read({name: [name] for name in files}, config), keys=config.label_keys(), cutoff=cutoff)
    show(console, blocks(found))
    if json_file is not None:
        write_json(json_file, found.as_json())


@data.command("doctor")
def doctor(
    files: Files,
    valid: Annotated[list[str] | None, typer.Option(help="File with validation frames. Repeatable.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="File with test frames. Repeatable.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the findings to this file."), OUTPUT_FILE
    ] = None,
    settings: Settings = None,
) -> None:
    """Judge files of frames: what cannot be right is refused, what may be meant is told.

        equinet data doctor train.xyz --valid valid.xyz --set data.stress_key=REF_stress

    Units (Hartree, kcal/mol, Bohr, nm; GPa, kbar), signs (gradients for forces, compression for tension), virials under the name of
    stress, absurd reference energies, single wrong numbers, zeroed forces of fixed atoms, fractional coordinates, lost periodicity,
    contradicting duplicates, validation frames that are trained on. Most is proved by the data: energies must differ by the work of
    forces and stress. Each finding names frames, the number, what it looks like, and the setting that makes it right.

    The exit code is 1 if anything is refused. `equinet train` asks the same, and `data.accept = ["NAME"]` lets a finding pass.
    """
    from equinet.datasets.doctor import diagnose
    from equinet.datasets.doctor.blocks import blocks
    from equinet.train.config import data_config
    from equinet.train.examine import e0s_by_number
    from equinet.train.report.record import write_json

    config = data_config(files, settings or [])
    parts = {name: paths for name, paths in (("train", files), ("valid", valid or []), ("test", test or [])) if paths}
    frames = _read(parts, config)
    accept = config.accept
    found = diagnose(frames, e0s=e0s_by_number(config))
    show(console, blocks(found, sum(map(len, frames.values())), accept))
    if json_file is not None:
        write_json(json_file, {"findings": [finding.as_json() for finding in found]})
    if any(finding.severity == "refuse" and finding.name not in accept for finding in found):
        raise typer.Exit(1)


def _read(parts: dict[str, list[str]], config: DataConfig) -> dict[str, list[Atoms]]:
    """Frames by part, read with the names of labels that the configuration has."""
    from equinet.datasets import read_frames

    keys, found = config.label_keys(), {}
    with progress(console, "files") as move:
        done, total = 0, sum(map(len, parts.values()))
        for name, paths in parts.items():
            frames: list[Any] = []
            for path in paths:
                move(done, total, f"reading {path}")
                frames += read_frames(path, keys)
                done += 1
            found[name] = frames
    return found
