"""Runs a trained model on images and draws what it finds: python tools/infer.py CONFIG CKPT IMAGE_OR_FOLDER --out DIR.

For every image there is a picture in DIR: with the likeliest classes, boxes and masks, or the class of every pixel (and
then the bare label map too). predictions.json has the same as numbers.
"""

import argparse
import json
import sys
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
    # Imported after parsing so that --help stays fast.
    from ssm_core.errors import DataError
    from ssm_train.apis.infer import Predictor, predict_all
    from ssm_train.data.images import find_images
    from ssm_train.runtime.config import load_config
    from ssm_train.runtime.files import write_text_atomically

    images = find_images(args.images)
    root = args.images if args.images.is_dir() else args.images.parent
    predictor = Predictor(load_config(args.config, args.cfg_options), args.checkpoint, args.device, args.min_score)
    predictions, unreadable = {}, 0
    for name, found in predict_all(predictor, images, root, args.out):
        if not isinstance(found, DataError):
            predictions[name] = found
        elif len(images) == 1:
            raise found
        else:
            unreadable += 1
            print(f"skipped: {found}")
    write_text_atomically(args.out / "predictions.json", json.dumps(predictions, indent=1, ensure_ascii=False))
    print(f"{len(predictions)} images{f', {unreadable} unreadable' if unreadable else ''}, in {args.out}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
