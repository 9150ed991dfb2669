"""Independent pieces of work on several cores, their results in order."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

_CHUNKS = 8  # a process takes its share in so many pieces, so that none is left with a long one at the end
_work: Callable[[int], Any]  # of this process, where it is one of several


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def for_each(work: Callable[[int], Result], count: int, processes: int) -> Iterator[Result]:
    """``work(0)``, ``work(1)``, … of ``count`` numbers, in this order, whichever process did them.

    Args:
        work: any function, a closure too: processes are forked, so that it and what it holds are not copied. Its
            results are sent back by pickling.
        count: how many.
        processes: 1 works in this one.
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
