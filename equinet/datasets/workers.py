"""Work done ahead by other processes, in order: graphs for the model, parts of a store."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 4  # results that each process keeps ready


def in_workers(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Results of a function for each item, in the order of the items, computed by other processes ahead of their use.

    The processes end with the iterator. Signals that stop a run are for this process alone.

    Args:
        function: Function that can be pickled; open files of it are not shared.
        items: Arguments.
        workers: Number of processes; 0 computes each result here when it is asked for.

    Raises:
        Exception: Whatever the function raises, when its result would be due.
    """
    if not workers or not len(items):
        yield from map(function, items)
        return
    loader = DataLoader(
        _Mapped(function, items),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=min(workers, len(items)),
        prefetch_factor=AHEAD,
        worker_init_fn=_Begin(os.getpid()),
        generator=torch.Generator(),  # its own: else torch's common one is drawn from, and a run depends on how it was loaded
    )
    for result in loader:
        if isinstance(result, _Failure):
            raise result.error
        yield result


class _Failure:
    """An error on its way to the process that asked; torch would make it a page of tracebacks."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Mapped(Dataset, Generic[Item, Result]):
    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, n: int) -> Result | _Failure:
        try:
            return self.function(self.items[n])
        except Exception as error:  # of whatever kind, it is raised where the result is awaited
            return _Failure(error)


def _as_it_is(value: Any) -> Any:
    return value


class _Begin:
    """Prepares a worker.

    A signal to all processes of a job is for the one that saves its state, which still needs the others for the step under way. If that one is
    killed, they end by themselves: torch's own watch does not see it while they wait for somebody to take their results.
    """

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __call__(self, _: int) -> None:
        for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
            if hasattr(signal, name):  # Windows has fewer
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        # The second one is from the process that asked: it ends those that are left when it ends.
        signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
        threading.Thread(target=self._end_with_parent, daemon=True).start()

    def _end_with_parent(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(1.0)
        os._exit(1)
