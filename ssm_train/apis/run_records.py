"""What is noted of a run of a sweep, so that it is kept, continued or refused later."""

import hashlib
import json
import re
from pathlib import Path

from mmengine.config import Config

from ssm_core.errors import DataError

RECORD = "ablation.json"  # in the folder of each run
_GIVEN = {"config", "options", "amp"}  # what the records of every version say that a run was given


def digest(cfg: Config) -> str:
    """What tells two configs apart, without their seed."""
    content = cfg.to_dict()
    randomness = {key: value for key, value in (content.get("randomness") or {}).items() if key != "seed"}
    # A function in a config is another object in every process.
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(content | {"randomness": randomness}))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def differences(before: dict, now: dict) -> str:
    """What a kept run was given and is not now, and the other way round."""
    told = []
    for name in now:
        old, new = before[name], now[name]
        if name == "content":
            told += ["the config itself has changed"] * (old != new and len(told) == 0)
            continue
        if isinstance(old, list) and isinstance(new, list):
            told += [f"without {option}" for option in old if option not in new]
            told += [f"with {option}" for option in new if option not in old]
        elif old != new:
            told.append(f"{name} {new} instead of {old}")
    return "now " + (", ".join(map(str, told)) or "in another order")


def read_record(path: Path) -> dict:
    """What an earlier call noted of a run.

    Raises:
        DataError: the file is damaged.
    """
    try:
        known = json.loads(path.read_text())
        given = isinstance(known["given"], dict) and known["given"].keys() >= _GIVEN
        ended = isinstance(known["error"], str) and known["status"] in ("done", "failed", "waiting")
        times = known["seconds"], known.get("began") or 0.0  # records of earlier versions do not say when a run began
        sound = given and ended and all(isinstance(value, int | float) for value in times)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise DataError(f"{path} is damaged: remove it, and the run is done again")
    return known


def seconds_of(known: dict, folder: Path) -> float:
    """The time that a run took so far.

    Nobody noted the end of a run whose sweep was killed. It is then taken for the time of the last file that it wrote.

    Args:
        known: what :func:`read_record` gave.
        folder: of the run.
    """
    began = known.get("began")
    if began is None:
        return known["seconds"]
    written = (path.stat().st_mtime for path in folder.iterdir() if path.name != RECORD)
    last = max(written, default=began)  # the user may have deleted them
    return known["seconds"] + max(0.0, last - began)


def reason(status: int, log: Path, start: int = 0) -> str:
    """Why a run failed: the signal that killed it, or else the last error, or else the last line, that it printed.

    Args:
        status: its exit status, which is negative after a signal.
        log: what it printed.
        start: bytes of the log that an earlier attempt printed.
    """
    if status < 0:
        return f"killed by signal {-status} (log: {log})"
    text = log.read_bytes()[start:].decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    return (errors or lines or [f"exit status {status}"])[-1].removeprefix("error: ")
