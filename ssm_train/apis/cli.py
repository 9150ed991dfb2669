"""What all command lines share: how threads wait, how an error is shown, and that one process prints the results.

An error that the user can act on is one line and a non-zero exit status, not a traceback.
"""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from ssm_core.errors import EXTRAS, MissingPackageError, NonFiniteError, StoppedError, UserError
from ssm_core.writing import REASONS, is_of_the_disk, write_error
from ssm_train.runtime.launcher_variables import check_local_rank

TRACEBACK_SWITCH = "SSM_TRACEBACK"
# EX_TEMPFAIL of sysexits.h: the same command, given again with --resume, goes on. The same as in
# ssm_train.runtime.rescue, which imports torch.
STOPPED = 75
# What torch says where a CPU's memory is too small.
_OUT_OF_MEMORY = re.compile(r"can't allocate memory: you tried to allocate (\d+) bytes")


def run(main: Callable[[], None]) -> int:
    """Call a tool's main function and return its exit status.

    Threads that wait for each other sleep (see :func:`let_threads_sleep`). An error is printed to stderr, and with the
    environment variable ``SSM_TRACEBACK=1`` its traceback, too.

    Args:
        main: the function.

    Returns:
        0 after success, 1 after an error that the user can act on, 75 after a training was stopped from outside and its
        state saved, 130 after Ctrl-C in any other place. It is 1, too, if the output cannot be written.
    """
    let_threads_sleep()
    status = _written(_run(main))
    complain("")  # what others could not print either
    return status


def _written(status: int) -> int:
    """Write what was printed. Return the exit status, which is 1 after success if that was not possible."""
    if sys.stdout is None:  # it was closed before Python began
        return status
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        _discard(sys.stdout)
    except OSError as error:
        _discard(sys.stdout)
        if not status:
            complain(f"error: cannot write the output: {error.strerror}\n")
        return status or 1
    return status


def complain(text: str) -> None:
    """Write a text to stderr, unless nobody reads that any more, such as after a terminal was closed.

    The exit status is the caller's in any case.

    Args:
        text: with the end of its line.
    """
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _run(main: Callable[[], None]) -> int:
    try:
        try:
            check_local_rank()
            main()
        except ModuleNotFoundError as error:
            if str(error.name).split(".")[0] not in EXTRAS:
                raise
            raise MissingPackageError(str(error.name), "this tool") from error
    except StoppedError as error:
        from ssm_train.data.workers import STOP_SIGNALS

        # A launcher ends the other processes when the first one ends. They end with this status as well.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if str(error):
            complain(f"{sentence(error)}\n")
        return STOPPED
    except (UserError, NonFiniteError) as error:
        if os.environ.get(TRACEBACK_SWITCH, "0") not in ("", "0"):
            raise
        rank = os.environ.get("RANK")
        complain(f"error{f' (process {rank})' if rank else ''}: {sentence(error)}\n")
        return 1
    except BrokenPipeError as error:
        if error.filename or os.environ.get(TRACEBACK_SWITCH, "0") not in ("", "0"):
            raise
        return 1
    except OSError as error:
        # Some libraries write files in places of their own, and any output can go to a full disk.
        # A name that is too long can be refused wherever it is first looked up.
        of_name = error.filename and error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
        if not (is_of_the_disk(error) or of_name) or os.environ.get(TRACEBACK_SWITCH, "0") not in ("", "0"):
            raise
        name = os.fsdecode(error.filename) if error.filename else ""
        if of_name:
            words = f"cannot open {name}: {REASONS[error.errno]}"
        elif name:
            words = str(write_error(error, name))
        else:
            why = "disk full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            words = f"cannot write the output or a temporary file: {why}"
        complain(f"error: {words}\n")
        return 1
    except RuntimeError as error:
        wanted = _OUT_OF_MEMORY.search(str(error))
        if not wanted or os.environ.get(TRACEBACK_SWITCH, "0") not in ("", "0"):
            raise
        complain(f"error: there is not enough memory for another {int(wanted[1]) / 2**30:.1f} GiB\n")
        return 1
    except KeyboardInterrupt:
        complain("interrupted\n")
        return 130
    return 0


def _discard(stream: TextIO) -> None:
    """Let Python's own flush at the end succeed. It would print a traceback, or change the exit status to 120."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def let_threads_sleep() -> None:
    """Let the threads of OpenMP soon sleep while they wait, unless the user's environment says otherwise.

    By default they spin for some milliseconds. If other programs share the cores, threads that spin keep those that
    they wait for from running, and a training takes many times as long. Threads that sleep at once cost a small network
    a third of its speed on a quiet machine. GNU's OpenMP can spin for some microseconds before (dev/log, 2026-11-29).
    OpenMP reads the environment once, when torch is imported. So this has to be called before that; afterwards it is
    for the processes that are started.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def say(text: str) -> None:
    """Print a result; of the processes of one run, the first prints it alone."""
    # Imported here because it imports torch.
    from mmengine.dist import is_main_process

    if is_main_process():
        print(text, flush=True)


def sentence(error: Exception) -> str:
    """An error's message on one line, without the traceback that a data loader's worker process puts before it."""
    text = str(error).strip()
    if text.startswith("Caught ") and "Original Traceback" in text:
        text = text.splitlines()[-1].partition(f"{type(error).__name__}: ")[2] or text
    return " ".join(text.split())
