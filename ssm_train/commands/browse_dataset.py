"""Draws what a model is trained on: tree-ssm analyse browse-dataset CONFIG --out DIR."""

import argparse
from pathlib import Path

from ssm_train.apis import arguments as kinds


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm analyse browse-dataset",
        description="Draw samples of a config's dataset, of any task, after augmentation.",
        allow_abbrev=False,
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the pictures go")
    parser.add_argument("--split", choices=["train", "val", "test"], default="train", help="default: train")
    parser.add_argument(
        "--count", type=kinds.whole_number(), default=16, help="how many samples, evenly spread (default: 16)"
    )
    parser.add_argument(
        "--seed",
        type=kinds.whole_number(0, kinds.LARGEST_SEED),
        default=0,
        help="seed of the augmentations (default: 0)",
    )
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Write the pictures and say how many."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast, and the first before the others so that a typo is found fast.
    from ssm_train.runtime.early_check import check_early

    check_early(args.config, args.cfg_options)
    from ssm_train.apis.browse import browse
    from ssm_train.runtime.config import load_config

    pictures = browse(load_config(args.config, args.cfg_options), args.split, args.out, args.count, args.seed)
    print(f"{len(pictures)} pictures in {args.out}")
