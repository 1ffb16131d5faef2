"""The command line: thin, each command calls one function of the library."""

from . import potentials, products, bench, about  # isort: skip  # in the order of `equinet --help`
from .app import app, console, errors_to

__all__ = ["about", "app", "bench", "console", "errors_to", "potentials", "products"]
