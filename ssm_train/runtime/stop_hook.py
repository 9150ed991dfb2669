"""A hook that ends a training after an iteration in which one of its processes received a signal."""

from contextlib import suppress
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ssm_core.writing import WriteError
from ssm_train.runtime.stopping import StopSignals, StopTraining, Vote


class StopHook(Hook):
    """Raises :class:`.StopTraining` in all processes at the same iteration. The Runner registers it last.

    Training stops where gradients are not half accumulated, and not after the last iteration, where only the final
    checkpoint and validation are left. A validation stops after any of its batches, and is made anew when the run is
    resumed.

    Args:
        signals: they are handled from the start of training on. Before, there is nothing to save.
    """

    runs_late = True
    priority = "LOWEST"

    def __init__(self, signals: StopSignals):
        self.signals = signals
        self.vote: Vote | None = None
        self._asked = 0
        self._common_batches = 0

    def before_train(self, runner: Runner) -> None:
        """Handle signals from here on."""
        self.vote = Vote()
        self.signals.install()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Exchange signals, and stop if there was one.

        Raises:
            StopTraining: a process received a signal.
        """
        completed = runner.iter + 1
        self._asked = self._asked or self.vote.ask(self.signals.received)
        whole = completed % runner.iterations_of_update == 0
        if self._asked and whole and completed < runner.max_iters:
            raise StopTraining(self._asked, completed)

    def before_val_epoch(self, runner: Runner) -> None:
        """Find how many batches of the validation all processes have."""
        if self.vote is not None:
            self._asked = self._asked or self.vote.result()
            self._common_batches = self.vote.smallest(len(runner.val_dataloader))

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Exchange signals, and stop if there was one.

        Raises:
            StopTraining: a process received a signal.
        """
        if self.vote is None or batch_idx >= self._common_batches:
            return
        self._asked = self._asked or self.vote.ask(self.signals.received)
        if self._asked:
            raise StopTraining(self._asked, runner.iter)

    def finish(self, runner: Runner, stop: StopTraining) -> str:
        """Save the state, end the loaders' workers, and wait for the other processes, which ends theirs at one time.

        Returns:
            What happened and how to go on, in a sentence. The first process says it, and it is empty in the others.

        Raises:
            WriteError: the state cannot be written.
        """
        try:
            runner.call_hook("before_stop")
            runner.states.wait()
            newest = runner.last_iteration_saved if is_main_process() else stop.iteration
            if runner.joint_states:
                newest = self.vote.smallest(newest)
            if runner.makes_states and newest < stop.iteration:
                self._save(runner, stop)
            runner.visualizer.close()
            runner.stop_workers()
        finally:
            with suppress(RuntimeError):  # another process has already ended
                self.vote.result()
                self.vote.wait_for_all()
            self.signals.finish()
        if not is_main_process():
            return ""
        return (
            f"stopped by {stop.signal.name} after iteration {stop.iteration} (epoch {runner.epoch + 1}), and the state "
            f"is saved in {runner.work_dir}: give the same command with --resume to go on"
        )

    @staticmethod
    def _save(runner: Runner, stop: StopTraining) -> None:
        try:
            runner.write_state(stop.iteration)
        except WriteError as error:
            raise WriteError(
                f"stopped by {stop.signal.name} after iteration {stop.iteration}, and the state is not saved: {error}; "
                f"{runner.states.describe()}"
            ) from error

    def after_train(self, runner: Runner) -> None:
        """Wait for the last exchange."""
        self.vote.result()
