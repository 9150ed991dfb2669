"""A hook that saves the state of a run every some minutes, beside the training."""

import time
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from ssm_core.errors import ConfigError
from ssm_train.registry import HOOKS
from ssm_train.runtime.host_state import HostState
from ssm_train.runtime.runner import Runner
from ssm_train.runtime.stopping import Vote


@HOOKS.register_module()
class TimedCheckpointHook(Hook):
    """Saves ``state_ITERATION.pth``, which ``--resume`` continues, and keeps the newest files.

    A thread waits for the copy of the state and writes it. The training goes on meanwhile, and its result does not
    change by a bit. A run that ends removes these files, because its last checkpoint has the same and more.

    Args:
        minutes: from one state to the next.
        keep: number of files to keep, also of those that a signal made the run save.
        patience: the training ends when no state could be saved for so many minutes, because the disk is full for
            example.

    Raises:
        ConfigError: ``minutes`` or ``keep`` is not positive, or ``patience`` is negative.
    """

    runs_late = True
    priority = "VERY_LOW"

    def __init__(self, minutes: float = 10.0, keep: int = 2, patience: float = 60.0):
        if minutes <= 0 or keep < 1 or patience < 0:
            raise ConfigError(
                f"timed_checkpoint needs minutes > 0, keep >= 1 and patience >= 0, not {minutes}, {keep} and {patience}"
            )
        self.seconds = 60 * minutes
        self.keep = keep
        self.patience = 60 * patience
        self._last = 0.0
        self._asked = self._due = False
        self._vote: Vote | None = None

    def before_train(self, runner: Runner) -> None:
        """Begin to count the time."""
        runner.states.keep, runner.states.patience = self.keep, self.patience
        self._last = time.monotonic()
        self._vote = Vote() if runner.joint_states else None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save if it is time, unless the state before is still being written or gradients are half accumulated."""
        completed = runner.iter + 1
        if not self._is_time(runner) or completed % runner.iterations_of_update:
            return
        self._last, self._asked, self._due = time.monotonic(), False, False
        if self._vote is None and runner.last_iteration_saved == completed:
            return
        state = HostState(runner, completed)
        if is_main_process():
            runner.states.start_writing(completed, state.read)

    def _is_time(self, runner: Runner) -> bool:
        """Whether the first process says that it is time. If all make the state, they learn it an iteration later."""
        asks = is_main_process() and time.monotonic() - self._last >= self.seconds and not runner.states.busy
        if self._vote is None:
            return asks
        before, self._asked = self._asked, self._asked or asks
        self._due = bool(self._vote.ask(int(asks and not before))) or self._due
        return self._due

    def after_train(self, runner: Runner) -> None:
        """Remove the files if a later checkpoint is there."""
        if self._vote is not None:
            self._vote.result()
        runner.states.wait()
        if is_main_process() and runner.last_saved is not None and runner.last_saved[0] >= runner.iter:
            runner.states.remove(runner.iter)
