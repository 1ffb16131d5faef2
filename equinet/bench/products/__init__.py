"""Microbenchmarks of single products, ours and other libraries': first whether they are right, then how fast.

:mod:`equinet.bench.products.timing` knows nothing of products and times any functions in turns.
"""

from .problems import Problem, named_problem, pair_problem
from .record import Record, Settings
from .report import terminal, write
from .run import measure
from .timing import Timings, interleaved

__all__ = [
    "Problem",
    "Record",
    "Settings",
    "Timings",
    "interleaved",
    "measure",
    "named_problem",
    "pair_problem",
    "terminal",
    "write",
]
