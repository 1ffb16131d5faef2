"""`equinet convert-mace`: a model of mace-torch as a model file of equinet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .app import app, console
from .outputs import OUTPUT_FILE
from .render import show

if TYPE_CHECKING:
    from equinet.convert.products import Change

# meV per atom and meV/Å, of two readings of the same weights: rounding is far below, any other weight far above.
SAME = 1e-6


@app.command("convert-mace")
def convert_mace(
    model: Annotated[Path, typer.Argument(metavar="IN", help="Model file of mace-torch (*.model).")],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Model file to write (*.eqn); never one that is there already."),
        OUTPUT_FILE,
    ],
    head: Annotated[
        str | None, typer.Option(help="Which head to take, of a model that has several; they give different energies.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "float64"] | None, typer.Option(help="Precision to save it in; by default as in the file.")
    ] = None,
) -> None:
    """Convert a MACE model, published or trained with mace-torch: the same energies, forces and stress.

        equinet convert-mace 2023-12-03-mace-128-L1_epoch-199.model mace-mp-0.eqn

    Neither mace-torch nor its version of e3nn is needed, and no code from the file is run. Tells what is in it and, if it is
    a published one, under which licence; the licence is written into OUT, too. What equinet has no form for is refused by name.
    """
    import torch

    from equinet.checkpoint import load_potential, save_potential
    from equinet.convert.mace.architecture import architecture_of
    from equinet.convert.mace.load import choose_head, potential_of, read_mace
    from equinet.convert.mace.origin import origin_of, warning_of
    from equinet.convert.mace.report import describe
    from equinet.convert.products import measure_change
    from equinet.models import count_weights

    _refuse_to_write(out)
    mace = read_mace(model)
    architecture = architecture_of(mace)
    origin = origin_of(model, head or architecture.heads[0])
    show(console, [describe(mace, architecture, model, origin)])
    if warning := warning_of(origin):
        console.print(warning, style="yellow", highlight=False, soft_wrap=True, markup=False)
    if head is None and len(architecture.heads) > 1:
        names = ", ".join(architecture.heads)
        raise ValueError(f"{model} has several heads, which give different energies: add --head, one of {names}")
    taken = choose_head(architecture, head)
    potential = potential_of(mace, architecture, taken, dtype=getattr(torch, dtype) if dtype else None)
    unchecked = out.with_name(out.name + ".unchecked")
    try:
        potential.origin = origin
        save_potential(potential, unchecked)
        change = measure_change(potential, load_potential(unchecked))
        _refuse_if_different(model, change)
        unchecked.replace(out)
    finally:
        unchecked.unlink(missing_ok=True)
    of_head = "" if len(architecture.heads) == 1 else f" of head {taken}"
    for sentence in (
        f"wrote {out}: {count_weights(potential):,} weights{of_head} in {str(potential.dtype).removeprefix('torch.')}; read again, "
        f"it gives the same energies and forces on {change.frames} random structures",
        "next",
        f"  symmetries   equinet check {out}",
        f"  dynamics     equinet md {out} YOUR_STRUCTURE.xyz --out run.traj",
        f'  fine-tuning  start_from = "{out}" and learning_rate = 0.001 under [train] of a configuration; see docs/mace.md',
    ):
        console.print(sentence, highlight=False, soft_wrap=True, markup=False)


def _refuse_to_write(out: Path) -> None:
    if out.exists():
        raise ValueError(f"{out} is there already and is not overwritten; give OUT another name")


def _refuse_if_different(model: Path, change: Change) -> None:
    """Refuse a written file that differs from the converted potential, or a potential without finite energies."""
    largest = max(change.energy_max_mev_per_atom, change.forces_max_mev_per_ang)
    sums = change.energy_rms_mev_per_atom + change.forces_rms_mev_per_ang  # a NaN stays in a sum, and may not in `max`
    if not math.isfinite(sums):
        raise ValueError(
            f"{model} gives energies that are no numbers on random structures of its elements; its weights are damaged"
        )
    if largest > SAME:
        raise ValueError(
            f"the converted file does not give the energies of {model} when it is read again: {change}; nothing was written"
        )
