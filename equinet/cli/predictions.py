"""The command that writes the predictions of a model to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .app import app, console
from .outputs import OUTPUT_FRAMES
from .potentials import MATMUL
from .render import progress


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Model file (*.eqn).")],
    structures: Annotated[
        list[str],
        typer.Argument(
            help="Structures, with or without labels: one or several files of any format, or published sets."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write: extended XYZ, *.xyz or *.xyz.gz."), OUTPUT_FRAMES],
    descriptors: Annotated[
        bool, typer.Option("--descriptors", help="Also write the invariant features of every atom, as columns.")
    ] = False,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64; by default as the model was saved.")] = None,
    device: Annotated[str, typer.Option(help='"auto", "cpu", "cuda", ...')] = "auto",
    batch_edges: Annotated[int, typer.Option(help="Neighbour pairs at a time; less needs less memory.")] = 30_000,
    matmul: Annotated[Literal["ieee", "tf32", "bf16"], typer.Option(help=MATMUL)] = "ieee",
) -> None:
    """Write structures with the energies, forces and stresses that a model predicts.

    Every frame keeps what it has, its own labels included, and gets equinet_energy (eV), equinet_forces (eV/Å) and, where it is
    periodic, equinet_stress (eV/Å³, tension positive, xx yy zz yz xz xy). All structures are read once before the first is predicted, so that a frame
    that cannot be is told at once.

    Example:  equinet predict run/model.eqn POSCAR --out predicted.xyz
    """
    from equinet.train import predict_file

    with progress(console, "frames") as move:
        count = predict_file(
            model,
            structures,
            out,
            descriptors=descriptors,
            dtype=dtype,
            device=device,
            batch_edges=batch_edges,
            matmul=matmul,
            advance=lambda done, total: move(done, total, "predicting" if total else "reading"),
            tell=lambda sentence: console.print(sentence, highlight=False, soft_wrap=True),
        )
    console.print(f"{count} frames in {out}", highlight=False, soft_wrap=True)
