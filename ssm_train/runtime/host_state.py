"""A copy of the state of a run in the host's memory, which arrives while the training goes on."""

import torch

from ssm_train.runtime.runner import Runner


class HostState:
    """The state after an iteration, on its way to the host.

    The copy is queued behind the iteration, into pinned memory. Later iterations do not change it.
    With the Runner's ``joint_states`` all processes have to make it, and that of the first one is whole.

    Args:
        runner: the Runner.
        iteration: number of completed iterations.
    """

    def __init__(self, runner: Runner, iteration: int):
        self._content = runner.checkpoint_state({"epoch": runner.epoch, "iter": iteration}, detached=True)
        # A thread that waits for a blocking event sleeps, and leaves its core to the loaders.
        self._copied = torch.cuda.Event(blocking=True) if torch.cuda.is_available() else None
        if self._copied is not None:
            self._copied.record()

    @property
    def arrived(self) -> bool:
        """Whether reading the state waits for nothing."""
        return self._copied is None or self._copied.query()

    def read(self) -> dict:
        """Wait for the state. Any thread may do so."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._content
