"""Programs that a benchmark starts, and what it tells of one that fails."""

import re
import subprocess
from collections.abc import Mapping, Sequence

from ssm_core.errors import UserError
from ssm_train.apis import cli

_ERROR = re.compile(r"error(?: \(process \d+\))?: (?P<text>.+)")


def run_program(
    command: Sequence[str], what: str, *, stdout: int | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Run a program to its end.

    Args:
        command: the program with its arguments.
        what: what a message calls it.
        stdout: where its output goes, as :mod:`subprocess` has it; None to this process's own.
        environment: its variables; None for those of this process.

    Returns:
        Its output, if ``stdout`` is ``subprocess.PIPE``.

    Raises:
        UserError: it failed.
    """
    done = subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, errors="replace", env=environment, check=False
    )
    if done.returncode:
        raise failure(what, done.returncode, done.stderr)
    cli.complain(done.stderr)  # its warnings
    return done.stdout or ""


def failure(what: str, status: int, printed: str) -> UserError:
    """The error of a program that failed, with the first one that it printed. If it printed none, stderr gets it all.

    Args:
        what: what the message calls it.
        status: its exit status.
        printed: what it wrote to stderr.
    """
    errors = [found["text"] for line in printed.splitlines() if (found := _ERROR.fullmatch(line.strip()))]
    if not errors:
        cli.complain(printed)
    return UserError(f"{what} ended with {status}{f': {errors[0]}' if errors else ''}")
