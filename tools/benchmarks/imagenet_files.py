"""Write files like those of ImageNet, of which a training with an ImageNet recipe can read its data.

    python tools/benchmarks/imagenet_files.py data/imagenet-like --train-count 128000
    tree-ssm train quadmamba/quadmamba-small_8xb128_in1k --amp --compile --cfg-options \\
        train_dataloader.dataset.root=data/imagenet-like val_dataloader.dataset.root=data/imagenet-like

They are photographs that come with scikit-image and scikit-learn. Each file has another crop, flip and colouring: JPEGs
of 500×375 pixels, some 90 kB each, in 1,000 class folders. The classes mean nothing, and a training learns nothing.
"""

import argparse
import sys
from pathlib import Path

from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add, whole = parser.add_argument, kinds.whole_number
    add("root", type=Path, help="folder of the dataset, which is made")
    add("--train-count", type=whole(), default=128_000, help="training images (default: 128000)")
    add("--val-count", type=whole(), default=1000, help="validation images (default: 1000)")
    add("--classes", type=whole(), default=1000, help="class folders; ImageNet's recipes need 1000 (default: 1000)")
    add("--seed", type=whole(0, kinds.LARGEST_SEED), default=0, help="of what is drawn (default: 0)")
    add("--processes", type=whole(), metavar="N", help="that make them (default: one a core)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> str:
    """Write the files, and say what is there."""
    options = parse(argv)
    # Imported after parsing so that --help stays fast.
    from ssm_train.data.prepare.imagenet_like import prepare_imagenet_like

    said = prepare_imagenet_like(
        options.root, options.train_count, options.val_count, options.classes, options.seed, options.processes
    )
    print(said)
    return said


if __name__ == "__main__":
    sys.exit(cli.run(main))
