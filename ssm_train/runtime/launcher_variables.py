"""The environment variables by which a launcher tells a process its place in a run. This imports nothing slow."""

import os
from typing import Literal

from ssm_core.errors import ConfigError

Launcher = Literal["none", "pytorch", "slurm"]
ADVICE = {
    "pytorch": "torchrun sets it; start with `tree-ssm dist-train CONFIG PROCESSES`",
    "slurm": "srun sets it; start with `tree-ssm slurm-train PARTITION CONFIG`",
}


def check_local_rank() -> None:
    """Check ``LOCAL_RANK``, which mmengine's logger reads in every process, whoever started it.

    Raises:
        ConfigError: it is set and no number.
    """
    if "LOCAL_RANK" in os.environ:
        number("LOCAL_RANK", "a launcher such as torchrun sets it; unset it if there is none")


def check_variables(launcher: Literal["pytorch", "slurm"]) -> None:
    """Check the environment variables by which a launcher tells a process its place in a run.

    Args:
        launcher: the program that started this process.

    Raises:
        ConfigError: a variable is missing or no number, or the numbers do not fit each other; the message names it.
    """
    advice = ADVICE[launcher]
    size = number("WORLD_SIZE", advice, least=1)
    rank = number("RANK", advice)
    if rank >= size:
        raise ConfigError(f"the environment variable RANK={rank} is not below WORLD_SIZE={size}: {advice}")
    number("LOCAL_RANK", advice)
    number("MASTER_PORT", advice, most=2**16 - 1)
    if not os.environ.get("MASTER_ADDR"):
        raise ConfigError(f"the environment variable MASTER_ADDR is not set: {advice}")


def number(name: str, advice: str, least: int = 0, most: int = 2**31 - 1) -> int:
    """Read the whole number in an environment variable.

    Args:
        name: of the variable.
        advice: what to do if it is wrong.
        least: the smallest number allowed.
        most: the largest.

    Raises:
        ConfigError: the variable is not set, or is no such number.
    """
    text = os.environ.get(name)
    if text is None:
        raise ConfigError(f"the environment variable {name} is not set: {advice}")
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ConfigError(
            f"the environment variable {name} must be a whole number from {least} to {most}, not {text!r}: {advice}"
        )
    return int(text)
