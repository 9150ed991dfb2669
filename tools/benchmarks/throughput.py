"""Images a second of whole models, ours beside timm's, all in one run.

    python tools/benchmarks/throughput.py --mode infer --dtype bfloat16 --compile
    python tools/benchmarks/throughput.py --models quadmamba_small swin_tiny_patch4_window7_224 --mode train --batch 64

A model is any name that timm knows, ours among them, or a cell of a study (docs/study.md):

    python tools/benchmarks/throughput.py --study configs/studies/fashion-mnist.yaml --size 64

More than one `--size` shows how the time grows with the image. Each then has the batch that keeps the number of pixels
of a step, and `--plot` draws it:

    python tools/benchmarks/throughput.py --models quadmamba_small swin_tiny_patch4_window7_224 --cross \\
        --size 224 448 672 896 --compile --plot sides.svg

Half types run under autocast with float32 weights, as in training; `--cast` casts the weights, too (in inference only).
`--plain` measures our models once more with PyTorch's norms and convolutions, and `--cross` the QuadMambas with cross
scans in all stages, as VMamba has them. A Swin keeps its windows; maps are padded to whole ones.

A training step is forward, cross entropy, backward and a fused AdamW update. The models take turns, round by round, so
that a slow minute of the machine hits all of them. The rate is that of the median round; the spread (±) is the distance
between the quartiles. `--json FILE` writes every figure with the machine and the versions; `--profile FILE` writes
where the time of each model goes, by part of the network and by kernel.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli
from ssm_train.commands.visualize import SUFFIXES

if TYPE_CHECKING:  # imported when it is needed, so that --help stays fast
    from measured.throughput import Row

DEFAULT_MODELS = ("quadmamba_small", "mambatree_tiny", "swin_tiny_patch4_window7_224", "convnext_tiny")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", default=list(DEFAULT_MODELS), metavar="NAME", help="names that timm knows")
    add("--study", type=Path, metavar="FILE", help="measure the cells of a study instead")
    add("--table", metavar="NAME", help="only those of this table of the study")
    add("--mode", choices=["infer", "train"], default="infer")
    add("--dtype", choices=["float32", "bfloat16", "float16"], help="default: bfloat16 on a GPU, float32 on a CPU")
    add("--cast", action="store_true", help="cast the weights to the dtype (in inference only)")
    add("--compile", action="store_true", help="torch.compile(fullgraph=True)")
    add("--cuda-graphs", action="store_true", help="with --compile: replay each step's kernels as CUDA graphs")
    add("--plain", action="store_true", help="measure our models once more with PyTorch's norms and convolutions")
    add("--cross", action="store_true", help="measure QuadMambas once more with cross scans in all stages")
    add("--channels-last", action="store_true", help="images and weights in the channels-last memory format")
    add(
        "--batch", type=kinds.whole_number(), help="images a step of the first size (default: 128 on a GPU, 8 on a CPU)"
    )
    add(
        "--size",
        type=kinds.whole_number(),
        nargs="+",
        default=[224],
        metavar="SIDE",
        help="height = width of the images",
    )
    add("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    add("--rounds", type=kinds.whole_number(), default=7, help="turns of each model, two at least")
    add("--steps", type=kinds.whole_number(), help="steps in a turn (default: 10 on a GPU, 1 on a CPU)")
    add("--json", type=Path, help="write all figures to this file")
    add("--plot", type=Path, help="draw the time per pixel over the sizes to this file")
    add("--profile", type=Path, help="write each model's time, by part and by kernel, to this file")
    options = parser.parse_args(argv)
    if options.table and not options.study:
        parser.error("--table names a table of a --study")
    if options.cuda_graphs and not options.compile:
        parser.error("--cuda-graphs is for compiled networks: add --compile")
    if options.cast and options.mode == "train":
        parser.error("--cast is for inference; training keeps float32 weights and runs under autocast")
    if options.plot and options.plot.suffix not in SUFFIXES:
        parser.error(f"--plot is a file {', '.join(SUFFIXES)}, not {options.plot}")
    if options.plot and len(set(options.size)) < 2:
        parser.error("--plot needs two sizes at least, such as --size 224 448")
    if options.rounds < 2:
        parser.error("--rounds must be 2 at least, for the spread")
    return options


def main(argv: list[str] | None = None) -> "list[Row]":
    """Measure, print a table, and return the rows."""
    options = parse(argv)
    # Imported after parsing so that --help stays fast.
    from measured.throughput import run

    return run(options)


if __name__ == "__main__":
    sys.exit(cli.run(main))
