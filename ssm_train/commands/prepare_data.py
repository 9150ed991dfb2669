"""Puts datasets where the configs look for them: tree-ssm prepare-data NAME."""

import argparse
from pathlib import Path

from ssm_train.apis import arguments as kinds

# What is done for each dataset.
DATASETS = {
    "digits": "classification: handwritten digits of scikit-learn",
    "fashion-mnist": "classification: copy and verify",
    "photos": "classification: crops of the photos that come with scikit-image and scikit-learn",
    "imagenet": "classification: arrange a downloaded ILSVRC2012 and count it",
    "nuclei": "all dense tasks: tiles of one microscopy image, from the package stardist",
    "composite": "all dense tasks: Fashion-MNIST items composited onto photographs",
    "largest-item": "classification: the composited scenes by the class of their largest item",
    "coco": "detection: arrange a downloaded COCO 2017 and verify it",
    "ade20k": "segmentation: arrange a downloaded ADE20K and verify it",
    "cityscapes": "segmentation: arrange a downloaded Cityscapes, make its label maps",
    "shards": "classification: pack an image folder into WebDataset's shards",
    "huggingface": "classification: pack an image folder into a dataset of Hugging Face",
}
# Numbers of training and of validation images of the datasets that are made.
MADE = {"composite": (48000, 500), "photos": (9000, 600)}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; what is not ``name``, ``root`` or ``source`` is an option of that dataset."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm prepare-data", description="Put a dataset where the configs look for it.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, words in DATASETS.items():
        command = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
        command.add_argument("--root", type=Path, default=Path("data"), help="folder of all datasets (default: data)")
        command.add_argument("--from", type=Path, dest="source", metavar="PATH", help="folder of the downloaded files")
        if name == "digits":
            command.add_argument("--images", action="store_true", help="write them as an image folder, ROOT/digits")
        if name == "shards":
            command.add_argument(
                "--per-shard", type=kinds.whole_number(), default=1000, help="images in a shard (default: 1000)"
            )
        if name == "nuclei":
            command.add_argument(
                "--tile",
                type=kinds.whole_number(1, kinds.LARGEST_SIDE),
                default=128,
                help="side of a tile in pixels (default: 128)",
            )
        if name in MADE:
            command.add_argument(
                "--size",
                type=kinds.whole_number(1, kinds.LARGEST_SIDE),
                default=256,
                help="side of an image in pixels (default: 256)",
            )
            for split, words, count in zip(("train", "val"), ("training", "validation"), MADE[name], strict=True):
                command.add_argument(
                    f"--{split}-count",
                    type=kinds.whole_number(),
                    default=count,
                    help=f"{words} images (default: {count})",
                )
            command.add_argument(
                "--seed", type=kinds.whole_number(0, kinds.LARGEST_SEED), default=0, help="of the images (default: 0)"
            )
            command.add_argument(
                "--processes", type=kinds.whole_number(), metavar="N", help="that make them (default: one a core)"
            )
        if name == "composite":
            command.add_argument(
                "--items", type=kinds.whole_number(), metavar="N",
                help="take items from the first N training images of Fashion-MNIST alone (default: from all)",
            )  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Prepare the dataset and say what is there."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast.
    from ssm_train.apis import prepare

    if args.name == "digits":
        said = prepare.prepare_digits(args.root, args.source, args.images)
    elif args.name == "shards":
        said = prepare.pack_shards(args.root, args.source, args.per_shard)
    elif args.name == "nuclei":
        said = prepare.prepare_nuclei(args.root, args.source, args.tile)
    elif args.name in MADE:
        made = (args.root, args.source, args.size, args.train_count, args.val_count, args.seed, args.processes)
        if args.name == "composite":
            said = prepare.prepare_composite(*made, args.items)
        else:
            said = prepare.prepare_photos(*made)
    else:
        said = prepare.ARRANGED[args.name](args.root, args.source)
    print(said)
