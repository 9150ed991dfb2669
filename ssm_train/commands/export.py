"""A trained model in a form that runs elsewhere: tree-ssm export CONFIG [CKPT] --format torch_export|aoti|onnx.

The exported model takes images that are normalised as in the config's test pipeline. A classifier returns logits, a
detector or segmentor the maps of its backbone. Batches and images may have any size, unless --size fixes the images'.
The file is compared with the model before the tool ends. docs/export.md says how to load each format.
"""

import argparse
from pathlib import Path

from ssm_train.apis import arguments as kinds

DESCRIPTION = (
    "Export a trained model. The file is compared with the model before it is written, and the command fails if the "
    "difference is above 1e-3 of the largest value. docs/export.md says how to load each format."
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tree-ssm export", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("config", help="the config it was trained with, of any task of images")
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="a checkpoint of tree-ssm train, convert or publish (default: the weights that come with the package for "
        "this config)",
    )
    parser.add_argument("--format", required=True, choices=["torch_export", "aoti", "onnx"], help="what to write")
    parser.add_argument(
        "--out",
        type=Path,
        help="the file, which is replaced if it exists (default: the checkpoint's path with the format's suffix; for "
        "weights of the package, their name in the present folder)",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=kinds.whole_number(1, kinds.LARGEST_SIDE),
        metavar=("H", "W"),
        help="fix the images' size (default: any sides from 33 on)",
    )
    parser.add_argument(
        "--image", type=Path, nargs="+", default=[], help="photos to check with (default: random images of two sizes)"
    )
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Export, check, and say what came of it."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast, and the first before the others so that a typo is found fast.
    from ssm_train.runtime.early_check import check_early

    check_early(args.config, args.cfg_options)
    from ssm_train.apis.export import FORMATS, export_checkpoint
    from ssm_train.runtime.config import load_config

    size = tuple(args.size) if args.size else None
    cfg = load_config(args.config, args.cfg_options)
    path, found = export_checkpoint(cfg, args.checkpoint, FORMATS[args.format], args.out, size, args.image)
    print(f"written     {path}, {path.stat().st_size / 2**20:.1f} MiB")
    print(f"difference  {found.difference:.1e} of the largest value")
    print(f"time        {found.milliseconds:.1f} ms an image, {found.eager:.1f} ms in eager PyTorch")
