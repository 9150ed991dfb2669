"""Saving the state of a run that cannot go on, and saying why it cannot."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, distributed

from ssm_core.errors import StoppedError, UserError
from ssm_core.writing import WriteError
from ssm_train.data.workers import StoppableLoader
from ssm_train.runtime.optimizers import GuardedOptimWrapper
from ssm_train.runtime.rank_watch import RankWatch

STOPPED = 75  # exit status; see ssm_train.apis.cli
# What torch's errors begin with or hold when another process, or a worker of the data loader, is the reason.
_EXCHANGES = ("gloo", "NCCL", "ProcessGroup", "Connection reset", "Connection closed", "Broken pipe", "store", "Store")
_LOADER = "DataLoader "
_ENDING = 2.0  # seconds that a worker may take to end after its connections have closed


class RescueHook(Hook):
    """Knows whether the state in memory is that of a completed iteration, and saves it when the run cannot go on.

    It is, from the end of an iteration until the optimizer begins its update. Only the statistics of batch norms change
    in the forward pass before; they are put back. The Runner registers this hook.

    Args:
        seconds: see :class:`.RankWatch`.
    """

    runs_late = True
    priority = "LOWEST"

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.watch: RankWatch | None = None
        self._completed = 0
        self._updating = False
        self._validating = False
        self._over = threading.Event()
        self._given_up = False
        self._lock = threading.Lock()  # held while the state is copied, and so no update begins meanwhile
        self._buffers: list[Tensor] = []
        self._kept: list[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Save a state that came from another folder, and begin to watch the other processes."""
        self._completed, self._updating = runner.iter, False
        if runner.starts_elsewhere:
            try:
                runner.write_state(runner.iter)
            except WriteError as error:
                if runner.rank == 0:
                    runner.states.failed(error, runner.iter)
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            self.watch = RankWatch(self.seconds, lambda: self._end(runner))
            self._buffers = list(runner.bare_model.buffers())
            self._kept = [buffer.clone() for buffer in self._buffers]
        threading.Thread(target=self._watch_workers, args=(runner,), name="worker watch", daemon=True).start()
        if isinstance(runner.optim_wrapper, GuardedOptimWrapper):
            runner.optim_wrapper.before_update = self._begin_update

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Other optimizer wrappers do not say when they begin an update."""
        if not isinstance(runner.optim_wrapper, GuardedOptimWrapper):
            self._updating = True

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Note that the iteration is complete, and keep the statistics of batch norms, which the next one changes."""
        if self._kept:
            torch._foreach_copy_(self._kept, self._buffers)
        self._completed, self._updating = runner.iter + 1, False
        if runner.states.given_up and not runner.states.busy:
            self._save_or_end(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Note that averaged weights may be in the model."""
        self._validating = True

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Note that the model's own weights are back."""
        self._validating = False

    def after_train(self, runner: Runner) -> None:
        """Watch no longer."""
        self.stop()

    def stop(self) -> None:
        """Watch no longer."""
        self._over.set()
        if self.watch is not None:
            self.watch.stop()

    def announce(self, words: str) -> None:
        """Tell the other processes that this one cannot go on, and watch them no longer."""
        if self.watch is not None:
            self.watch.stop()
            self.watch.announce(words)

    def explain(self, runner: Runner, error: Exception) -> UserError | None:
        """Save the state after an error in training, and say what happened.

        Returns:
            The error for the user; None if the given one says it all. The other processes know of it then.
        """
        text = " ".join(str(error).split())
        from_others = isinstance(error, RuntimeError) and any(word in text for word in _EXCHANGES)
        if self.watch is not None and (self.watch.cause or from_others) and not lost_worker(runner):
            cause = self.watch.why()
            self.watch.stop()
            return self._others(runner, cause)
        # A worker that died also shows as a broken connection, or a file that is not there.
        broken = isinstance(error, OSError | EOFError)
        lost = (broken or isinstance(error, RuntimeError)) and lost_worker(runner, _ENDING if broken else 0.0)
        loader = lost or (isinstance(error, RuntimeError) and text.startswith(_LOADER))
        words = text if loader or isinstance(error, UserError) else f"{type(error).__name__}: {text}"
        self.announce(words)
        if not loader:
            return None
        saved = self.save(runner) if self.watch is None or self.watch.saves else self.watch.wait_until_saved()
        return UserError(f"a worker of a data loader died or gave no batch in time ({lost or words}); {saved}")

    def save(self, runner: Runner) -> str:
        """Save the state if it is that of a completed iteration.

        Returns:
            Where the state is, in words.
        """
        with self._lock:
            self._given_up = True
            whole = self._completed % runner.iterations_of_update == 0
            newest = runner.last_iteration_saved
            # Where each process has a part of the state, one that is lost has taken its part along.
            if whole and not (self._updating or self._validating or runner.joint_states) and newest < self._completed:
                for buffer, kept in zip(self._buffers, self._kept, strict=True):
                    buffer.copy_(kept)
                runner.states.wait()
                try:
                    # Here, and not in the first process, which may be the one that is lost.
                    runner.states.write(runner.checkpoint_state({"epoch": runner.epoch, "iter": self._completed}))
                    newest = self._completed
                except (OSError, WriteError, RuntimeError, ValueError) as error:
                    runner.logger.error(f"the state of iteration {self._completed} could not be saved: {error}")
        if runner.joint_states and runner.rank != 0:
            words = f"--resume goes on from the newest state in {runner.work_dir}"
        elif newest >= 0:
            words = f"the state of iteration {newest} is in {runner.work_dir}, and --resume goes on from there"
        elif runner.resumed_from is not None:
            words = "nothing new is saved: the same --resume goes on from {1}, which has iteration {0}".format(
                *runner.resumed_from
            )
        else:
            words = "no state of this run is saved"
        if self.watch is not None:
            self.watch.saved(words)
        return words

    def _save_or_end(self, runner: Runner) -> None:
        """Try once more to save, after a long time without success."""
        if self._completed % runner.iterations_of_update:
            return
        try:
            if runner.joint_states:  # the other processes do not know that it is time to try
                raise runner.states.failure
            runner.write_state(self._completed)
        except WriteError as error:
            raise WriteError(
                f"training ended after iteration {self._completed}, because no state could be saved for "
                f"{runner.states.patience / 60:g} minutes: {error}; {runner.states.describe()}: make room, and give "
                "the same command with --resume"
            ) from error

    def _others(self, runner: Runner, cause: str) -> UserError:
        saved = self.save(runner) if self.watch.saves else self.watch.wait_until_saved()
        # A process that is lost may come back with the next try. One that failed says what has to be mended.
        kind = UserError if self.watch.lost is None else StoppedError
        return kind(f"training ended after iteration {self._completed}: {cause}; {saved}")

    def _end(self, runner: Runner) -> None:
        """End this process from the watching thread, because its main thread waits for another process for ever."""
        error = self._others(runner, self.watch.cause)
        with suppress(OSError, ValueError, AttributeError):  # they may be closed
            os.write(2, f"error (process {runner.rank}): {error}\n".encode())
            sys.stdout.flush()
        time.sleep(1)  # the others read from this process where the state is
        os._exit(STOPPED if isinstance(error, StoppedError) else 1)

    def _watch_workers(self, runner: Runner) -> None:
        """Kill workers of loaders that stay stopped. The main thread, which may wait for them for ever, then fails."""
        since: dict[int, float] = {}
        while not self._over.wait(min(self.seconds / 6, 5.0)):
            now = time.monotonic()
            stopped = [process for loader in loaders_of(runner) for process in loader.stopped_workers()]
            since = {process: since.get(process, now) for process in stopped}
            for process, begin in since.items():
                if now - begin > self.seconds:
                    os.kill(process, signal.SIGKILL)

    def _begin_update(self) -> None:
        with self._lock:
            self._updating = True
        while self._given_up:  # the state is being saved, and then the process ends
            time.sleep(1)


def lost_worker(runner: Runner, patience: float = 0.0) -> str:
    """The worker of a data loader that has died or is stopped, in words; an empty text if there is none.

    Args:
        runner: the Runner.
        patience: seconds to wait for one. The connections of a process close before the system says that it has ended.
    """
    end = time.monotonic() + patience
    while True:
        lost = next(filter(None, (loader.lost_worker() for loader in loaders_of(runner))), "")
        if lost or time.monotonic() >= end:
            return lost
        time.sleep(0.02)


def loaders_of(runner: Runner) -> list[StoppableLoader]:
    """The loaders that have been built for training and validation."""
    loaders = (getattr(loop, "dataloader", None) for loop in (runner._train_loop, runner._val_loop))
    return [loader for loader in loaders if isinstance(loader, StoppableLoader)]
