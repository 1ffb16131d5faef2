"""The command line: thin, each command calls one function of the library."""

from . import (
    about,
    bench,
    bench_mace,
    bench_model,
    bench_products,
    bench_swap,
    data_convert,
    mace,
    potentials,
    products,
)  # isort: skip  # in the order of `equinet --help`
from .app import app, console, errors_to

__all__ = [
    "about",
    "app",
    "bench",
    "bench_mace",
    "bench_model",
    "bench_products",
    "bench_swap",
    "console",
    "data_convert",
    "errors_to",
    "mace",
    "potentials",
    "products",
]
