"""How long iterations take, for trainings of this project and of mmengine's own Runner."""

import json
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.profiler import ProfilerActivity, profile

from ssm_train.runtime.files import write_text_atomically
from ssm_train.runtime.iteration_times import busy_seconds

PROFILED = 5  # iterations whose kernels are added up, after those that are timed


class StepTimes(Hook):
    """Measures iterations of a training and writes a file of JSON at its end.

    The file has ``seconds``, the median of an iteration, ``waiting``, the share of the time in which the data were
    waited for, ``busy``, the share in which the GPU computed, and ``gibibytes``, the most memory that tensors took.
    The last two are None on a CPU. The training has to be :data:`PROFILED` + 1 iterations longer than what is measured.

    Args:
        warm_up: iterations before, in which kernels are compiled and loaders start.
        iterations: number of iterations.
        out: the file.
    """

    runs_late = True
    priority = "VERY_LOW"

    def __init__(self, warm_up: int, iterations: int, out: str):
        self.begin, self.end, self.out = warm_up, warm_up + iterations, Path(out)
        self.starts: list[float] = []
        self.waits: list[float] = []
        self.ended = self.busy = 0.0
        self.memory: float | None = None
        self.profile: profile | None = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Note the time, and trace the kernels of some iterations after those that are timed."""
        now, number = time.perf_counter(), len(self.starts)
        # Our loops count what they wait for. mmengine's do nothing else between two iterations.
        batches = getattr(runner.train_loop, "batches", None)
        self.waits.append(now - self.ended if batches is None else batches.waited)
        self.starts.append(now)
        if not torch.cuda.is_available():
            return
        if number == self.begin:
            torch.cuda.reset_peak_memory_stats()
        if number == self.end:
            torch.cuda.synchronize()
            self.memory = torch.cuda.max_memory_allocated() / 2**30
            self.profile = profile(activities=[ProfilerActivity.CUDA])
            self.profile.start()
        elif number == self.end + PROFILED and self.profile is not None:
            torch.cuda.synchronize()
            self.profile.stop()
            self.busy = busy_seconds(self.profile) / PROFILED

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Note the end of an iteration."""
        self.ended = time.perf_counter()

    def after_train(self, runner: Runner) -> None:
        """Write the row."""
        taken = np.diff(self.starts[self.begin : self.end + 1])
        waited = sum(self.waits[self.begin + 1 : self.end + 1])
        seconds = float(np.median(taken))
        found = {
            "seconds": seconds,
            "waiting": waited / float(taken.sum()),
            "busy": self.busy / seconds if self.profile is not None else None,
            "gibibytes": self.memory,
        }
        write_text_atomically(self.out, json.dumps(found))
