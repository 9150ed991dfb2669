"""Draws what models see, and how runs went: python tools/analysis/visualize.py WHAT … --out PICTURE.

    tree             MambaTree: the spanning tree of every block over a photo
    affinity         MambaTree: what a pixel hears through the tree, beside a scan row by row
    quadtree         QuadMamba: scores, chosen quadrants and the order of the tokens in every block
    receptive-field  effective receptive fields of any models, averaged over a folder of images
    curves           learning curves of one or more runs

A MODEL is a checkpoint of tools/train.py or tools/convert_checkpoint.py, a config (with random weights, which the
picture says), CONFIG=CHECKPOINT, or a name of timm's. PICTURE ends in .png or .svg. docs/gallery.md shows one of each.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ssm_train.apis import cli

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL_HELP = "checkpoint, config, CONFIG=CHECKPOINT, or timm's name"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parts = parser.add_subparsers(dest="what", required=True, metavar="WHAT")

    def add(name: str, draw, words: str) -> argparse.ArgumentParser:
        part = parts.add_parser(name, help=words, description=f"Draws {words}.", allow_abbrev=False)
        part.set_defaults(draw=draw)
        part.add_argument("--out", type=_picture, required=True, metavar="PICTURE", help="a .png or .svg file")
        part.add_argument("--dpi", type=_positive, default=110, help="of a .png (default: 110)")
        return part

    for name, draw, words in (
        ("tree", draw_tree, "the spanning tree of every MambaTree block"),
        ("affinity", draw_affinity, "what a pixel hears through MambaTree's tree, and row by row"),
        ("quadtree", draw_quadtree, "QuadMamba's scores, quadrants and order of tokens"),
    ):
        part = add(name, draw, words)
        part.add_argument("model", metavar="MODEL", help=MODEL_HELP)
        part.add_argument("image", type=Path, metavar="IMAGE", help="a photo")
        part.add_argument("--side", type=_side, help="the photo is scaled to the area of a square of it (default: the "
                          "model's own)")  # fmt: skip
        part.add_argument("--blocks", nargs="+", type=_block, metavar="STAGE.BLOCK", help="such as 1.1 3.9 (default: "
                          + ("the last of each stage)" if name == "affinity" else "all)"))  # fmt: skip
        if name == "affinity":
            part.add_argument("--pixel", nargs=2, type=int, action="append", required=True, metavar=("ROW", "COLUMN"),
                              help="in the photo, from 0, upright; may be given several times")  # fmt: skip

    part = add("receptive-field", draw_receptive_field, "effective receptive fields")
    part.add_argument("models", nargs="+", metavar="MODEL", help=MODEL_HELP)
    part.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="with photos, or one photo")
    part.add_argument("--count", type=_positive, default=50, help="of images at most (default: 50)")
    part.add_argument("--side", type=_side, default=224, help="of their centre squares (default: 224)")
    part.add_argument("--stage", type=int, default=-1, help="whose map; -1 is the last (default)")
    part.add_argument("--pretrained", action="store_true", help="let timm fetch weights for its names")
    part.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")

    part = add("curves", draw_curves, "learning curves")
    part.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="work folder of tools/train.py")
    part.add_argument("--metrics", nargs="+", metavar="NAME", help="such as loss lr top1 (default: all but lr)")
    part.add_argument("--x", choices=["iter", "epoch"], default="iter", help="default: iter")
    part.add_argument("--smooth", type=_positive, default=1, metavar="POINTS", help="of the loss (default: 1, none)")
    part.add_argument("--start", type=int, default=0, metavar="X", help="leave out what was before (default: 0)")
    return parser.parse_args(arguments)


def _picture(text: str) -> Path:
    if Path(text).suffix.lower() not in (".png", ".svg"):
        raise argparse.ArgumentTypeError(f"{text!r} ends neither in .png nor in .svg")
    return Path(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _side(text: str) -> int:
    if _positive(text) < 32:
        raise argparse.ArgumentTypeError(f"{text} is too small: models take 32 or more")
    return int(text)


def _block(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)\.([1-9]\d*)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no STAGE.BLOCK such as 1.2, both counted from 1")
    return int(found[1]), int(found[2])


def _open(source: str, pretrained: bool = False):
    """The model that an argument names; both families are imported, so that timm knows them."""
    import quadtree_ssm  # noqa: F401
    import tree_ssm  # noqa: F401
    from ssm_train.apis.open_model import open_model

    return open_model(source, pretrained)


def draw_tree(args: argparse.Namespace) -> "Figure":
    """The spanning trees of a model over a photo."""
    from tree_ssm.visualization import record_trees, tree_figure

    opened, image, trees = _recorded(args, record_trees)
    return tree_figure(image, _chosen(trees, args.blocks, args.model, "MambaTree"), opened.title)


def draw_affinity(args: argparse.Namespace) -> "Figure":
    """The affinity maps of pixels."""
    from ssm_core.errors import ConfigError
    from ssm_core.visualization import scaled_pixel
    from ssm_train.data.images import read_image
    from tree_ssm.visualization import affinity_figure, record_trees

    opened, image, trees = _recorded(args, record_trees)
    blocks = args.blocks or sorted({stage: (stage, block) for stage, block in map(_number, trees)}.values())
    width, height = read_image(args.image).size
    pixels = []
    for row, column in args.pixel:
        if not (0 <= row < height and 0 <= column < width):
            raise ConfigError(f"--pixel {row} {column} is outside the image of {height} rows and {width} columns")
        pixels.append(scaled_pixel((row, column), (height, width), image.shape))
    return affinity_figure(image, _chosen(trees, blocks, args.model, "MambaTree"), pixels, opened.title)


def draw_quadtree(args: argparse.Namespace) -> "Figure":
    """Scores, quadrants and orders of a model on a photo."""
    from quadtree_ssm.modules import ChosenQuadrant
    from quadtree_ssm.visualization import quadtree_figure
    from ssm_core.layers import record_scans

    opened, image, scans = _recorded(args, record_scans)
    scans = {name: chosen for name, chosen in scans.items() if isinstance(chosen, ChosenQuadrant)}
    chosen = _chosen(scans, args.blocks, args.model, "QuadMamba's quadtree")
    return quadtree_figure(image, opened.network, chosen, opened.title)


def _recorded(args: argparse.Namespace, recorder):
    """The opened model, the photo as it is shown, and what a recorder recorded of the forward pass."""
    import torch

    from ssm_train.data.images import read_image, to_area

    opened = _open(args.model)
    scale = opened.preparation
    image = to_area(read_image(args.image, scale.mode), args.side or scale.side)
    with recorder(opened.network) as record, torch.no_grad():
        opened.network(scale.inputs(image))
    print(f"{opened.title}; image of {image.shape[0]} × {image.shape[1]}")
    return opened, image, record


def _number(name: str) -> tuple[int, int]:
    """Stage and block, from 1, of a scan module's name."""
    stage, block = re.search(r"stages\.(\d+)\.blocks\.(\d+)\.", name).groups()
    return int(stage) + 1, int(block) + 1


