"""Doing independent pieces of work on several cores, and getting the results in order."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

_CHUNKS = 8  # each process takes its share in this many chunks, so that no process ends much later than the others
_work: Callable[[int], Any]  # what a worker process does; unset in the main process


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def for_each(work: Callable[[int], Result], count: int, processes: int) -> Iterator[Result]:
    """Call ``work(0)``, ``work(1)``, … ``work(count - 1)`` in several processes, and yield the results in this order.

    Args:
        work: any function, also a closure. It is not pickled, because processes are forked. Its results are pickled.
        count: number of calls.
        processes: number of processes; 1 works in the calling process.
    """
    processes = min(processes, count)
    if processes == 1:
        yield from map(work, range(count))
        return
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, fork, initializer=_take, initargs=(work,)) as pool:
        yield from pool.map(_do, range(count), chunksize=max(count // (processes * _CHUNKS), 1))


def _take(work: Callable[[int], Any]) -> None:
    global _work
    _work = work


def _do(number: int) -> Any:
    return _work(number)
