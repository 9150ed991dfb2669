"""Time the norms beside PyTorch's, eager and compiled, and beside the memory floor, at the shapes of the models.

    python tools/benchmarks/norms.py
    python tools/benchmarks/norms.py --shapes 128x56x56x96 --json norms.json

The branch and the normed result are of `--dtype`, and the residual stream is float32, as in training under autocast.
Each way is timed forward, and forward and backward together. The floor is the time that moving every tensor once takes
at the copy rate measured in the same run. Times are medians in milliseconds. Whole models:

    python tools/benchmarks/throughput.py --compile --mode train --plain
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli

if TYPE_CHECKING:  # imported when it is needed, so that --help stays fast
    from measured.norms import Row

# The maps of QuadMamba-S and MambaTree-T at 224 × 224.
DEFAULT_SHAPES = (
    "128x56x56x96", "128x56x56x160", "128x56x56x192", "128x28x28x192", "128x28x28x320", "128x14x14x384",
    "128x14x14x640", "128x7x7x768", "128x7x7x1280",
)  # fmt: skip


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", nargs="+", type=shape, default=[shape(s) for s in DEFAULT_SHAPES], metavar="BxHxWxC"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="default: bfloat16 on a GPU, float32 on a CPU"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    parser.add_argument(
        "--seconds", type=kinds.number(0, above=True), default=0.3, help="how long each figure is measured"
    )
    parser.add_argument("--no-compile", action="store_true", help="do not measure PyTorch's norms compiled")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args(argv)


def shape(text: str) -> tuple[int, ...]:
    """Read ``BxHxWxC``."""
    try:
        found = tuple(map(int, text.split("x")))
    except ValueError:
        found = ()
    if len(found) != 4 or min(found) < 1:
        raise argparse.ArgumentTypeError(f"a shape is written BxHxWxC, such as 4x56x56x160; got {text!r}")
    return found


def main(argv: list[str] | None = None) -> "list[Row]":
    """Measure, print a table, and return the rows."""
    options = parse(argv)
    # Imported after parsing so that --help stays fast.
    from measured.norms import run

    return run(options)


if __name__ == "__main__":
    sys.exit(cli.run(main))
