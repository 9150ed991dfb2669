"""How many processes load data beside a training, and with which priority."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

# The main thread and the thread of the backward pass launch kernels in turns. Another thread pins and copies batches.
# Kernels that are launched late cost more than a loader brings.
_KEPT = 2
# With as many loaders as cores, the scheduler would give a launching thread its fair share, which is too little. This
# niceness gives it three times the share of a loader.
NICENESS = 5
_CGROUP = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU time in a period, and the period


class Cores(NamedTuple):
    """The cores that a process of a training has.

    Attributes:
        here: cores that all its processes on this machine may use.
        processes: number of these processes.
    """

    here: int
    processes: int

    @property
    def each(self) -> int:
        """Cores of one process, 1 at least."""
        return max(1, self.here // self.processes)


def cores() -> Cores:
    """The cores of this machine that the training may use, as the system, its container and the launcher say."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    if quota is not None:
        allowed = max(1, min(allowed, quota))
    # torchrun says how many processes share the machine. A task of Slurm has cores of its own.
    together = os.environ.get("LOCAL_WORLD_SIZE", "")
    return Cores(allowed, int(together) if together.isdigit() and int(together) else 1)


def loaders_for(found: Cores, on_gpu: bool) -> int:
    """How many processes should load the data of one training process, 1 at least.

    Args:
        found: the cores.
        on_gpu: whether the network is trained on a GPU. Otherwise most cores are for the network.
    """
    return max(1, found.each - _KEPT if on_gpu else found.each // 4)


def choose(name: str, on_gpu: bool | None = None) -> tuple[int, str]:
    """Choose the number of processes for a loader that does not give it.

    Args:
        name: what the loader is called in the message.
        on_gpu: see :func:`loaders_for`; None asks torch.

    Returns:
        The number, and a line that says why.
    """
    found = cores()
    count = loaders_for(found, torch.cuda.is_available() if on_gpu is None else on_gpu)
    shared = "" if found.processes == 1 else f" for {found.processes} training processes"
    processes = f"{count} process{'es' if count > 1 else ''}"
    return count, f"{name}: {processes} of niceness {NICENESS}, since the machine has {found.here} cores{shared}"


def too_many(loaders: Mapping[str, Any]) -> str:
    """What to tell a user whose config has more loading processes in a loader than the machine has cores.

    Args:
        loaders: the settings of data loaders by their keys in the config.

    Returns:
        A line for all of them; an empty text if there are none.
    """
    have = cores().here
    found = [
        f"{key}.num_workers={count}"
        for key, loader in loaders.items()
        if isinstance(loader, Mapping) and isinstance(count := loader.get("num_workers"), int) and count > have
    ]
    if not found:
        return ""
    what = "is more than one for each core" if len(found) == 1 else "are more than one for each core"
    return f"{' and '.join(found)} {what} of this machine, which has {have}: None leaves the number to the machine"


def start(given: Callable[[int], None] | None, worker: int) -> None:
    """Let a loading process give way to the threads of the training, as the ``worker_init_fn`` of a data loader.

    Args:
        given: another ``worker_init_fn``, called afterwards.
        worker: number of the process.
    """
    os.nice(NICENESS)
    if given is not None:
        given(worker)


def _quota() -> int | None:
    try:
        limit, period = _CGROUP.read_text().split()
        return None if limit == "max" else math.ceil(int(limit) / int(period))
    except (OSError, ValueError):
        return None
