"""The application that commands are added to, its terminals, and the display of errors that a user can mend."""

from __future__ import annotations

import logging
import re
import shlex
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand

from .outputs import require_outputs

console = Console()
errors_to = Console(stderr=True)


class Command(TyperCommand):
    """A command that shows errors which a user can mend as one sentence."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with plain_errors(self.params), plain_warnings(), telling():
            if self.callback is not None:
                require_outputs(self.callback, ctx.params)
            return super().invoke(ctx)


class App(typer.Typer):
    """An application all of whose commands are :class:`Command`."""

    def command(self, name: str | None = None, **settings: Any) -> Any:
        """Register a function as a command."""
        return super().command(name, cls=Command, **settings)


app = App(
    name="equinet",
    help="Equivariant interatomic potentials: train on your frames, test, run molecular dynamics.\n\n"
    "Begin with `equinet demo`: it trains on a sample that ships with equinet, tests, and runs molecular dynamics.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)


@contextmanager
def plain_errors(options: Sequence[Any] = ()) -> Iterator[None]:
    """Show errors that a user can mend as one sentence; anything else is a bug of ours and keeps its traceback.

    Args:
        options: Options of the running command, into whose flags messages of the library are translated.
    """
    from equinet.md import Interrupted as RunInterrupted
    from equinet.train import Interrupted as TrainingInterrupted
    from equinet.verify.backends import BackendMismatchError

    try:
        yield
    except TrainingInterrupted as stop:
        command = ["equinet", "train", str(stop.out / "config.toml"), "--out", str(stop.out), "--resume"]
        remedy = f"To go on: {shlex.join(command)}" if stop.has_state else "To start again: the same command"
        _show("\n", f"{stop}. {remedy}", "yellow")
        raise typer.Exit(128 + stop.signal) from None
    except RunInterrupted as stop:
        _show("\n", in_flags(str(stop), options), "yellow")
        raise typer.Exit(128 + stop.signal) from None
    except (ValueError, OSError, MemoryError, FloatingPointError, BackendMismatchError) as error:
        _show("[bold red]error:[/] ", in_flags(str(error) or _without_words(error), options), "")
        raise typer.Exit(1) from None


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings to the user as one sentence, without the line of code that gave them."""
    with warnings.catch_warnings():
        as_before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, UserWarning):
                _show("[yellow]warning:[/] ", str(message), "")
            else:
                as_before(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _without_words(error: BaseException) -> str:
    """Kind of an error without a message, and the line that raised it."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for this (MemoryError); take less at a time, or a machine that has more"
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__} without a message, in {where.name} ({Path(where.filename).name}, line {where.lineno})"
    )


def in_flags(message: str, options: Sequence[Any]) -> str:
    """Translate arguments that a message of the library names, `` `resume=True` ``, into flags of the command.

    Args:
        message: Text in which arguments stand between backquotes.
        options: Options of the command; positional arguments among them are left as they are.
    """
    for option in options:
        if option.opts and option.opts[0].startswith("--"):
            message = re.sub(rf"`{option.name.rstrip('_')}(=True)?`", option.opts[0], message)
    return message


class _Faint(logging.Handler):
    """Shows what the library has to say as faint lines on the terminal's stream of errors."""

    def emit(self, record: logging.LogRecord) -> None:
        errors_to.print(escape(record.getMessage()), style="dim", highlight=False, soft_wrap=True)


@contextmanager
def telling() -> Iterator[None]:
    """Within it, what the library logs, such as that making code takes a while, is shown."""
    logger, handler = logging.getLogger("equinet"), _Faint(logging.INFO)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _show(before: str, message: str, style: str) -> None:
    errors_to.print(f"{before}{escape(message)}", style=style, highlight=False, soft_wrap=True)
