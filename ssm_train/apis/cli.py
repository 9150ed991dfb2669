"""Command lines: an error the user can act on is one line and a non-zero exit, not a traceback."""

import os
import sys
from collections.abc import Callable

from ssm_core.errors import EXTRAS, MissingPackageError, NonFiniteError, UserError

TRACEBACK_SWITCH = "SSM_TRACEBACK"


def run(main: Callable[[], None]) -> int:
    """Call a tool's main function and return its exit status.

    With the environment variable ``SSM_TRACEBACK=1`` the traceback is printed too.
    """
    try:
        try:
            main()
        except ModuleNotFoundError as error:
            if str(error.name).split(".")[0] not in EXTRAS:
                raise
            raise MissingPackageError(str(error.name), "this tool") from error
    except (UserError, NonFiniteError) as error:
        if os.environ.get(TRACEBACK_SWITCH, "0") not in ("", "0"):
            raise
        rank = os.environ.get("RANK")
        print(f"error{f' (process {rank})' if rank else ''}: {sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def sentence(error: Exception) -> str:
    """An error's message on one line, without the traceback that a data loader's worker process puts before it."""
    text = str(error).strip()
    if text.startswith("Caught ") and "Original Traceback" in text:
        text = text.splitlines()[-1].partition(f"{type(error).__name__}: ")[2] or text
    return " ".join(text.split())
