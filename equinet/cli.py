"""The command line: thin, each command calls one function of the library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    name="equinet",
    help="Equivariant interatomic potentials: train on your frames, test, run molecular dynamics.\n\n"
    "Begin with `equinet demo`: it trains on a sample that ships with equinet, tests, and runs molecular dynamics.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)
console = Console()
errors_to = Console(stderr=True)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Show what a user can mend as one sentence; anything else is a bug of ours and keeps its traceback."""
    from equinet.md import Interrupted as RunInterrupted
    from equinet.train import Interrupted as TrainingInterrupted

    try:
        yield
    except (TrainingInterrupted, RunInterrupted) as stop:
        errors_to.print(f"\n{escape(str(stop))}", style="yellow", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        errors_to.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="Configuration, TOML. `equinet keys` explains every key.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. --set model.channels=32. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for model and results; by default named after the configuration.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Train a potential on your frames.

    The smallest configuration is

        [data]
        train = "frames.xyz"

    with energies in eV and forces in eV/Å in extended XYZ. Writes model.eqn, config.toml (every key, explained),
    metrics.jsonl, errors.json and plots/. Ctrl-C saves; --resume goes on.
    """
    from equinet.train import read_config, run

    with _plain_errors():
        settings = read_config(config, set_ or [])
        folder = out or Path("runs") / config.stem
        run(settings, folder, resume=resume, console=console)
        console.print(
            f"\nresults in {folder}/   next:  equinet md {folder}/model.eqn YOUR_STRUCTURE.xyz --out run.traj",
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file (*.eqn).")],
    data: Annotated[Path, typer.Argument(help="Labelled frames, extended XYZ.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the errors to this file.")] = None,
    parity: Annotated[Path | None, typer.Option(help="Also draw labels against predictions into this PNG.")] = None,
    energy_key: Annotated[str, typer.Option(help="Name of the energy in the file.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces in the file.")] = "forces",
    stress_key: Annotated[str, typer.Option(help="Name of the stress in the file.")] = "stress",
    dtype: Annotated[str | None, typer.Option(help="float32 or float64; by default as the model was saved.")] = None,
    device: Annotated[str, typer.Option(help='"auto", "cpu", "cuda", ...')] = "auto",
    batch_size: Annotated[int, typer.Option(help="Frames at a time.")] = 32,
) -> None:
    """Errors of a model on labelled frames: energy per atom, forces, stress; MAE and RMSE beside the labels' spread."""
    from equinet.datasets import LabelKeys
    from equinet.train import evaluate_file
    from equinet.train.log import error_table, write_json
    from equinet.train.plots import plot_parity

    with _plain_errors():
        keys = LabelKeys(energy_key, forces_key, stress_key)
        predictions, found = evaluate_file(
            model, data, keys, dtype=dtype, device=device, batch_size=batch_size, console=console
        )
        console.print(error_table({data.name: found}, title=f"{model} on {data}"))
        if json_file is not None:
            write_json(json_file, found.as_json())
        if parity is not None:
            plot_parity({"test": predictions}, parity)


@app.command()
def check(
    model: Annotated[Path, typer.Argument(help="Model file (*.eqn).")],
    data: Annotated[
        Path | None,
        typer.Argument(help="Structures to measure on, any format ASE reads, labels or not; by default random ones."),
    ] = None,
    max_frames: Annotated[int, typer.Option(help="Of a longer file take this many frames, spread evenly.")] = 20,
    tolerance_float32: Annotated[float, typer.Option(help="Largest relative error that passes in float32.")] = 3e-5,
    tolerance_float64: Annotated[
        float, typer.Option(help="The same in float64; finite differences get at least 1e-6.")
    ] = 1e-10,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
    device: Annotated[str, typer.Option(help='"auto", "cpu", "cuda", ...')] = "auto",
    seed: Annotated[int, typer.Option(help="Decides rotations, directions and random structures.")] = 0,
) -> None:
    """Measure whether a model obeys physics: what must hold exactly, whatever it has learnt.

    On every structure, in float32 and float64: turned, mirrored, shifted, with its atoms in another order, or beside other
    structures in a batch, it must have the same energy, forces and stress; a doubled cell must have twice the energy; forces
    and stress must be derivatives of the energy.

    Errors are relative to interaction energies and forces, so 3e-5 is a tolerable rounding error in float32. A model
    whose tensor products are approximate is not exactly equivariant: it fails, and the table tells by how much.

    Without DATA it takes random structures of the model's elements: clusters, a slab, a crystal, a pair, an isolated atom.
    Your own tell more about errors where you will use it. The exit code is 1 if anything fails.
    """
    from equinet import checks
    from equinet.checkpoint import load_potential
    from equinet.datasets import read_frames
    from equinet.potential import choose_device
    from equinet.train.log import write_json

    with _plain_errors():
        frames = None if data is None else read_frames(data, checks.NO_LABELS)
        report = checks.check(
            load_potential(model, device=choose_device(device)),
            frames,
            tolerance_float32=tolerance_float32,
            tolerance_float64=tolerance_float64,
            seed=seed,
            max_structures=max_frames,
            console=console,
        )
        taken = len(report.structures)
        where = f"{taken} random structures" if frames is None else f"{taken} of {len(frames)} frames of {data}"
        spread = ", spread evenly" if frames and taken < len(frames) else ""
        console.print(f"{model} on {where}{spread}", highlight=False, soft_wrap=True, markup=False)
        console.print(report.table())
        for sentence in report.sentences():
            console.print(sentence, highlight=False, soft_wrap=True, markup=False)
        if json_file is not None:
            write_json(json_file, report.as_json())
    if report.failures:
        raise typer.Exit(1)


@app.command()
def md(
    model: Annotated[Path, typer.Argument(help="Model file (*.eqn).")],
    atoms: Annotated[
        Path, typer.Argument(help="Structure to start from, any format ASE reads; its last frame is taken.")
    ],
    out: Annotated[Path, typer.Option(help="Trajectory to write, *.traj or *.xyz.")],
    ensemble: Annotated[
        Literal["nve", "nvt", "npt"], typer.Option(help="nvt and npt use a Langevin thermostat.")
    ] = "nvt",
    temperature: Annotated[float, typer.Option(help="Temperature in K.")] = 300.0,
    timestep: Annotated[float, typer.Option(help="Time step in fs; 0.5 with hydrogen, 1 to 2 without.")] = 0.5,
    steps: Annotated[int, typer.Option(help="Number of steps in all.")] = 2000,
    pressure: Annotated[float, typer.Option(help="Pressure in GPa (npt).")] = 0.0,
    friction: Annotated[float, typer.Option(help="Friction of the thermostat in 1/fs (nvt, npt).")] = 0.01,
    save_every: Annotated[int, typer.Option(help="Steps between saved frames.")] = 10,
    seed: Annotated[int, typer.Option(help="Decides initial velocities and thermostat noise.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float64",
    device: Annotated[str, typer.Option(help='"auto", "cpu", "cuda", ...')] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Molecular dynamics with a model. Ctrl-C saves; --resume goes on exactly where it stopped."""

    from equinet.datasets import read_structure
    from equinet.md import EquinetCalculator, plot_run, run_with_progress

    with _plain_errors():
        calculator = EquinetCalculator(model, device=device, dtype=dtype)
        structure = read_structure(atoms)
        summary = run_with_progress(
            structure,
            calculator,
            console=console,
            ensemble=ensemble,
            temperature=temperature,
            timestep=timestep,
            steps=steps,
            out=out,
            friction=friction,
            pressure=pressure,
            save_every=save_every,
            seed=seed,
            resume=resume,
        )
        picture = out.with_suffix(".png")
        plot_run(summary, picture)
        console.print(
            f"trajectory {out}   picture {picture}   view it with:  ase gui {out}", highlight=False, soft_wrap=True
        )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demonstration makes.")] = Path("equinet-demo"),
) -> None:
    """From real frames to molecular dynamics in one command: train, test, Langevin and NVE dynamics, with pictures."""
    from equinet.demo import run_demo

    with _plain_errors():
        run_demo(out, console)


@app.command()
def doctor() -> None:
    """What is installed, on what this machine will run, and which optional accelerators are missing and why."""
    from equinet.doctor import report

    console.print(report())


@app.command()
def keys() -> None:
    """Every key of a training configuration, its default and its meaning."""
    from rich.table import Table

    from equinet.train.config import describe_keys

    table = Table(title="keys of a training configuration (TOML)", show_lines=False)
    for title in ("key", "default", "meaning"):
        table.add_column(title, no_wrap=title == "key")
    for key, default, meaning in describe_keys():
        table.add_row(key, escape(default), escape(meaning))
    console.print(table)


@app.command()
def show(model: Annotated[Path, typer.Argument(help="Model file (*.eqn).")]) -> None:
    """What a model file holds: its equations, elements, versions, and the errors it was saved with."""
    import json

    from equinet.checkpoint import load_potential, read_header

    with _plain_errors():
        console.print(repr(load_potential(model)), markup=False, highlight=False, soft_wrap=True)
        header = read_header(model)
        console.print_json(json.dumps({key: header[key] for key in ("units", "versions", "training")}))
