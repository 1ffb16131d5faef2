"""Other processes give the same results in the same order, their errors as they were, and leave random numbers and signals alone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from equinet.datasets.workers import in_workers


def square(n: int) -> tuple[int, int]:
    if n == 13:
        raise ValueError("a.aselmdb, frame 13: is damaged")
    return n * n, os.getpid()


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_order(workers: int) -> None:
    found = list(in_workers(square, range(12), workers))
    assert [value for value, _ in found] == [n * n for n in range(12)]
    assert (os.getpid() in {process for _, process in found}) == (workers == 0)
    assert list(in_workers(square, [], workers)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_as_it_was_when_its_result_is_due(workers: int) -> None:
    results = in_workers(square, range(10, 20), workers)
    assert [next(results)[0] for _ in range(3)] == [100, 121, 144]
    with pytest.raises(ValueError, match=r"^a\.aselmdb, frame 13: is damaged$"):
        next(results)


def test_random_numbers_are_those_without_workers() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    list(in_workers(square, range(4), 1))
    assert torch.equal(torch.rand(2), expected)


def signalled(n: int) -> int:
    for each in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
        os.kill(os.getpid(), each)
    return n


def test_signals_to_all_processes_of_a_job_do_not_end_the_workers() -> None:
    assert list(in_workers(signalled, range(1), 1)) == [0]


def test_processes_end_with_the_iterator() -> None:
    results = in_workers(square, range(100), 1)
    process = next(results)[1]
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def large(n: int) -> tuple[int, bytes]:
    """A result that waits in the pipe for somebody to take it."""
    return os.getpid(), bytes(1_000_000)


def test_processes_end_when_the_one_that_asked_is_killed() -> None:
    reader, writer = os.pipe()
    asking = os.fork()
    if asking == 0:
        results = in_workers(large, range(100), 1)
        os.write(writer, str(next(results)[0]).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writer)
    worker = int(os.read(reader, 20))
    os.close(reader)
    os.waitpid(asking, 0)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and runs(worker):
        time.sleep(0.1)
    assert not runs(worker)


def runs(process: int) -> bool:
    """False if it is not there or dead and only not yet waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
