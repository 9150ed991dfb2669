"""torchrun with an exit status that says whether a training was stopped and saved: python -m ssm_train.apis.torchrun.

torchrun itself ends with status 1 whatever its processes ended with, and knows no SIGUSR1. Here signals are passed on
to the processes of this machine, and those decide: all processes of the run stop at the same iteration, save and end
with :data:`.cli.STOPPED`, which becomes the status of this program.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ssm_train.apis import cli
from ssm_train.data.workers import STOP_SIGNALS


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun.

    Args:
        arguments: torchrun's own.

    Returns:
        0 after success, :data:`.cli.STOPPED` if a process ended with it, else 1.
    """
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _pass_on)
    options = run.parse_args(arguments)
    # torchrun would end its processes at any other. Releases without this option still do.
    options.signals_to_handle = "SIGQUIT"
    try:
        run.run(options)
    except ChildFailedError as error:
        statuses = [failure.exitcode for failure in error.failures.values()]
        if cli.STOPPED in statuses:
            return cli.STOPPED
        rank, first = error.get_first_failure()
        ended = f"was killed by signal {-first.exitcode}" if first.exitcode < 0 else f"ended with {first.exitcode}"
        print(f"error: process {rank} of the run {ended}; what it says is above", file=sys.stderr)
        return 1
    return 0


def _pass_on(number: int, frame: FrameType | None) -> None:
    for process in _workers():
        os.kill(process, number)


def _workers() -> list[int]:
    """The processes that torchrun started: children that lead a session of their own."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name of the program, in brackets, may have spaces.
            state, parent, _, session = status.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has ended
            continue
        number = int(status.parent.name)
        if int(parent) == os.getpid() and int(session) == number and state != "Z":
            found.append(number)
    return found


if __name__ == "__main__":
    sys.exit(main())
