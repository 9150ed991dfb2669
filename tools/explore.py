"""A page to look into models with: python tools/explore.py [CHECKPOINT …], then open the address that it prints.

Drop a photo on it and click a pixel: it shows what the pixel hears through MambaTree's tree in every block (and would
hear from a scan row by row), in which window of QuadMamba's quadtree it lies in every block, and the five likeliest
classes if a checkpoint has a trained head. A family without a checkpoint is shown with random weights, and the page
says so. The page is served to this machine alone, unless --host says otherwise.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssm_train.apis import cli

if TYPE_CHECKING:
    import gradio
    import numpy as np
    from PIL.Image import Image

    from ssm_train.apis.open_model import OpenedModel

STAND_INS = {"MambaTreeV": "mambatree_tiny", "QuadMamba": "quadmamba_lite"}  # models of timm's, with random weights
DISPLAY_SIDE = 448  # of the square of the same area as the photo on the page
SESSIONS = 16  # whose photos are kept
HINT = "Drop a photo above, then click a pixel of it."
UPLOADS = "GRADIO_TEMP_DIR"  # where Gradio takes its folder from
LIFE = 3600  # seconds that an uploaded file is kept


class Seen(NamedTuple):
    """A photo as one model saw it."""

    title: str
    image: "np.ndarray"  # [H, W, 3] or [H, W], 0 … 1
    trees: dict  # block to tree_ssm.visualization.WeighedTree
    quadrants: dict  # block to quadtree_ssm.modules.ChosenQuadrant
    classes: dict[str, float] | None  # class to probability, if the model has a trained head


class Photo(NamedTuple):
    """What is kept of a photo while its page is open."""

    shown: "np.ndarray"  # [H, W, 3], 0 … 1
    seen: tuple[Seen, ...]


class Explorer:
    """The models, and the pictures of what they see; knows nothing of pages.

    Args:
        models: at least one of the two families.
        max_megapixels: larger photos are refused.
        side: photos are scaled to the area of a square of it; each model's own if left out.
    """

    def __init__(self, models: "list[OpenedModel]", max_megapixels: float, side: int | None = None) -> None:
        self.models, self.max_megapixels, self.side = models, max_megapixels, side

    def look(self, path: str | Path) -> Photo:
        """Show a photo to all models.

        Raises:
            DataError: it cannot be read, or it is too large.
        """
        from ssm_train.data.images import read_image, to_area

        # The page does not say where on the disk an upload lies.
        photo = read_image(path, max_megapixels=self.max_megapixels, title=Path(path).name)
        seen = []
        for opened in self.models:
            scale = opened.preparation
            image = to_area(photo.convert("L") if scale.grey else photo, self.side or scale.side)
            seen.append(self._show(opened, image))
        return Photo(to_area(photo, DISPLAY_SIDE), tuple(seen))

    @staticmethod
    def _show(opened: "OpenedModel", image: "np.ndarray") -> Seen:
        import torch

        from quadtree_ssm.modules import ChosenQuadrant
        from ssm_core.layers import record_scans
        from tree_ssm.visualization import record_trees

        with record_trees(opened.network) as trees, record_scans(opened.network) as scans, torch.no_grad():
            outputs = opened.network(opened.preparation.inputs(image))
        quadrants = {name: chosen for name, chosen in scans.items() if isinstance(chosen, ChosenQuadrant)}
        classes = None
        if opened.has_head:
            scores = outputs[0].softmax(0).tolist()
            names = opened.classes or [f"class {i}" for i in range(len(scores))]
            classes = dict(zip(names, scores, strict=True))
        return Seen(opened.title, image, trees, quadrants, classes)

    def marked(self, photo: Photo, pixel: tuple[int, int]) -> "Image":
        """The photo with a cross at a pixel (row, column)."""
        from PIL import Image, ImageDraw

        picture = Image.fromarray((photo.shown * 255).round().astype("uint8"))
        draw, (row, column), arm = ImageDraw.Draw(picture), pixel, 7
        for width, colour in ((5, "white"), (3, "red")):
            for sign in (-1, 1):
                draw.line((column - arm, row - sign * arm, column + arm, row + sign * arm), colour, width)
        return picture

    def affinity(self, photo: Photo, pixel: tuple[int, int]) -> "Image | None":
        """Both affinity maps of a pixel of the shown photo in every block; None if no model has trees."""
        from ssm_core.visualization import caption, in_rows, panels, scaled_pixel
        from tree_ssm.visualization import draw_affinities

        for seen in photo.seen:
            if seen.trees:
                rows, columns = in_rows(len(seen.trees))
                figure, grid = panels(2 * rows, columns, seen.image.shape, title=seen.title)
                place = scaled_pixel(pixel, photo.shown.shape, seen.image.shape)
                for i, (name, tree) in enumerate(seen.trees.items()):
                    pair = grid[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
                    draw_affinities(tuple(pair), seen.image, tree, place, caption(name))
                return _rendered(figure)
        return None

    def quadtree(self, photo: Photo, pixel: tuple[int, int]) -> "Image | None":
        """The quadtree of every block, the window of a pixel of the shown photo filled; None if no model has any."""
        from quadtree_ssm.visualization import draw_quadrants
        from ssm_core.visualization import caption, in_rows, panels, scaled_pixel, token_at

        for seen in photo.seen:
            if seen.quadrants:
                figure, grid = panels(*in_rows(len(seen.quadrants), 4), seen.image.shape, 2.8, seen.title)
                place = scaled_pixel(pixel, photo.shown.shape, seen.image.shape)
                for axes, (name, chosen) in zip(grid.flat, seen.quadrants.items(), strict=False):
                    token = token_at(place, chosen.height, chosen.width, seen.image.shape)
                    draw_quadrants(axes, seen.image, chosen, title=caption(name), token=token)
                return _rendered(figure)
        return None


def _rendered(figure: Any) -> "Image":
    """A Matplotlib figure as an image."""
    import io

    from PIL import Image

    from ssm_core.visualization import save

    file = io.BytesIO()
    save(figure, file, "png", 90)
    return Image.open(file)


def open_models(checkpoints: list[str]) -> "list[OpenedModel]":
    """The models of the checkpoints, and stand-ins for the families that none is of.

    Raises:
        CheckpointError: a file cannot be used.
        ConfigError: a model is of neither family.
    """
    import quadtree_ssm  # noqa: F401
    import tree_ssm  # noqa: F401
    from ssm_core.errors import ConfigError
    from ssm_train.apis.open_model import open_model

    models = [open_model(source) for source in checkpoints]
    kinds = [type(opened.network).__name__ for opened in models]
    for source, kind in zip(checkpoints, kinds, strict=True):
        if kind not in STAND_INS:
            raise ConfigError(f"{source} is a {kind}: the page is for {' and '.join(STAND_INS)}")
        if kinds.count(kind) > 1:
            raise ConfigError(f"more than one {kind} is given: the page shows one of each family")
    return models + [open_model(name) for kind, name in STAND_INS.items() if kind not in kinds]


def build_page(explorer: Explorer) -> "gradio.Blocks":
    """The page; what a handler cannot use becomes a sentence on it."""
    import gradio as gr

    from ssm_core.errors import DataError

    heads = [i for i, opened in enumerate(explorer.models) if opened.has_head]

    def pictures(photo: Photo, pixel: tuple[int, int]) -> tuple:
        said = f"Pixel in row {pixel[0]}, column {pixel[1]} of the photo as it is shown."
        return said, explorer.marked(photo, pixel), explorer.affinity(photo, pixel), explorer.quadtree(photo, pixel)

    def show(path: str | None) -> tuple:
        nothing = (None, None, None, *(None for _ in heads), None)
        if path is None:
            return HINT, *nothing
        try:
            photo = explorer.look(path)
        except DataError as error:
            return f"**{str(error)[:1].upper()}{str(error)[1:]}.**", *nothing
        rows, columns = photo.shown.shape[:2]
        return *pictures(photo, (rows // 2, columns // 2)), *(photo.seen[i].classes for i in heads), photo

    def click(photo: Photo | None, event: gr.SelectData) -> tuple:
        if photo is None:  # kept for an hour only
            return HINT, None, None, None
        column, row = event.index
        rows, columns = photo.shown.shape[:2]
        return pictures(photo, (min(max(int(row), 0), rows - 1), min(max(int(column), 0), columns - 1)))

    def picture(name: str, *buttons: str) -> gr.Image:
        return gr.Image(show_label=False, interactive=False, format="png", buttons=list(buttons), elem_id=name)

    titles = "; ".join(opened.title for opened in explorer.models)
    with gr.Blocks(title="Tree-SSM explorer", analytics_enabled=False, delete_cache=(LIFE, LIFE)) as page:
        gr.Markdown(f"## What state space models along trees see\nModels: {titles}.")
        kept = gr.State(time_to_live=LIFE)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                file = gr.File(label="A photo", file_types=["image"], type="filepath", elem_id="file", height=120)
                said = gr.Markdown(HINT, elem_id="said")
                shown = picture("photo")
                classes = [
                    gr.Label(label=f"Top 5: {explorer.models[i].title}", num_top_classes=5, elem_id=f"classes{i}")
                    for i in heads
                ]
            with gr.Column(scale=2):
                gr.Markdown("### What the pixel hears in every block\nFrom 0 (dark) to 1 (bright): through MambaTree's "
                            "tree, and as a scan row by row would have it.")  # fmt: skip
                affinity = picture("affinity", "fullscreen", "download")
                gr.Markdown("### Its window in QuadMamba's quadtree in every block\nYellow: the pixel's window. Red: "
                            "the chosen quadrant, split once more. Haze: the scores.")  # fmt: skip
                quadtree = picture("quadtree", "fullscreen", "download")
        drawn = [said, shown, affinity, quadtree]
        file.change(show, file, [*drawn, *classes, kept], api_visibility="private")
        shown.select(click, kept, drawn, api_visibility="private")
    return page.queue(default_concurrency_limit=1, max_size=SESSIONS)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT",
                        help="at most one of each family: a file of tools/train.py or tools/convert_checkpoint.py, or "
                        "CONFIG=CHECKPOINT")  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--side", type=int, help="photos are scaled to the area of a square of it (default: the "
                        "model's own)")  # fmt: skip
    parser.add_argument("--max-upload", type=_size, default="10mb", metavar="SIZE",
                        help="of a file, such as 500kb or 20mb (default: 10mb)")  # fmt: skip
    parser.add_argument("--max-megapixels", type=float, default=40, help="of a photo (default: 40)")
    args = parser.parse_args(arguments)
    if args.side is not None and not 32 <= args.side <= 1024:
        parser.error(f"--side is 32 to 1024, not {args.side}")
    if args.port is not None and not 1 <= args.port <= 65535:
        parser.error(f"--port is 1 to 65535, not {args.port}")
    return args


def _size(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(b|kb|mb|gb)", text.lower()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500kb or 20mb")
    return text.lower()


def serve(args: argparse.Namespace, block: bool = True) -> "tuple[gradio.Blocks, str]":
    """Build the page and serve it.

    Args:
        args: of :func:`parse_arguments`.
        block: return only when interrupted.

    Returns:
        The page and its address.

    Raises:
        ConfigError: the address is taken, or is none of this machine's.
    """
    from ssm_core.errors import ConfigError

    page = build_page(Explorer(open_models(args.checkpoints), args.max_megapixels, args.side))
    try:
        _, address, _ = page.launch(
            server_name=args.host, server_port=args.port, max_file_size=args.max_upload, share=False, quiet=True,
            ssr_mode=False, run_history=False, footer_links=[], state_session_capacity=SESSIONS,
            prevent_thread_lock=True,
        )  # fmt: skip
    except OSError as error:
        where = args.host if args.port is None else f"{args.host}:{args.port}"
        raise ConfigError(f"cannot listen on {where}: {' '.join(str(error).split())}") from error
    print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
    if block:
        page.block_thread()
    return page, address


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until interrupted; uploaded files go with it."""
    args = parse_arguments(arguments)
    with tempfile.TemporaryDirectory(prefix="tree-ssm-explore-") as folder:
        os.environ[UPLOADS] = folder
        serve(args)


if __name__ == "__main__":
    sys.exit(cli.run(main))
