"""Draws what models see, and how runs went: tree-ssm analyse visualize WHAT … --out PICTURE.

    tree             MambaTree: the spanning tree of every block over a photo
    affinity         MambaTree: what a pixel hears through the tree, beside a scan row by row
    quadtree         QuadMamba: scores, chosen quadrants and the order of the tokens in every block
    receptive-field  effective receptive fields of any models, averaged over a folder of images
    curves           learning curves of one or more runs

A MODEL is a checkpoint of tree-ssm train or tree-ssm convert, a config (with the weights that come with the package for
it, or random ones, which the picture says), CONFIG=CHECKPOINT, or a name of timm's.

PICTURE ends in .pdf (for a paper: lines and letters stay such, and fonts are embedded as TrueType), .png, .svg or .webp
(for a web page). docs/gallery.md shows one of each kind.
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

# Said again here because importing Matplotlib would make --help slow: those of ssm_core.visualization.
SUFFIXES = (".pdf", ".png", ".svg", ".webp")
WIDTHS = {"column": 3.25, "page": 6.875}
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
        part.add_argument(
            "--out", type=_picture, required=True, metavar="PICTURE", help="a .pdf, .png, .svg or .webp file"
        )
        part.add_argument(
            "--width",
            type=_width,
            default=WIDTHS["page"],
            metavar="INCHES",
            help="width on paper, also as column (3.25 inches) or page (6.875 inches, the default)",
        )
        part.add_argument(
            "--dpi",
            type=kinds.whole_number(10, 2400),
            default=300,
            help="dots an inch of a .png or .webp, and of the photos within the others (default: 300)",
        )
        part.add_argument(
            "--title",
            metavar="TEXT",
            help="the line above the picture, '' for none (default: the model and whose weights it has)",
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
        part.add_argument("--side", type=kinds.whole_number(32, 8192), help="the model sees the photo scaled to the "
                          "area of a square of this side in pixels, such as 448 or 896 (default: the side of its own "
                          "test images)")  # fmt: skip
        part.add_argument("--blocks", nargs="+", type=_block, metavar="STAGE.BLOCK", help="such as 1.1 3.9 (default: "
                          + ("the last of each stage)" if name == "affinity" else "all)"))  # fmt: skip
        if name == "tree":
            part.add_argument("--columns", type=kinds.whole_number(high=64),
                              help="panels in a row; fewer are larger (default: at most 4)")  # fmt: skip
        if name == "affinity":
            part.add_argument("--contrast", type=kinds.number(0, 10, above=True), default=1.0, metavar="EXPONENT",
                              help="of the colours; below 1, weak ones are told apart better (default: 1)")  # fmt: skip
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
                      help="smooth the loss exponentially, with the span of so many points, in both directions; the "
                      "points themselves stay pale behind it (default: 1, not at all)")  # fmt: skip
    part.add_argument("--start", type=int, default=0, metavar="X", help="leave out what was before X (default: 0)")
    return parser.parse_args(arguments)


def _picture(text: str) -> Path:
    if Path(text).suffix.lower() not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} ends in none of {', '.join(SUFFIXES)}")
    return Path(text)


def _width(text: str) -> float:
    return WIDTHS[text] if text in WIDTHS else kinds.number(1, 100)(text)


def _block(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)\.([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no STAGE.BLOCK such as 1.2, both counted from 1")
    return int(found[1]), int(found[2])


# The functions below import what they call after parsing so that --help stays fast.


def draw_tree(args: argparse.Namespace) -> "Figure":
    """The spanning trees of a model over a photo."""
    from ssm_train.apis import visualize

    view = visualize.View(args.model, args.image, args.side)
    return visualize.draw_trees(view, args.blocks, look=visualize.Look(args.width, args.title), columns=args.columns)


def draw_affinity(args: argparse.Namespace) -> "Figure":
    """The affinity maps of pixels."""
    from ssm_train.apis import visualize

    view, look = visualize.View(args.model, args.image, args.side), visualize.Look(args.width, args.title)
    return visualize.draw_affinities(view, args.pixel, args.blocks, look=look, contrast=args.contrast)


def draw_quadtree(args: argparse.Namespace) -> "Figure":
    """Scores, quadrants and orders of a model on a photo."""
    from ssm_train.apis import visualize

    view = visualize.View(args.model, args.image, args.side)
    return visualize.draw_quadtrees(view, args.blocks, look=visualize.Look(args.width, args.title))


def draw_receptive_field(args: argparse.Namespace) -> "Figure":
    """A panel for every model."""
    from ssm_train.apis import visualize

    return visualize.draw_receptive_fields(
        args.models, args.images, args.count, args.side, args.stage, args.pretrained, args.device,
        look=visualize.Look(args.width, args.title),
    )  # fmt: skip


def draw_curves(args: argparse.Namespace) -> "Figure":
    """The curves of runs."""
    from ssm_train.apis import visualize

    look = visualize.Look(args.width, args.title)
    return visualize.draw_curves(args.runs, args.metrics, args.x, args.smooth, args.start, look)


def main(arguments: list[str] | None = None) -> None:
    """Draw and write."""
    args = parse_arguments(arguments)
    from ssm_train.apis.visualize import write_figure

    write_figure(args.draw(args), args.out, args.dpi)
    print(f"drawn: {args.out}")
