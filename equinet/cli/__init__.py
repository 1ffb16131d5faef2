"""The command line: thin, each command calls one function of the library."""

from . import potentials, predictions, data, data_doctor, data_convert, data_sets, products, mace  # isort: skip  # in the order of `equinet --help`
from . import bench, bench_swap, bench_products, bench_model, bench_mace, about  # isort: skip
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
    "data",
    "data_convert",
    "data_doctor",
    "data_sets",
    "errors_to",
    "mace",
    "potentials",
    "predictions",
    "products",
]
