"""Evaluates in several processes, one a GPU, or by gloo on CPUs where there is no GPU.

    tree-ssm dist-test CONFIG CKPT PROCESSES

On several machines, run it on each with NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT set.
"""

import argparse

from ssm_train.apis import arguments as kinds
from ssm_train.commands import test
from ssm_train.commands.processes import start


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; ``rest`` is for each process, ``cfg_options`` are those in it."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm dist-test",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="config file, or the name of one that comes with the package")
    parser.add_argument("checkpoint", help="a checkpoint of tree-ssm train, convert or publish")
    parser.add_argument("processes", type=kinds.whole_number(), help="how many on this machine")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="arguments of tree-ssm test")
    args = parser.parse_args(arguments)
    # Wrong ones are refused once, and not by every process.
    args.cfg_options = test.parse_arguments([args.config, args.checkpoint, *args.rest]).cfg_options
    return args


def main(arguments: list[str] | None = None) -> None:
    """Start the processes, and end with their status."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast.
    from ssm_train.runtime.early_check import check_early

    check_early(args.config, args.cfg_options)
    start("test", args.processes, [args.config, args.checkpoint, *args.rest])
