"""`equinet data convert`: files of frames in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import console
from .data import data
from .outputs import OUTPUT_FILE
from .render import progress


@data.command()
def convert(
    inputs: Annotated[
        list[str], typer.Argument(metavar="IN...", help="Files with frames, in any format that training reads.")
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="File to make: *.aselmdb, *.xyz, *.xyz.gz, *.db or *.traj."),
        OUTPUT_FILE,
    ],
    energy_key: Annotated[str, typer.Option(help="Name of the energy in the files.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces in the files.")] = "forces",
    stress_key: Annotated[str, typer.Option(help="Name of the stress in the files.")] = "stress",
    weight_key: Annotated[str, typer.Option(help="Name of a frame's weight in the files.")] = "weight",
) -> None:
    """Write frames into one file of another format, with every digit, label and entry.

    A set larger than memory is brought into a store once and then streamed:

        equinet data convert part1.xyz part2.xyz.gz all.aselmdb

        equinet train config.toml --set data.train=all.aselmdb

    Labels are checked, and written as energy (eV), forces (eV/Å) and stress (eV/Å³). Nothing is overwritten.
    """
    from equinet.datasets import LabelKeys, convert

    keys = LabelKeys(energy=energy_key, forces=forces_key, stress=stress_key, weight=weight_key)
    with progress(console, "frames") as move:
        count = convert(inputs, out, keys, advance=lambda done, total: move(done, total, str(out)))
    console.print(f"{count:,} frames in {out}", highlight=False, soft_wrap=True)
