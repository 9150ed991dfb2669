"""Prints a config with all that it inherits: tree-ssm analyse print-config CONFIG."""

import argparse


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm analyse print-config",
        description="Print a config with all that it inherits.",
        allow_abbrev=False,
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Read, check and print."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast, and the first before the others so that a typo is found fast.
    from ssm_train.runtime.early_check import check_early

    check_early(args.config, args.cfg_options)
    from ssm_train.runtime.config import load_config

    print(load_config(args.config, args.cfg_options).pretty_text)
