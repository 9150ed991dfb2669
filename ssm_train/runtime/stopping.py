"""Stopping a training by a signal: the first one is remembered, and all processes of the run agree when to stop."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch
from torch import distributed

from ssm_train.data.workers import STOP_SIGNALS

# Ctrl-C under torchrun reaches a process twice, from the terminal and from torchrun. Signals that follow the first one,
# or the end of the run that it stopped, within these seconds are the same request.
_SAME_REQUEST = 2.0


class StopTraining(Exception):  # noqa: N818  (not an error: somebody asked for it)
    """Leaves the training loop because of a signal.

    Attributes:
        signal: the signal.
        iteration: number of completed iterations.
    """

    def __init__(self, number: int, iteration: int):
        super().__init__(number, iteration)
        self.signal = signal.Signals(number)
        self.iteration = iteration


class StopSignals:
    """Remembers the first of SIGTERM, SIGINT, SIGUSR1, SIGUSR2 and SIGHUP; another one ends the process at once.

    A signal that the process was started to ignore stays ignored, as SIGHUP under ``nohup``.

    Attributes:
        received: number of the signal; 0 before there was one.
    """

    def __init__(self) -> None:
        self.received = 0
        self._over = False
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Handle the signals from now on. Only the main thread can; elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            return
        # Otherwise one of them could end the process when another one is remembered already.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def finish(self) -> None:
        """End the handling with the run.

        If a signal was received, others still come that belong to the same request. They are ignored, because they
        would change the exit status. The next one after a while is handled as before :meth:`install`.
        """
        self._over, self._since = True, time.monotonic()
        if not self.received:
            self._restore()

    def _restore(self) -> None:
        _put_back(self._before)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.received and not self._over:
            self._since = time.monotonic()  # first, since a signal can come between the two
            self.received = number
            # print() could be interrupted within itself, and then raises an error when it is called anew.
            self._say(f"{signal.Signals(number).name}: saving after this iteration; the same again ends at once\n")
        elif not self._over and time.monotonic() - self._since > _SAME_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self._over and (not self.received or time.monotonic() - self._since > _SAME_REQUEST):
            self._restore()
            os.kill(os.getpid(), number)

    @staticmethod
    def _say(text: str) -> None:
        if os.environ.get("RANK", "0") == "0":
            with suppress(OSError):  # SIGHUP comes when a terminal is closed, and then nothing can be written to it
                os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Context at whose end the handlers of the signals that stop a training are those of its beginning.

    Only the main thread can change them; elsewhere this does nothing.
    """
    here = threading.current_thread() is threading.main_thread()
    kept = {number: signal.getsignal(number) for number in STOP_SIGNALS if here}
    try:
        yield
    finally:
        _put_back(kept)


def _put_back(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set by Python


class Vote:
    """Lets all processes of a run learn in the same iteration that one of them received a signal.

    The numbers are exchanged on the CPU, while the next iteration runs. No device is waited for. A process alone knows
    at once, and several know an iteration later. All of them have to make the same calls.
    """

    def __init__(self) -> None:
        self._group = None
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            self._group = distributed.new_group(backend="gloo")
        self._number = torch.zeros(1, dtype=torch.int64)
        self._work: Any = None

    def ask(self, number: int) -> int:
        """Give this process's number, and get the largest one that any process gave in the call before."""
        if self._group is None:
            return number
        largest = self.result()
        self._number.fill_(number)
        self._work = distributed.all_reduce(self._number, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        return largest

    def result(self) -> int:
        """Wait for the exchange in flight, and return the largest number in it; 0 if there is none."""
        if self._work is None:
            return 0
        self._work.wait()
        self._work = None
        return int(self._number)

    def smallest(self, number: int) -> int:
        """The smallest of the numbers that the processes give."""
        if self._group is None:
            return number
        value = torch.tensor(number)
        distributed.all_reduce(value, distributed.ReduceOp.MIN, group=self._group)
        return int(value)

    def wait_for_all(self) -> None:
        """Return when every process has called this."""
        self.smallest(0)
