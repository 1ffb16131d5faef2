"""Commands about tensor products: what they can do, which to choose, one for another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app, console
from .outputs import OUTPUT_FILE
from .render import show


@app.command()
def explain(
    irreps1: Annotated[
        str,
        typer.Argument(
            metavar="IRREPS1", help="First input, with its channels, e.g. 32x0e+32x1o: 32 scalars and 32 vectors."
        ),
    ],
    irreps2: Annotated[
        str | None,
        typer.Argument(
            metavar="IRREPS2",
            help="Second input, one for all channels, e.g. 0e+1o+2e, or with as many channels as the first.",
        ),
    ] = None,
    irreps_out: Annotated[
        str | None,
        typer.Argument(
            metavar="IRREPS_OUT",
            help="Outputs, e.g. 0e+1o. By default all that can be reached up to the highest degree of the inputs.",
        ),
    ] = None,
    correlation: Annotated[
        int | None,
        typer.Option(
            help="Explain products of up to so many copies of IRREPS1 with each other. There is no second input then: "
            "IRREPS1 [IRREPS_OUT], outputs by default like IRREPS1."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="A method: cg, cp:rank=24,weights=shared or '{ method = \"cp\", rank = 24 }'. One: everything about it; "
            "several: side by side; none: all side by side."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write everything to this file."), OUTPUT_FILE
    ] = None,
) -> None:
    """Measure the expressivity, cost and equivariance error of tensor products.

    What a convolution multiplies on an edge, features with spherical harmonics, by all methods side by side:

        equinet explain 32x0e+32x1o 0e+1o+2e

    Everything about one method, such as which couplings it lacks:

        equinet explain 32x0e+32x1o 0e+1o+2e --method gaunt_grid

    What MACE's product basis multiplies, up to three copies of a node's features:

        equinet explain 32x0e+32x1o+32x2e 32x0e --correlation 3

    1o is an irrep: its degree, 1, a vector, and its parity, o for odd (it changes sign in a mirror through a point) or e for
    even. A path such as 1o x 1o -> 0e is a coupling of two inputs into an output, here the scalar product.
    """
    from equinet.ops.analysis import Comparison, compare
    from equinet.ops.analysis import explain as explain_method
    from equinet.train.report.record import write_json

    from .questions import method_from_text, spec_from_text

    spec = spec_from_text(irreps1, irreps2, irreps_out, correlation)
    methods = [method_from_text(text) for text in method or []]
    found = explain_method(spec, methods[0]) if len(methods) == 1 else compare(spec, methods or None)
    show(console, found.blocks())
    if not methods and isinstance(found, Comparison):
        console.print("everything about one of them:  add --method NAME", highlight=False, soft_wrap=True)
    if json_file is not None:
        write_json(json_file, found.as_json())


@app.command()
def convert(
    model: Annotated[Path, typer.Argument(help="Model file (*.eqn).")],
    out: Annotated[Path, typer.Option(help="Model file to write; never one that is there already."), OUTPUT_FILE],
    many_body: Annotated[
        str | None,
        typer.Option(
            help="The new many-body product: cg, gaunt_grid, ... or '{ method = \"gaunt_grid\", copies = 4 }'."
        ),
    ] = None,
    convolution: Annotated[
        str | None, typer.Option(help="The new convolution, likewise; only where that is exact.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="rank of --many-body, for cp.")] = None,
    copies: Annotated[int | None, typer.Option(help="copies of --many-body: more come nearer and cost more.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Structures on which to measure the change, labels or not; by default random ones."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write all figures to this file."), OUTPUT_FILE
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the starts of fits.")] = 0,
) -> None:
    """Express a trained model in another tensor product: exactly where that can be, else nearly, and tell how nearly.

    Every many-body product becomes exact couplings (cg) exactly; a product with fewer weights comes as near as it can:

        equinet convert model.eqn --many-body gaunt_grid --copies 4 --out gaunt.eqn --data test.xyz

    A convolution is converted exactly or not at all. Prints the couplings that change most and what becomes of energies
    and forces.
    """
    from equinet.checkpoint import load_potential, read_header, save_potential
    from equinet.cli.questions import method_with
    from equinet.convert import products as conversion
    from equinet.datasets import read_frames
    from equinet.train.report.record import write_json
    from equinet.verify import physics

    if out.exists():
        raise ValueError(f"{out} is there already and is not overwritten; give --out another name")
    old = load_potential(model)
    frames = None if data is None else read_frames(data, physics.NO_LABELS)
    new, report = conversion.convert(
        old,
        many_body=method_with(many_body, rank=rank, copies=copies),
        convolution=method_with(convolution),
        seed=seed,
    )
    change = conversion.measure_change(old, new, frames)
    origin = {"file": model.name, "training": read_header(model).training}
    record = {**report.as_json(), "change": change.as_json()}
    save_potential(new, out, training={"converted_from": origin, "conversion": record})
    show(console, [report.table()])
    where = f"{change.frames} random structures" if data is None else f"{change.frames} frames of {data}"
    for sentence in (f"on {where}, {change}", report.sentence(), f"model {out}"):
        console.print(sentence, highlight=False, soft_wrap=True, markup=False)
    if json_file is not None:
        write_json(json_file, record)
