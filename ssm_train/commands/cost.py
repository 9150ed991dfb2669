"""Parameters, operations, activations and speed of a model: tree-ssm analyse cost CONFIG_OR_TIMM_NAME.

The model is a config's, of any task, or any of timm's, ours among them. Operations are counted by the conventions of
the papers (docs/results.md); activations are what autograd keeps of each image for the backward pass.
"""

import argparse

from ssm_train.apis import arguments as kinds


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm analyse cost", description="What a model costs.", allow_abbrev=False
    )
    parser.add_argument("model", help="a config file, or timm's name of a model")
    parser.add_argument("--size", nargs="+", type=kinds.whole_number(1, kinds.LARGEST_SIDE), metavar="N",
                        help="height and width of an image, or tokens of a row (default: the size for which figures of "
                        "the task are usually given)")  # fmt: skip
    parser.add_argument(
        "--throughput", type=kinds.whole_number(), metavar="BATCH", help="also time inference in batches of this size"
    )
    parser.add_argument(
        "--batches", type=kinds.whole_number(), default=20, help="how many batches are timed (default: 20)"
    )
    parser.add_argument("--device", help="where to time it (default: a GPU if there is one)")
    parser.add_argument("--amp", action="store_true", help="activations and times in bfloat16")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Count, time if asked to, and print."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast, and the first before the others so that a typo is found fast.
    from ssm_train.runtime.config_files import is_config
    from ssm_train.runtime.early_check import check_early

    if is_config(args.model):
        check_early(args.model, args.cfg_options)
    from ssm_train.apis.analyse import Timing, cost_lines, open_config

    cfg = open_config(args.model, args.cfg_options)
    timing = Timing(args.throughput, args.batches, args.device) if args.throughput else None
    for line in cost_lines(cfg, tuple(args.size or ()), args.amp, timing):
        print(line, flush=True)
