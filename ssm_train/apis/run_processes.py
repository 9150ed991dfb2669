"""Processes that make one training after the other, so that imports and the start of a GPU are paid once in each.

The engine is Python's own :mod:`concurrent.futures`, which needs no installation. This module imports no torch: its
processes set their environment first.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ssm_train.apis import cli

_orphaned = threading.Event()  # in a process of runs: the process that started it has ended


class Training(NamedTuple):
    """A training, as ``tree-ssm train --resume --or-begin`` has it.

    Attributes:
        config: the config file.
        options: ``KEY=VALUE`` for what is changed in it.
        folder: the work folder.
        amp: train in mixed precision.
        compiled: compile the network.
    """

    config: str
    options: tuple[str, ...]
    folder: str
    amp: bool
    compiled: bool


class Made(NamedTuple):
    """How a training ended.

    Attributes:
        status: its exit status, that of ``tree-ssm train``; 1 if its process died.
        seconds: that it took, without the start of its process.
        died: whether its process did.
    """

    status: int
    seconds: float
    died: bool = False


class RunProcess:
    """A process for trainings, one after the other. If one of them ends it, the next training has a new process.

    The process ends with the one that started it, even if that is killed: a training then saves its state first.

    Args:
        environment: variables that the process has in addition.
    """

    def __init__(self, environment: Mapping[str, str]):
        self._environment = dict(environment)
        self._pool: ProcessPoolExecutor | None = None

    def train(self, training: Training, log: Path, started: Callable[[], None] | None = None) -> Made:
        """Train, or go on with a training that was stopped.

        Args:
            training: what is trained.
            log: file to which its output is appended.
            started: called when the process is there, among the children of this one.
        """
        if self._pool is None:
            # Not forked: a process whose parent has asked for GPUs cannot use them.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(self._environment,))
        begin = time.perf_counter()
        try:
            future = self._pool.submit(_train, training, str(log))
            if started is not None:
                started()
            return future.result()
        except BrokenProcessPool:
            self.end()
            with log.open("a") as file:
                file.write("error: the process of this run died\n")
            return Made(1, time.perf_counter() - begin, died=True)

    def end(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None


def environments(count: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """The environments of processes that share a machine: GPUs are dealt to them in turns, and cores are divided.

    Args:
        count: number of processes.
        gpus: the GPUs, as ``CUDA_VISIBLE_DEVICES`` names them.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // count))
    shared = {"OMP_NUM_THREADS": threads}
    chosen = ({"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {} for place in range(count))
    return [shared | own for own in chosen]


def _begin(environment: Mapping[str, str]) -> None:
    """Prepare a new process, before it imports torch."""
    os.environ.update(environment)
    cli.let_threads_sleep()
    # How this process was started is no choice for those that its trainings start: mmengine would warn of it.
    multiprocessing.set_start_method(None, force=True)
    # Ctrl-C ends it in silence between two runs. A training handles the signal itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(Exception):  # the training says what is wrong
        import ssm_train.apis.train  # noqa: F401  here, so that its time is not that of the first training


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    _orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)


def _train(training: Training, log: str) -> Made:
    """Train in this process, whose output goes to a file."""
    # Imported here, since the environment has to be set before.
    from ssm_train.runtime.stopping import handlers_kept

    begin = time.perf_counter()
    with warnings.catch_warnings():
        pass  # Python then forgets which warnings it has shown, and each training gives its own
    # After a training that a signal stopped, signals would be ignored until the end of the process.
    with _output_to(log), handlers_kept():
        try:
            status = cli.run(lambda: _run(training))
        except Exception:
            traceback.print_exc()
            status = 1
    if _orphaned.is_set():
        os._exit(status)
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # for the other processes
            torch.cuda.reset_peak_memory_stats()  # or the next training would log this one's peak as its first
    return Made(status, time.perf_counter() - begin)


def _run(training: Training) -> None:
    # Imported here, since the environment has to be set before.
    from ssm_train.apis.train import train
    from ssm_train.runtime.config import run_config

    config, options, folder, amp, compiled = training
    cfg = run_config(config, list(options), folder, amp=amp, compiled=compiled)
    cli.say(train(cfg, resume=True, or_begin=True).describe(cfg))


@contextmanager
def _output_to(log: str) -> Iterator[None]:
    """Append everything that this process prints to a file."""
    kept = [os.dup(number) for number in (1, 2)]
    with open(log, "ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
