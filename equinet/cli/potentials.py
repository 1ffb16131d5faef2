"""Commands that make, test and use a potential."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer

from .app import app, console
from .outputs import OUTPUT_FILE, OUTPUT_FOLDER, OUTPUT_PICTURE
from .render import progress, show

MATMUL = "Matrix products: float32 as it is (ieee), or coarser and on a GPU faster, at an error that is printed."
SHOWN_GROUPS = 12  # of files, configuration types or elements, unless they are asked for


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="Configuration, TOML. `equinet keys` explains every key.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. --set model.channels=32. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for model and results; by default named after the configuration."),
        OUTPUT_FOLDER,
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

    from .training import TerminalReporter

    resolved = read_config(config, settings or [])
    folder = out or Path("runs") / config.stem
    if reason := OUTPUT_FOLDER.why_not(folder):
        raise ValueError(f"`out`: {reason}")
    run(resolved, folder, resume=resume, reporter=TerminalReporter(console))
    console.print(
        f"\nresults in {folder}/   next:  equinet md {folder}/model.eqn YOUR_STRUCTURE.xyz --out run.traj",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file (*.eqn).")],
    data: Annotated[
        list[str],
        typer.Argument(help="Labelled frames, one or several files, or published sets (`equinet data list`)."),
    ],
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Split the errors by file, element, or a key of the frames such as config_type. Repeatable. By default all three, "
            "where there are several."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write everything to this file."), OUTPUT_FILE
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="Also write the errors of all groups, comma-separated, into this file."),
        OUTPUT_FILE,
    ] = None,
    parity: Annotated[
        Path | None, typer.Option(help="Also draw labels against predictions into this PNG."), OUTPUT_PICTURE
    ] = None,
    energy_key: Annotated[str, typer.Option(help="Name of the energy in the file.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces in the file.")] = "forces",
    stress_key: Annotated[str, typer.Option(help="Name of the stress in the file.")] = "stress",
    virial_key: Annotated[str, typer.Option(help="Name of a virial in the file; the stress is -virial/volume.")] = "",
    stress_sign: Annotated[
        Literal["tension", "compression"], typer.Option(help="Sign of the stress in the file; VASP's is compression.")
    ] = "tension",
    weight_key: Annotated[str, typer.Option(help="Name of a frame's weight; only weight 0 matters.")] = "weight",
    units: Annotated[
        str, typer.Option(metavar="NAME=UNIT,...", help="Units in the file, e.g. energy=Hartree,length=Bohr.")
    ] = "",
    dtype: Annotated[str | None, typer.Option(help="float32 or float64; by default as the model was saved.")] = None,
    device: Annotated[str, typer.Option(help='"auto", "cpu", "cuda", ...')] = "auto",
    batch_size: Annotated[int, typer.Option(help="Frames at a time.")] = 32,
    matmul: Annotated[Literal["ieee", "tf32", "bf16"], typer.Option(help=MATMUL)] = "ieee",
) -> None:
    """Errors of a model on labelled frames: energy per atom, forces, stress; MAE and RMSE beside the labels' spread.

    Also by file, configuration type and element, the frames with the largest errors, and beside the errors published for the
    same set. Isolated atoms are told apart: they are the references and no test.

    Example:  equinet evaluate run/model.eqn test.xyz --by config_type --csv errors.csv
    """
    from equinet.datasets import LabelKeys, units_from_text
    from equinet.train import evaluate_file
    from equinet.train.report.plots import plot_parity
    from equinet.train.report.record import write_csv, write_json
    from equinet.train.report.tables import comparisons, error_table, extremes_table, group_table

    keys = LabelKeys(
        energy=energy_key,
        forces=forces_key,
        stress=stress_key,
        virial=virial_key,
        stress_sign=stress_sign,
        weight=weight_key,
        units=units_from_text(units),
    )
    with progress(console, "batches") as move:
        found = evaluate_file(
            model,
            data,
            keys,
            by=by,
            dtype=dtype,
            device=device,
            batch_size=batch_size,
            matmul=matmul,
            advance=lambda done, total: move(done, total, "predicting"),
            tell=lambda sentence: console.print(sentence, highlight=False, soft_wrap=True),
        )
    name = Path(data[0]).name if len(data) == 1 else f"{len(data)} files"
    groups = [group_table(groups, key, None if by else SHOWN_GROUPS) for key, groups in found.by.items()]
    tables = [
        error_table({name: found.errors}, f"{model} on {', '.join(data)}"),
        *groups,
        extremes_table(found.largest),
    ]
    show(console, [block for table in tables for block in (table, "")])
    show(console, [*comparisons(found.errors, found.published), *found.sentences()])
    if json_file is not None:
        write_json(json_file, found.as_json())
    if csv_file is not None:
        write_csv(csv_file, found.as_rows())
    if parity is not None:
        plot_parity({"test": found.predictions}, parity)


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
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write everything to this file."), OUTPUT_FILE
    ] = None,
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
    from equinet.checkpoint import load_potential
    from equinet.datasets import read_frames
    from equinet.ops.devices import choose_device
    from equinet.train.report.record import write_json
    from equinet.verify import physics

    frames = None if data is None else read_frames(data, physics.NO_LABELS)
    with progress(console, "measurements") as move:
        report = physics.check(
            load_potential(model, device=choose_device(device)),
            frames,
            tolerance_float32=tolerance_float32,
            tolerance_float64=tolerance_float64,
            seed=seed,
            max_structures=max_frames,
            advance=lambda done, total: move(done, total, "checking"),
        )
    taken = len(report.structures)
    where = f"{taken} random structures" if frames is None else f"{taken} of {len(frames)} frames of {data}"
    spread = ", spread evenly" if frames and taken < len(frames) else ""
    console.print(f"{model} on {where}{spread}", highlight=False, soft_wrap=True, markup=False)
    show(console, [report.table()])
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
    out: Annotated[Path, typer.Option(help="Trajectory to write, *.traj or *.xyz."), OUTPUT_FILE],
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
    matmul: Annotated[Literal["ieee", "tf32", "bf16"], typer.Option(help=MATMUL)] = "ieee",
    capture: Annotated[
        bool, typer.Option("--capture", help="Replay each step as one CUDA graph: for small systems on a GPU.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Molecular dynamics with a model. Ctrl-C saves; --resume goes on exactly where it stopped."""

    from equinet.datasets import read_structure
    from equinet.md import CoarseProducts, EquinetCalculator, plot_run

    from .dynamics import run_with_progress

    calculator = EquinetCalculator(model, device=device, dtype=dtype, matmul=matmul, capture=capture)
    structure = read_structure(atoms)
    if matmul != "ieee":
        with warnings.catch_warnings(action="ignore", category=CoarseProducts):
            calculator.calculate(structure)
        what = f"{calculator.rounding}, on the first structure"
        console.print(f"matrix products in {matmul}: {what}", highlight=False, soft_wrap=True)
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
