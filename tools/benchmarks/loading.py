"""How many images a core loads a second, part by part, and how long the device takes for the rest of the augmentation.

    python tools/benchmarks/imagenet_files.py data/imagenet-like --train-count 10000
    python tools/benchmarks/loading.py data/imagenet-like --processes 12
    python tools/benchmarks/loading.py data/imagenet-like --device cuda

The folder has train/<class>/<image>, and the recipe is that of ImageNet. All parts work on the same images, in turns. A
row is what this project does, unless it names another library, or says that it was done before. Other libraries are
measured where they are installed: torchvision, simplejpeg, SPDL (with the libraries of FFmpeg), DALI, Kornia. Times of
a core are those that the process had one, in one thread, so that other programs matter little. Times of the device
include what the host does for a batch.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli

if TYPE_CHECKING:  # imported when it is needed, so that --help stays fast
    from measured.loading import Row


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add, whole = parser.add_argument, kinds.whole_number
    add("root", type=Path, help="folder with train/<class>/<image>")
    add("--images", type=whole(), default=256, help="images that the parts of a core are measured on (default: 256)")
    add("--batch", type=whole(), default=128, help="images in a batch (default: 128)")
    add("--size", type=whole(1, kinds.LARGEST_SIDE), default=224, help="side of the crops (default: 224)")
    add("--rounds", type=whole(2), default=7, help="turns of all parts (default: 7)")
    add("--processes", type=whole(), metavar="N", help="also measure a data loader with so many loading processes")
    add("--device", choices=["cpu", "cuda"], help="that finishes the batches (default: a GPU if there is one)")
    add("--json", type=Path, help="write all figures to this file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> "list[Row]":
    """Measure, print a table, and return the rows."""
    options = parse(argv)
    # Imported after parsing so that --help stays fast.
    from measured.loading import run

    return run(options)


if __name__ == "__main__":
    sys.exit(cli.run(main))
