"""Where the time of an iteration goes: a table after some iterations of a training, and what bounds it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.profiler import ProfilerActivity, profile

_PROFILED = 5  # iterations whose kernels are added up
_MUCH = 0.1  # of an iteration: a smaller share bounds nothing


@dataclass(frozen=True)
class IterationTimes:
    """Seconds of an iteration, on average.

    Attributes:
        iterations: number of iterations that were measured.
        whole: an iteration.
        loader: waiting for the data loader.
        step: the host's part of the training step. On a GPU it queues kernels, and on a CPU it computes.
        waiting: the host waits for the device; 0 on a CPU.
        between: validations, and what else is between two epochs.
        device: the device computes; None on a CPU, or if it could not be measured.
        cores: cores that this process keeps busy, without the loading processes.
        threads: threads that torch computes with on a CPU.
        loaders: number of loading processes.
    """

    iterations: int
    whole: float
    loader: float
    step: float
    waiting: float
    between: float
    device: float | None
    cores: float
    threads: int
    loaders: int

    @property
    def rest(self) -> float:
        """Hooks after iterations: the log, averages of the weights, checkpoints."""
        return max(0.0, self.whole - self.loader - self.step - self.waiting - self.between)

    @property
    def idle(self) -> float | None:
        """The device has nothing to do; None if that is not known."""
        return None if self.device is None else max(0.0, self.whole - self.between - self.device)

    def rows(self) -> list[tuple[str, float]]:
        """What the table lists, with seconds."""
        on_gpu = self.device is not None
        rows = [
            ("waiting for the loader", self.loader),
            ("host: queueing the step" if on_gpu else "computing the step", self.step),
            ("host: hooks and log", self.rest),
        ]
        if on_gpu:
            rows += [("host: waiting for the device", self.waiting)]
        rows += [("validations, ends of epochs", self.between), ("iteration", self.whole)]
        if self.device is not None and self.idle is not None:
            rows += [("device: computing", self.device), ("device: idle", self.idle)]
        return rows

    def table(self) -> str:
        """The table, and below it what bounds the training."""
        lines = [f"{'of an iteration':30s}{'ms':>10s}{'share':>9s}"]
        lines += [f"{name:30s}{1e3 * seconds:10.2f}{seconds / self.whole:9.0%}" for name, seconds in self.rows()]
        if self.device is None:
            lines.append(f"{'cores at work, without loaders':30s}{self.cores:10.2f}")
        return "\n".join([f"{self.iterations} iterations:", *lines, self.verdict()])

    def verdict(self) -> str:
        """What bounds the training and what to change, in a sentence."""
        loader, rest, between = (part / self.whole for part in (self.loader, self.rest, self.between))
        if between >= _MUCH and self.between > max(self.loader, self.rest, self.step + self.waiting):
            return (
                f"Validations bound this training: they and the ends of epochs take {between:.0%} of the time: "
                "validate and save less often (train_cfg.val_interval, default_hooks.checkpoint.interval)."
            )
        if self.idle is not None and self.idle / (self.whole - self.between) < _MUCH:
            return (
                "The device bounds this training: only a smaller network, a lower precision (--amp), --compile or more "
                "GPUs make it faster."
            )
        if loader >= _MUCH and loader >= rest:
            return (
                f"The loading of data bounds this training: it takes {loader:.0%} of the time with {self.loaders} "
                f"process{'' if self.loaders == 1 else 'es'}: raise train_dataloader.num_workers while there are idle "
                "cores, or make samples cheaper."
            )
        if rest >= _MUCH and self.rest > self.step:
            return (
                "Hooks bound this training: log and save less often, or leave out the custom hooks that read values of "
                "the device."
            )
        if self.idle is not None:
            return (
                "The host bounds this training: it launches kernels more slowly than the device runs them: use "
                "--compile, a larger batch, or fewer loading processes if all cores are busy."
            )
        return (
            f"The network bounds this training: {self.step / self.whole:.0%} of the time computes it on {self.threads} "
            f"thread{'' if self.threads == 1 else 's'} of the processor: a GPU, more threads or a smaller network make "
            "it faster."
        )


class IterationTimesHook(Hook):
    """Prints where the time of an iteration goes, once. The Runner registers it if it is asked to.

    Args:
        iterations: number of iterations to measure.
        skipped: number of iterations before, in which kernels are compiled and loaders start.
    """

    runs_late = True
    priority = "VERY_LOW"

    def __init__(self, iterations: int, skipped: int = 20):
        self.iterations, self.skipped = iterations, skipped
        self._seen, self._waited, self._between = 0, 0.0, 0.0
        self._begin: tuple[float, ...] | None = None
        self._now: tuple[float, ...] = ()
        self._profile: profile | None = None
        self._done = False

    @property
    def needed(self) -> int:
        """Iterations of a training after which the table comes."""
        return self.skipped + self.iterations + (_PROFILED if torch.cuda.is_available() else 0) + 1

    def before_train(self, runner: Runner) -> None:
        """Say at the start if the training will be too short."""
        left = runner.max_iters - runner.iter
        if left < self.needed:
            runner.logger.warning(
                f"--time-iterations {self.iterations} needs {self.needed} iterations, and this training has {left}: "
                "there will be no table"
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Begin or end to measure."""
        if self._done:
            return
        waited, reports = runner.train_loop.batches.waited, runner.reports
        # The batch of this iteration has been waited for, and is not counted yet.
        clock = time.perf_counter() - waited
        self._between += clock - reports.ended if self._seen else 0.0
        now = (clock, self._waited, reports.queued, reports.waited, self._between, time.process_time())
        self._waited += waited
        measured = self._seen - self.skipped
        self._seen += 1
        if measured == 0:
            self._begin = now
        elif measured == self.iterations and not torch.cuda.is_available():
            self._print(runner, now, None)
        elif measured == self.iterations:
            self._now = now
            torch.cuda.synchronize()
            self._profile = profile(activities=[ProfilerActivity.CUDA])
            self._profile.start()
        elif self._profile is not None and measured == self.iterations + _PROFILED:
            torch.cuda.synchronize()
            self._profile.stop()
            self._print(runner, self._now, busy_seconds(self._profile) / _PROFILED)

    def after_train(self, runner: Runner) -> None:
        """Say that the training was too short."""
        if not self._done:
            runner.logger.warning(
                f"--time-iterations {self.iterations} needs {self.needed} iterations, and this run had {self._seen}"
            )

    def _print(self, runner: Runner, now: Sequence[float], device: float | None) -> None:
        self._done = True
        wall, loader, step, waiting, between, cpu = (
            (after - before) / self.iterations for after, before in zip(now, self._begin or now, strict=True)
        )
        times = IterationTimes(
            self.iterations, wall, loader, step, waiting, between, device, cpu / wall, torch.get_num_threads(),
            runner.train_dataloader.num_workers,
        )  # fmt: skip
        if runner.rank == 0:
            print(times.table(), flush=True)
        runner.logger.info(times.table())


def busy_seconds(measured: profile) -> float:
    """Seconds in which at least one kernel or copy ran.

    Args:
        measured: kernels of a GPU, traced by torch.
    """
    events = (event for event in measured.events() if event.device_type == torch.autograd.DeviceType.CUDA)
    spans = sorted((event.time_range.start, event.time_range.end) for event in events)
    busy, end = 0.0, float("-inf")
    for begin, stop in spans:
        busy += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return busy / 1e6
