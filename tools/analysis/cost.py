"""Parameters, operations, activations and speed of a model: python tools/analysis/cost.py CONFIG_OR_TIMM_NAME.

The model is a config's, of any task, or any of timm's, ours among them. Operations are counted by the conventions of
the papers (docs/results.md); activations are what autograd keeps of each image for the backward pass.
"""

import argparse
import sys
from pathlib import Path

from ssm_train.apis import cli


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="What a model costs.", allow_abbrev=False)
    parser.add_argument("model", help="a config file, or timm's name of a model")
    parser.add_argument(
        "--size",
        nargs="+",
        type=int,
        metavar="N",
        help="height and width of an image, or tokens of a row (default: what the task's figures are given for)",
    )
    parser.add_argument("--throughput", type=int, metavar="BATCH", help="also time inference in batches of this size")
    parser.add_argument("--batches", type=int, default=20, help="how many are timed (default: 20)")
    parser.add_argument("--device", help="where to time it (default: a GPU if there is one)")
    parser.add_argument("--amp", action="store_true", help="activations and times in bfloat16")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Count, time if asked to, and print."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast.
    import torch

    import quadtree_ssm  # noqa: F401  so that timm knows our models
    import tree_ssm  # noqa: F401
    from ssm_train.apis.analyse import count_cost, measure_throughput, timm_config
    from ssm_train.runtime.config import apply_options, load_config
    from ssm_train.tasks import task_of

    if Path(args.model).suffix == ".py":
        cfg = load_config(args.model, args.cfg_options)
    else:
        cfg = timm_config(args.model)
        apply_options(cfg, args.cfg_options)
    task = task_of(cfg)
    size = tuple(args.size) if args.size else task.default_size()
    dtype = torch.bfloat16 if args.amp else torch.float32
    cost = count_cost(cfg, size, dtype)
    thing, things, extent = task.unit, f"{task.unit}s", task.describe(size)
    flops = cost.flops
    print(f"parameters  {cost.parameters / 1e6:.3f} M")
    print(f"operations  {flops.total / 1e9:.3f} GFLOPs for one {thing} of {extent}, multiply-adds once")
    print(f"of which    {flops.scans / 1e9:.3f} GFLOPs in scans, {flops.trees / 1e9:.3f} in growing spanning trees")
    print(f"activations {cost.activations / 2**20:.1f} MiB kept of each {thing} for the backward pass, in {dtype}")
    if args.throughput:
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        speed = measure_throughput(cfg, size, args.throughput, device, dtype, args.batches)
        print(f"inference   {speed.per_second:.1f} {things} a second in batches of {args.throughput} on {device}")
        if speed.peak_memory:
            print(f"memory      {speed.peak_memory / 2**30:.2f} GiB at most")


if __name__ == "__main__":
    sys.exit(cli.run(main))
