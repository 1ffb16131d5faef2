"""`equinet bench swap`: products in a potential; `equinet bench training`: equinet and mace-torch trained side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import console
from .bench import Threads, bench, command_line, finish
from .outputs import OUTPUT_FOLDER
from .render import progress, show

if TYPE_CHECKING:
    from equinet.bench.swap.run import Row
    from equinet.bench.training.run import Row as Epoch


@bench.command()
def swap(
    config: Annotated[
        Path, typer.Argument(help="Training configuration (TOML) with data.test; its products are replaced.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder for the results; a run that was stopped goes on there."),
        OUTPUT_FOLDER,
    ],
    minutes: Annotated[float, typer.Option(help="Processor minutes of training for each.", min=0.01)] = 2.0,
    seeds: Annotated[
        int, typer.Option(help="Seeds for exact couplings and those within 10 % of the best force error.", min=1)
    ] = 3,
    jobs: Annotated[int, typer.Option(help="Trainings at a time, one thread each.", min=1)] = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="Only pairs whose text contains this, e.g. --only so2. Repeatable.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
) -> None:
    """The same potential with every tensor product and pair of products, trained for the same processor time.

    Writes a table of weights, time per epoch, test errors, equivariance errors and speed of molecular dynamics: swap.md,
    swap.json, swap.png. Products that cannot do the task are listed with the reason. The smallest configuration is

        [data]
        train = "train.xyz"
        test = "test.xyz"
    """
    from equinet.bench.swap.report import SUITE, record_of
    from equinet.bench.swap.run import PAIRS
    from equinet.bench.swap.run import swap as run_swap
    from equinet.train import read_config, to_toml

    settings = read_config(config, set_ or [])
    pairs = [pair for pair in PAIRS if not only or any(text in str(pair) for text in only)]
    if not pairs:
        raise ValueError(f"no pair contains {' or '.join(only or [])}; there are: " + "; ".join(map(str, PAIRS)))
    with progress(console, "trainings", period=600) as move:

        def told(done: int, total: int, row: Row) -> None:
            move(done, total, "")
            said = row.absent or f"forces {row.forces_rmse:.1f} meV/Å, energy {row.energy_rmse:.2f} meV/atom"
            console.print(f"{row.contender}  seed {row.seed}: {said}", highlight=False, soft_wrap=True)

        rows = run_swap(settings, out, pairs=pairs, minutes=minutes, seeds=seeds, jobs=jobs, told=told)
    record = record_of(settings, minutes, command_line(), rows)
    show(console, SUITE.terminal(record))
    finish(SUITE, record, out)
    (out / "swap.toml").write_text(to_toml(settings))


@bench.command()
def training(
    task: Annotated[
        str,
        typer.Argument(
            help="acac or si: published data from --data. Or a training configuration (*.toml) with data.test.",
            show_default=False,
        ),
    ],
    data: Annotated[Path, typer.Option(help="Folder that contains acac/ and mlearn/.")] = Path(),
    epochs: Annotated[int, typer.Option(help="Epochs of each package.", min=1)] = 5,
    threads: Threads = 1,
    seed: Annotated[int, typer.Option(help="Seed of split, order and initial weights of acac and si.")] = 1,
    stress_weight: Annotated[float, typer.Option(help="Weight of the stress in the loss of both, for si.")] = 1.0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for training.json, training.csv, training_table.md and training.png."),
        OUTPUT_FOLDER,
    ] = None,
) -> None:
    """equinet and mace-torch trained side by side: same frames, batches, sizes, loss and learning rate, epochs in turns.

        equinet bench training acac --data FOLDER --epochs 5 --out acac

        equinet bench training mine.toml

    Both begin with their own random weights and take constant steps of the same optimiser; a time is that of an epoch without
    validation, errors are those of the averaged weights on frames that are held out.
    """
    from equinet.bench.core.timing import threads as limited
    from equinet.bench.training.report import FORCES, SUITE
    from equinet.bench.training.run import compare, config_of
    from equinet.train import read_config

    def told(row: Epoch) -> None:
        seconds = f"{row.seconds:7.2f} s" if row.seconds is not None else f"{'':9}"
        line = f"{row.task:10}  {row.contender:10}  {seconds}  forces {row.errors[FORCES]:8.2f} meV/Å"
        console.print(line, style="dim", highlight=False)

    with limited(threads):
        given = task.endswith(".toml")
        config = read_config(Path(task)) if given else config_of(task, data, seed, stress_weight)
        record = compare(Path(task).stem, config, epochs, threads, command_line(), told)
    show(console, SUITE.terminal(record))
    finish(SUITE, record, out)
