"""Time every operator's kernel beside its PyTorch reference, and beside the memory floor.

    python tools/benchmarks/ops.py               # all operators, the default shapes, CUDA if there is a GPU
    python tools/benchmarks/ops.py --ops tree_scan --shapes 4x56x56x160 128x56x56x160 --device cuda --dtype bfloat16
    python tools/benchmarks/ops.py --shapes 8x{14x14,28x28,56x56,128x128,256x256}x96 --no-reference --plot growth.svg

An operator has to read each input once and write each output once. The floor is the time that moving so many bytes
takes at the copy rate measured in the same run. Times are medians; the spread (±) is the distance between the
quartiles. `--json FILE` writes every figure with the machine and the versions; `--plot FILE` draws the times over the
number of tokens, to show how the cost grows.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from measured.shapes import Shape
from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli
from ssm_train.commands.visualize import SUFFIXES

if TYPE_CHECKING:  # imported when it is needed, so that --help stays fast
    from measured.ops import Row

DEFAULT_SHAPES = ("4x56x56x160", "4x14x14x640")
OPERATORS = (
    "scan_2_directions",
    "scan_4_directions",
    "quadtree_order",
    "mask_gradient",
    "grid_distances",
    "spanning_tree",
    "tree_scan",
    "selective_tree_scan",
    "state_readout",
    "gated_state_readout",
    "depthwise_conv",
    "conv_norm_gelu",
    "mlp",
    "token_logits",
    "layer_norm",
    "gated_norm",
    "residual_norm",
    "token_distances",
    "sequence_tree",
    "subtree_scan",
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", nargs="+", choices=OPERATORS, default=OPERATORS, help="operators (default: all)")
    parser.add_argument("--shapes", nargs="+", type=Shape.parse, default=[Shape.parse(s) for s in DEFAULT_SHAPES])
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "float64"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    parser.add_argument(
        "--seconds", type=kinds.number(0, above=True), default=1.0, help="how long each figure is measured"
    )
    parser.add_argument("--no-reference", action="store_true", help="do not time the PyTorch references")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="draw time over tokens into this file: .pdf, .png, .svg or .webp")
    options = parser.parse_args(argv)
    if options.plot and options.plot.suffix not in SUFFIXES:
        parser.error(f"--plot is a file {', '.join(SUFFIXES)}, not {options.plot}")
    return options


def main(argv: list[str] | None = None) -> "list[Row]":
    """Measure, print a table, and return the rows."""
    options = parse(argv)
    # Imported after parsing so that --help stays fast.
    from measured.ops import run

    return run(options)


if __name__ == "__main__":
    sys.exit(cli.run(main))
