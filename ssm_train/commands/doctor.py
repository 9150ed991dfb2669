"""Examines the installation: tree-ssm doctor."""

import sys

from ssm_core.doctor import command_line
from ssm_core.doctor.command_line import parse_arguments

__all__ = ["main", "parse_arguments"]


def main(arguments: list[str] | None = None) -> None:
    """Print the report, and end with 1 if anything is wrong."""
    if status := command_line.main(arguments):
        sys.exit(status)
