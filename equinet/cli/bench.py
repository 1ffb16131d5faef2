"""`equinet bench`: measurements, each with its correctness first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app, console, plain_errors

bench = typer.Typer(help="Measure: which tensor product to choose.", no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(bench, name="bench")


@bench.command()
def swap(
    config: Annotated[
        Path, typer.Argument(help="Training configuration (TOML) with data.test; its products are replaced.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; a run that was stopped goes on there.")],
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
    from equinet.bench.swap.report import terminal_table, write_report
    from equinet.bench.swap.run import PAIRS
    from equinet.bench.swap.run import swap as run_swap
    from equinet.train import read_config

    with plain_errors():
        settings = read_config(config, set_ or [])
        pairs = [pair for pair in PAIRS if not only or any(text in str(pair) for text in only)]
        if not pairs:
            raise ValueError(f"no pair contains {' or '.join(only or [])}; there are: " + "; ".join(map(str, PAIRS)))
        rows = run_swap(settings, out, pairs=pairs, minutes=minutes, seeds=seeds, jobs=jobs, console=console)
        write_report(rows, settings, minutes, out)
        console.print(terminal_table(rows, f"{minutes:g} processor minutes each"))
        console.print(f"written to {out}: swap.md, swap.json, swap.png", highlight=False, soft_wrap=True)
