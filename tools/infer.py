"""Runs a trained model on images and draws what it finds: python tools/infer.py CONFIG CKPT IMAGE_OR_FOLDER --out DIR.

For every image there is a picture in DIR: with the likeliest classes, boxes and masks, or the class of every pixel (and
then the bare label map too). predictions.json has the same as numbers.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from ssm_train.apis import cli


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run a trained model on images.", allow_abbrev=False)
    parser.add_argument("config", help="the config it was trained with, of any task")
    parser.add_argument("checkpoint", help="a .pth file of tools/train.py or tools/convert_checkpoint.py")
    parser.add_argument("images", type=Path, help="an image, or a folder of images")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the pictures go")
    parser.add_argument("--device", help="such as cuda:1 or cpu (default: a GPU if there is one)")
    parser.add_argument("--min-score", type=float, default=0.3, help="of detected objects (default: 0.3)")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Predict, write, and say what came of it."""
    args = parse_arguments(arguments)
    # Later than the command line, so that --help is quick.
    import torch

    from ssm_core.errors import DataError
    from ssm_train.apis.infer import build_predictor, find_images
    from ssm_train.data.datasets.image_folder import EXTENSIONS
    from ssm_train.runtime.config import load_config
    from ssm_train.runtime.files import write_text_atomically

    images = find_images(args.images, EXTENSIONS)
    root = args.images if args.images.is_dir() else args.images.parent
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    predictor = build_predictor(load_config(args.config, args.cfg_options), args.checkpoint, device, args.min_score)
    stems = Counter(path.with_suffix("") for path in images)
    predictions, unreadable = {}, 0
    for path in images:
        name = path.relative_to(root)
        try:
            # Where a folder has a.jpg and a.png, the suffix stays in the names.
            stem = name.with_suffix("") if stems[path.with_suffix("")] == 1 else name
            predictions[str(name)] = predictor(path, args.out / stem)
        except DataError as error:
            if len(images) == 1:
                raise
            unreadable += 1
            print(f"skipped: {error}")
    write_text_atomically(args.out / "predictions.json", json.dumps(predictions, indent=1, ensure_ascii=False))
    print(f"{len(predictions)} images{f', {unreadable} unreadable' if unreadable else ''}, in {args.out}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
