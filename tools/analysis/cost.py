"""Parameters, operations and speed of a config's model, of any task: python tools/analysis/cost.py CONFIG."""

import argparse
import sys

from ssm_core.engine import cli


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="What a config's model costs.", allow_abbrev=False)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="of an image (default: what the config's task is given for)",
    )
    parser.add_argument("--throughput", type=int, metavar="BATCH", help="also time inference in batches of this size")
    parser.add_argument("--batches", type=int, default=20, help="how many are timed (default: 20)")
    parser.add_argument("--device", help="where to time it (default: a GPU if there is one)")
    parser.add_argument("--amp", action="store_true", help="time it in bfloat16")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Count, time if asked to, and print."""
    args = parse_arguments(arguments)
    # Later than the command line, so that --help is quick.
    import torch

    from ssm_core.engine.analysis import count_cost, default_size, measure_throughput
    from ssm_core.engine.config import load_config

    cfg = load_config(args.config, args.cfg_options)
    size = tuple(args.size) if args.size else default_size(cfg)
    cost = count_cost(cfg, size)
    print(f"parameters  {cost.parameters / 1e6:.3f} M")
    print(f"operations  {cost.flops.total / 1e9:.3f} GFLOPs for an image of {size[0]} × {size[1]}, multiply-adds once")
    print(f"of which    {cost.flops.scans / 1e9:.3f} GFLOPs in scans")
    if args.throughput:
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if args.amp else torch.float32
        speed = measure_throughput(cfg, size, args.throughput, device, dtype, args.batches)
        print(f"inference   {speed.images_per_second:.1f} images a second in batches of {args.throughput} on {device}")
        if speed.peak_memory:
            print(f"memory      {speed.peak_memory / 2**30:.2f} GiB at most")


if __name__ == "__main__":
    sys.exit(cli.run(main))
