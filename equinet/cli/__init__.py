"""The command line: thin, each command calls one function of the library."""

from . import potentials, data_doctor, products, mace, bench, bench_swap, bench_products, bench_model, bench_mace, about  # isort: skip  # in the order of `equinet --help`
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
    "data_doctor",
    "errors_to",
    "mace",
    "potentials",
    "products",
]