def _chosen(record: dict, blocks: list[tuple[int, int]] | None, model: str, family: str) -> dict:
    """The asked-for blocks of what was recorded; all of them if none is asked for."""
    from ssm_core.errors import ConfigError

    if not record:
        raise ConfigError(f"{model} has no block of {family}")
    by_number = {_number(name): name for name in record}
    for block in blocks or ():
        if block not in by_number:
            have = ", ".join(f"{s}.{b}" for s, b in by_number)
            raise ConfigError(f"{model} has no block {block[0]}.{block[1]} with one of {family}: there are {have}")
    return {by_number[block]: record[by_number[block]] for block in blocks or by_number}


def draw_receptive_field(args: argparse.Namespace) -> "Figure":
    """A panel for every model; the areas are printed."""
    from ssm_core.errors import ConfigError
    from ssm_core.visualization import (
        area_shares,
        draw_receptive_field,
        effective_receptive_field,
        map_extractor,
        panels,
    )
    from ssm_train.data.images import find_images, read_image, to_square

    paths = find_images(args.images)[: args.count]
    fields = {}
    for source in args.models:
        opened = _open(source, args.pretrained)
        network = opened.network.to(args.device).requires_grad_(False)
        scale = opened.preparation
        squares = (to_square(read_image(path, scale.mode), args.side) for path in paths)
        try:
            field = effective_receptive_field(map_extractor(network, args.stage),
                                              (scale.inputs(square).to(args.device) for square in squares))  # fmt: skip
            areas = area_shares(field)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from error
        fields[opened.title] = field
        said = ", ".join(f"{share:.0%} within {area:.1%} of the area" for share, area in areas.items())
        print(f"{opened.title}: {said}")
    stage = "last stage" if args.stage == -1 else f"stage {args.stage}"
    figure, grid = panels(1, len(fields), (args.side, args.side), width=2.6,
                          title=f"effective receptive field, {stage}, {len(paths)} images")  # fmt: skip
    for axes, (title, field) in zip(grid[0], fields.items(), strict=True):
        draw_receptive_field(axes, field, title.replace(", ", "\n", 1))
    return figure


def draw_curves(args: argparse.Namespace) -> "Figure":
    """The curves of runs."""
    from ssm_core.errors import ConfigError
    from ssm_train.runtime.curve_figures import draw_runs
    from ssm_train.runtime.hooks.curves import read_curves

    names = [path.name if len({p.name for p in args.runs}) == len(args.runs) else str(path) for path in args.runs]
    runs = {name: read_curves(path) for name, path in zip(names, args.runs, strict=True)}
    try:
        return draw_runs(runs, args.metrics, args.x, args.smooth, args.start)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def main(arguments: list[str] | None = None) -> None:
    """Draw and write."""
    args = parse_arguments(arguments)
    # Imported after parsing so that --help stays fast.
    from ssm_core.visualization import save
    from ssm_train.runtime.files import write_atomically

    figure = args.draw(args)
    kind = args.out.suffix.lower().lstrip(".")
    write_atomically(args.out, lambda file: save(figure, file, kind, args.dpi))
    print(f"drawn: {args.out}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
