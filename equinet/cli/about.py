"""Commands that show: what equinet does, has and expects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from equinet import __version__

from .app import app, console
from .outputs import OUTPUT_FOLDER
from .render import show as show_blocks


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demonstration makes."), OUTPUT_FOLDER] = Path(
        "equinet-demo"
    ),
) -> None:
    """From real frames to molecular dynamics in one command: train, test, Langevin and NVE dynamics, with pictures."""
    from .demo import run_demo

    run_demo(out, console)


@app.command()
def doctor() -> None:
    """Show installed packages, the kernels that run on this machine, and missing optional accelerators with the reason."""
    from equinet.verify.installation import report

    show_blocks(console, report())


@app.command()
def keys(
    architecture: Annotated[
        str, typer.Option(help="Architecture whose keys [model] shows; mace, or a registered one.")
    ] = "mace",
) -> None:
    """Every key of a training configuration, its default and its meaning."""
    from rich.table import Table

    from equinet.train.config import describe_keys

    table = Table(title="keys of a training configuration (TOML)", show_lines=False)
    for title in ("key", "default", "meaning"):
        table.add_column(title, no_wrap=title == "key")
    for key, default, meaning in describe_keys(architecture):
        table.add_row(key, escape(default), escape(meaning))
    console.print(table)


@app.command()
def show(model: Annotated[Path, typer.Argument(help="Model file (*.eqn).")]) -> None:
    """Show the contents of a model file: equations, elements, versions, and the errors it was saved with."""
    import json

    from equinet.checkpoint import load_potential, read_header
    from equinet.convert.mace.origin import warning_of

    console.print(repr(load_potential(model)), markup=False, highlight=False, soft_wrap=True)
    header = read_header(model)
    shown = {key: getattr(header, key) for key in ("units", "versions", "origin", "training")}
    console.print_json(json.dumps({key: value for key, value in shown.items() if value}))
    if warning := warning_of(header.origin):
        console.print(warning, style="yellow", highlight=False, soft_wrap=True, markup=False)
