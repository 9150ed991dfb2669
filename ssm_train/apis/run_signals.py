"""Signals to a program that waits for runs in other processes: it passes them on, and the runs save and end."""

import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO

from ssm_train.data.workers import STOP_SIGNALS
from ssm_train.runtime.stopping import handlers_kept


class PassedOn:
    """Passes the signals that stop a training on to the processes of runs, and remembers the first one.

    A terminal signals these processes as well. For a training, signals within two seconds are one, and another one
    later ends it at once.

    Attributes:
        received: number of the first signal; 0 before there was one.
    """

    def __init__(self) -> None:
        self.received = 0
        self._started: set[subprocess.Popen[bytes]] = set()

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals within. Only the main thread can; elsewhere nothing changes.

        A signal that this process was started to ignore stays ignored, as SIGHUP under ``nohup``.
        """
        with handlers_kept():
            if threading.current_thread() is threading.main_thread():
                for number in STOP_SIGNALS:
                    if signal.getsignal(number) is not signal.SIG_IGN:
                        signal.signal(number, self._handle)
            yield

    def call(self, command: Sequence[str], output: IO[bytes], environment: Mapping[str, str]) -> int:
        """Run a program, which gets the signals, and return its exit status; negative after a signal.

        Args:
            command: the program with its arguments.
            output: file that gets everything that it prints.
            environment: its variables.
        """
        with subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process:
            self._started.add(process)
            try:
                if self.received:  # meanwhile, and the process was not yet there to be told
                    process.send_signal(self.received)
                return process.wait()
            finally:
                self._started.discard(process)

    def pass_on(self) -> None:
        """Pass on the first signal, if there was one, to children of :mod:`multiprocessing` that have just started."""
        if self.received:
            _signal_children(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number  # first, for the processes that start meanwhile
        for process in list(self._started):
            process.send_signal(number)
        _signal_children(number)


def _signal_children(number: int) -> None:
    for child in multiprocessing.active_children():
        with suppress(ProcessLookupError):
            os.kill(child.pid, number)
