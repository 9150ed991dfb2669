"""Runs a trained model on images and draws what it finds: tree-ssm infer CONFIG [CKPT] IMAGE_OR_FOLDER --out DIR.

DIR gets a picture of every image: with the likeliest classes, with boxes and masks, or with the class of every pixel
(and then the label map itself, too). predictions.json has the same as numbers.
"""

import argparse
from decimal import ROUND_DOWN, Context
from pathlib import Path

from ssm_train.apis import arguments as kinds
from ssm_train.apis import cli


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm infer", description="Run a trained model on images.", allow_abbrev=False
    )
    parser.add_argument("config", help="the config it was trained with, of any task")
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="a checkpoint of tree-ssm train, convert or publish (default: the weights that come with the package for "
        "this config)",
    )
    parser.add_argument("images", type=Path, help="an image, or a folder of images")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the pictures go")
    parser.add_argument("--device", help="such as cuda:1 or cpu (default: a GPU if there is one)")
    parser.add_argument(
        "--min-score",
        type=kinds.number(0, 1),
        default=0.3,
        help="leave out detected objects with a lower score (default: 0.3)",
    )
    parser.add_argument(
        "--batch-size",
        type=kinds.whole_number(),
        default=1,
        metavar="N",
        help="how many images are computed at once (default: 1)",
    )
    kinds.add_ways_of_prediction(parser)
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="change the config")
    # Options may stand between the words, and the checkpoint may be left out.
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Predict, write, and say what came of it."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast, and the first before the others so that a typo is found fast.
    from ssm_train.runtime.early_check import check_early

    check_early(args.config, args.cfg_options)
    from ssm_train.apis.infer import infer
    from ssm_train.apis.predictor import Predictor
    from ssm_train.runtime.config import load_config

    cfg = load_config(args.config, args.cfg_options)
    predictor = Predictor(
        cfg,
        args.checkpoint,
        args.device,
        args.min_score,
        args.batch_size,
        tta=args.tta,
        tile=args.tile,
        overlap=args.overlap,
    )
    if args.checkpoint is None:
        cli.say(f"weights that come with the package: {Path(predictor.checkpoint).name}")
    done = infer(predictor, args.images, args.out)
    unreadable = f", {done.unreadable} unreadable" if done.unreadable else ""
    line = f"{len(done.predictions)} images{unreadable}, in {args.out}"
    if done.empty:
        highest = "there is none at all" if done.highest is None else f"the highest is {_rounded_down(done.highest)}"
        line += f"; {done.empty} without an object of score ≥ {args.min_score:g} ({highest}: --min-score)"
    print(line)


def _rounded_down(score: float) -> str:
    """A score with three digits. As ``--min-score`` it keeps the object of this score."""
    return f"{Context(prec=3, rounding=ROUND_DOWN).create_decimal(score):f}"
