"""Draws what models see, and how runs went: tree-ssm analyse visualize WHAT … --out PICTURE.

    tree             MambaTree: the spanning tree of every block over a photo
    affinity         MambaTree: what a pixel hears through the tree, beside a scan row by row
    quadtree         QuadMamba: scores, chosen quadrants and the order of the tokens in every block
    receptive-field  effective receptive fields of any models, averaged over a folder of images
    curves           learning curves of one or more runs

A MODEL is a checkpoint of tree-ssm train or tree-ssm convert, a config (with random weights, which the
picture says), CONFIG=CHECKPOINT, or a name of timm's. PICTURE ends in .png or .svg. docs/gallery.md shows one of each.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_train.apis import arguments as kinds

if TYPE_CHECKING:
    from ssm_train.apis.visualize import Figure

    Draw = Callable[[argparse.Namespace], Figure]

MODEL_HELP = "checkpoint, config, CONFIG=CHECKPOINT, or timm's name"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; ``draw`` is the function that draws."""
    parser = argparse.ArgumentParser(
        prog="tree-ssm analyse visualize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parts = parser.add_subparsers(dest="what", required=True, metavar="WHAT")

    def add(name: str, draw: "Draw", words: str) -> argparse.ArgumentParser:
        part = parts.add_parser(name, help=words, description=f"Draws {words}.", allow_abbrev=False)
        part.set_defaults(draw=draw)
        part.add_argument("--out", type=_picture, required=True, metavar="PICTURE", help="a .png or .svg file")
        part.add_argument(
            "--dpi", type=kinds.whole_number(10, 2400), default=110, help="dots an inch of a .png (default: 110)"
        )
        return part

    for name, draw, words in (
        ("tree", draw_tree, "the spanning tree of every MambaTree block"),
        ("affinity", draw_affinity, "what a pixel hears through MambaTree's tree, and row by row"),
        ("quadtree", draw_quadtree, "QuadMamba's scores, quadrants and order of tokens"),
    ):
        part = add(name, draw, words)
        part.add_argument("model", metavar="MODEL", help=MODEL_HELP)
        part.add_argument("image", type=Path, metavar="IMAGE", help="a photo")
        part.add_argument("--side", type=kinds.whole_number(32, 8192), help="the photo is scaled to the area of a "
                          "square of this side, in pixels (default: the model's own)")  # fmt: skip
        part.add_argument("--blocks", nargs="+", type=_block, metavar="STAGE.BLOCK", help="such as 1.1 3.9 (default: "
                          + ("the last of each stage)" if name == "affinity" else "all)"))  # fmt: skip
        if name == "affinity":
            part.add_argument("--pixel", nargs=2, type=int, action="append", required=True, metavar=("ROW", "COLUMN"),
                              help="in the upright photo, from 0; may be given several times")  # fmt: skip

    part = add("receptive-field", draw_receptive_field, "effective receptive fields")
    part.add_argument("models", nargs="+", metavar="MODEL", help=MODEL_HELP)
    part.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="with photos, or one photo")
    part.add_argument("--count", type=kinds.whole_number(), default=50, help="how many images at most (default: 50)")
    part.add_argument(
        "--side",
        type=kinds.whole_number(32, 8192),
        default=224,
        help="side of their centre squares in pixels (default: 224)",
    )
    part.add_argument("--stage", type=int, default=-1, help="the stage whose map is looked at (default: -1, the last)")
    part.add_argument("--pretrained", action="store_true", help="let timm fetch weights for its names")
    part.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")

    part = add("curves", draw_curves, "learning curves")
    part.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="work folder of tree-ssm train")
    part.add_argument("--metrics", nargs="+", metavar="NAME", help="such as loss lr top1 (default: all but lr)")
    part.add_argument("--x", choices=["iter", "epoch"], default="iter", help="what x counts (default: iter)")
    part.add_argument("--smooth", type=kinds.whole_number(), default=1, metavar="POINTS",
                      help="average the loss over so many points (default: 1, not at all)")  # fmt: skip
    part.add_argument("--start", type=int, default=0, metavar="X", help="leave out what was before X (default: 0)")
    return parser.parse_args(arguments)


def _picture(text: str) -> Path:
    if Path(text).suffix.lower() not in (".png", ".svg"):
        raise argparse.ArgumentTypeError(f"{text!r} ends neither in .png nor in .svg")
    return Path(text)


def _block(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)\.([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no STAGE.BLOCK such as 1.2, both counted from 1")
    return int(found[1]), int(found[2])


# The functions below import what they call after parsing so that --help stays fast.


def draw_tree(args: argparse.Namespace) -> "Figure":
    """The spanning trees of a model over a photo."""
    from ssm_train.apis import visualize

    return visualize.draw_trees(visualize.View(args.model, args.image, args.side), args.blocks)


def draw_affinity(args: argparse.Namespace) -> "Figure":
    """The affinity maps of pixels."""
    from ssm_train.apis import visualize

    return visualize.draw_affinities(visualize.View(args.model, args.image, args.side), args.pixel, args.blocks)


def draw_quadtree(args: argparse.Namespace) -> "Figure":
    """Scores, quadrants and orders of a model on a photo."""
    from ssm_train.apis import visualize

    return visualize.draw_quadtrees(visualize.View(args.model, args.image, args.side), args.blocks)


def draw_receptive_field(args: argparse.Namespace) -> "Figure":
    """A panel for every model."""
    from ssm_train.apis import visualize

    return visualize.draw_receptive_fields(
        args.models, args.images, args.count, args.side, args.stage, args.pretrained, args.device
    )


def draw_curves(args: argparse.Namespace) -> "Figure":
    """The curves of runs."""
    from ssm_train.apis import visualize

    return visualize.draw_curves(args.runs, args.metrics, args.x, args.smooth, args.start)


def main(arguments: list[str] | None = None) -> None:
    """Draw and write."""
    args = parse_arguments(arguments)
    from ssm_train.apis.visualize import write_figure

    write_figure(args.draw(args), args.out, args.dpi)
    print(f"drawn: {args.out}")
