"""The command line of the doctor. It imports torch after parsing so that --help stays fast."""

import argparse
import re


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm doctor",
        description="Say what this machine has and what the compiled library was built for, and compare every "
        "operator with its reference. The exit status is 1 if anything is wrong.",
    )
    parser.add_argument(
        "--device", action="append", type=_device,
        help="check the operators on this device alone: cpu, cuda or cuda:1; can be given several times "
        "(default: cpu, and the first GPU if there is one)",
    )  # fmt: skip
    return parser.parse_args(arguments)


def _device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise argparse.ArgumentTypeError(f"a device is cpu, cuda or cuda:NUMBER, not {name!r}")
    return name


def main(arguments: list[str] | None = None) -> int:
    """Examine the installation and print a report.

    Returns:
        0 if all is well, 1 if anything is wrong.
    """
    args = parse_arguments(arguments)
    import torch

    from ssm_core.doctor.examination import examine

    return examine(args.device and [torch.device(name) for name in args.device])
