"""Command lines: an error the user can act on is one line and a non-zero exit, not a traceback."""

import os
import sys
from collections.abc import Callable

from ssm_core.engine.errors import EXTRAS, UserError, missing
from ssm_core.errors import NonFiniteError

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
            raise missing(error, "this tool") from error
    except (UserError, NonFiniteError) as error:
        if os.environ.get(TRACEBACK_SWITCH, "0") not in ("", "0"):
            raise
        rank = os.environ.get("RANK")
        print(f"error{f' (process {rank})' if rank else ''}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
