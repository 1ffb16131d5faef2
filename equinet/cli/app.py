"""The application that commands are added to, where it prints, and how it tells what a user can mend."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager

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
def plain_errors() -> Iterator[None]:
    """Show what a user can mend as one sentence; anything else is a bug of ours and keeps its traceback."""
    from equinet.md import Interrupted as RunInterrupted
    from equinet.train import Interrupted as TrainingInterrupted
    from equinet.verify.backends import BackendMismatchError

    try:
        yield
    except (TrainingInterrupted, RunInterrupted) as stop:
        errors_to.print(f"\n{escape(str(stop))}", style="yellow", highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None
    except (ValueError, OSError, MemoryError, FloatingPointError, BackendMismatchError) as error:
        errors_to.print(f"[bold red]error:[/] {escape(as_flags(str(error)))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def as_flags(text: str) -> str:
    """Return a message of the library with its arguments named as flags of the current command: `rounds` is --rounds."""
    # typer carries click within itself, under a private name; earlier versions need the package.
    click = typer.Context.__mro__[1].__module__.rpartition(".")[0]
    context = importlib.import_module(f"{click}.globals").get_current_context(silent=True)
    options = context.command.params if context is not None else []
    flags = {one.name.rstrip("_"): one.opts[0] for one in options if one.param_type_name == "option"}
    return re.sub(r"`(\w+)`", lambda match: flags.get(match[1], match[0]), text)
