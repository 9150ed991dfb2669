"""A page to look into models with: drop a photo, click a pixel, see what the scans of both families do with it.

:class:`Explorer` has the models and draws; :func:`build_page` puts it on a page of Gradio's; :func:`served` serves the
page. Gradio is imported within the functions that need it, so that :class:`Explorer` works without it.
"""

import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

# Once they are imported, timm knows the models of both families.
import quadtree_ssm  # noqa: F401
import tree_ssm  # noqa: F401
from quadtree_ssm.modules import ChosenQuadrant
from quadtree_ssm.visualization import draw_quadrants
from ssm_core.errors import ConfigError, DataError
from ssm_core.layers import record_scans
from ssm_core.visualization import caption, in_rows, panels, save, scaled_pixel, token_at
from ssm_train.apis.open_model import OpenedModel, open_model, open_stand_in
from ssm_train.apis.serving import OwnHosts, check_address, ending_in_order
from ssm_train.data.images import read_image, to_area
from ssm_train.data.shown import to_shown
from tree_ssm.visualization import WeighedTree, draw_affinities, record_trees

if TYPE_CHECKING:
    import gradio

STAND_INS = {"MambaTreeV": "mambatree_tiny", "QuadMamba": "quadmamba_lite"}  # class to timm's name of a model
UPLOADS = "GRADIO_TEMP_DIR"  # the environment variable from which Gradio takes the folder of its uploads
HINT = "Drop a photo above, then click a pixel of it."
_DISPLAY_SIDE = 448  # pixels: the photo on the page has the area of a square of this side
_SESSIONS = 16  # the photos of so many open pages are kept
_LIFE = 3600  # seconds for which an uploaded file and a page's photo are kept
_DPI = 90
_ARM = 7  # pixels from the centre of the cross to its ends

Pixel = tuple[int, int]  # row and column


class Seen(NamedTuple):
    """A photo as one model saw it.

    Attributes:
        title: the model's name and whose weights it has.
        image: ``[H, W, 3]`` or ``[H, W]``, 0 … 1: the photo in the size in which the model saw it.
        trees: the name of every MambaTree block to its spanning tree.
        quadrants: the name of every QuadMamba block to what it chose.
        classes: class to probability; None if the model has no trained head.
    """

    title: str
    image: np.ndarray
    trees: dict[str, WeighedTree]
    quadrants: dict[str, ChosenQuadrant]
    classes: dict[str, float] | None


class Photo(NamedTuple):
    """What is kept of a photo while its page is open.

    Attributes:
        shown: ``[H, W, 3]``, 0 … 1: the photo in the size of the page.
        seen: the photo as every model saw it.
    """

    shown: np.ndarray
    seen: tuple[Seen, ...]


class Explorer:
    """The models, and the pictures of what they see. It knows nothing of pages.

    Args:
        models: of the two families, at least one.
        max_megapixels: larger photos are refused.
        side: every model sees the photo scaled to the area of a square of this side, in pixels. If left out, the side
            is that of the images which the model is tested on.
    """

    def __init__(self, models: Sequence[OpenedModel], max_megapixels: float, side: int | None = None) -> None:
        self.models, self.max_megapixels, self.side = models, max_megapixels, side

    def look(self, path: str | Path) -> Photo:
        """Show a photo to all models.

        Raises:
            DataError: the photo cannot be read, it is too large, or has other channels than the models' images.
        """
        # The page does not say where on the disk an upload lies.
        title = Path(path).name
        seen = []
        for opened in self.models:
            scale = opened.normalization
            image = scale.read(path, self.max_megapixels, title)
            seen.append(self._show(opened, to_area(image, self.side or scale.side)))
        scale = self.models[0].normalization
        photo = read_image(
            path, max_megapixels=self.max_megapixels, title=title, value_range=scale.value_range, bands=scale.bands
        )
        return Photo(to_area(photo, _DISPLAY_SIDE), tuple(seen))

    @staticmethod
    def _show(opened: OpenedModel, image: np.ndarray) -> Seen:
        with record_trees(opened.network) as trees, record_scans(opened.network) as scans, torch.no_grad():
            outputs = opened.network(opened.normalization.inputs(image))
        quadrants = {name: chosen for name, chosen in scans.items() if isinstance(chosen, ChosenQuadrant)}
        classes = None
        if opened.has_head:
            scores = outputs[0].softmax(0).tolist()
            names = opened.classes or [f"class {i}" for i in range(len(scores))]
            classes = dict(zip(names, scores, strict=True))
        return Seen(opened.title, to_shown(image, opened.normalization.bands), trees, quadrants, classes)

    def marked(self, photo: Photo, pixel: Pixel) -> Image.Image:
        """The shown photo with a cross at a pixel."""
        picture = Image.fromarray((photo.shown * 255).round().astype("uint8"))
        draw, (row, column) = ImageDraw.Draw(picture), pixel
        for width, colour in ((5, "white"), (3, "red")):
            for sign in (-1, 1):
                draw.line((column - _ARM, row - sign * _ARM, column + _ARM, row + sign * _ARM), colour, width)
        return picture

    def affinity(self, photo: Photo, pixel: Pixel) -> Image.Image | None:
        """The affinity maps of a pixel of the shown photo in every block, through the tree and row by row.

        Returns:
            The picture; None if no model has trees.
        """
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

    def quadtree(self, photo: Photo, pixel: Pixel) -> Image.Image | None:
        """The quadtree of every block, with the window filled in which a pixel of the shown photo lies.

        Returns:
            The picture; None if no model has quadtrees.
        """
        for seen in photo.seen:
            if seen.quadrants:
                figure, grid = panels(*in_rows(len(seen.quadrants), 4), seen.image.shape, 2.8, seen.title)
                place = scaled_pixel(pixel, photo.shown.shape, seen.image.shape)
                for axes, (name, chosen) in zip(grid.flat, seen.quadrants.items(), strict=False):
                    token = token_at(place, chosen.height, chosen.width, seen.image.shape)
                    draw_quadrants(axes, seen.image, chosen, title=caption(name), token=token)
                return _rendered(figure)
        return None


def _rendered(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    save(figure, file, "png", _DPI)
    return Image.open(file)


def open_models(sources: Sequence[str]) -> list[OpenedModel]:
    """The models that a command line names, and one with random weights for each family that none is of.

    Args:
        sources: see :func:`.open_model.open_model`; at most one of each family.

    Raises:
        CheckpointError: a file cannot be used.
        ConfigError: a model is of neither family, or two are of the same.
    """
    models = [open_model(source) for source in sources]
    kinds = [type(opened.network).__name__ for opened in models]
    for source, kind in zip(sources, kinds, strict=True):
        if kind not in STAND_INS:
            raise ConfigError(f"{source} is a {kind}: the page is for {' and '.join(STAND_INS)}")
        if kinds.count(kind) > 1:
            raise ConfigError(f"more than one {kind} is given: the page shows one of each family")
    like = models[0].normalization if models else None
    return models + [open_stand_in(name, like) for kind, name in STAND_INS.items() if kind not in kinds]


class _Handlers:
    """What the page does when a photo is dropped or clicked: from Gradio's events to the values of its components."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.heads = [i for i, opened in enumerate(explorer.models) if opened.has_head]  # models that name classes

    def pictures(self, photo: Photo, pixel: Pixel) -> tuple:
        """A sentence about the pixel, and the three pictures."""
        said = f"Pixel in row {pixel[0]}, column {pixel[1]} of the photo as it is shown."
        draw = self.explorer
        return said, draw.marked(photo, pixel), draw.affinity(photo, pixel), draw.quadtree(photo, pixel)

    def show(self, path: str | None) -> tuple:
        """The pictures of a new photo's middle, the classes and the photo to keep; an error becomes a sentence."""
        nothing = (None, None, None, *(None for _ in self.heads), None)
        if path is None:
            return HINT, *nothing
        try:
            photo = self.explorer.look(path)
        except DataError as error:
            return f"**{str(error)[:1].upper()}{str(error)[1:]}.**", *nothing
        rows, columns = photo.shown.shape[:2]
        return *self.pictures(photo, (rows // 2, columns // 2)), *(photo.seen[i].classes for i in self.heads), photo

    def click(self, photo: Photo | None, place: Sequence[int]) -> tuple:
        """The pictures of a clicked place (column, row); a hint if the photo is no longer kept."""
        if photo is None:
            return HINT, None, None, None
        column, row = place
        rows, columns = photo.shown.shape[:2]
        return self.pictures(photo, (min(max(int(row), 0), rows - 1), min(max(int(column), 0), columns - 1)))


def build_page(explorer: Explorer) -> "gradio.Blocks":
    """The page. A photo that cannot be used is answered by a sentence on it."""
    import gradio as gr

    handlers = _Handlers(explorer)

    def click(photo: Photo | None, event: gr.SelectData) -> tuple:  # Gradio reads the type of `event`
        return handlers.click(photo, event.index)

    def picture(name: str, *buttons: str) -> gr.Image:
        return gr.Image(show_label=False, interactive=False, format="png", buttons=list(buttons), elem_id=name)

    titles = "; ".join(opened.title for opened in explorer.models)
    with gr.Blocks(title="Tree-SSM explorer", analytics_enabled=False, delete_cache=(_LIFE, _LIFE)) as page:
        gr.Markdown(f"## What state space models along trees see\nModels: {titles}.")
        kept = gr.State(time_to_live=_LIFE)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                file = gr.File(label="A photo", file_types=["image"], type="filepath", elem_id="file", height=120)
                said = gr.Markdown(HINT, elem_id="said")
                shown = picture("photo")
                classes = [
                    gr.Label(label=f"Top 5: {explorer.models[i].title}", num_top_classes=5, elem_id=f"classes{i}")
                    for i in handlers.heads
                ]
            with gr.Column(scale=2):
                gr.Markdown("### What the pixel hears in every block\nFrom 0 (dark) to 1 (bright): through MambaTree's "
                            "tree, and beside it through a scan row by row.")  # fmt: skip
                affinity = picture("affinity", "fullscreen", "download")
                gr.Markdown("### Its window in QuadMamba's quadtree in every block\nYellow: the pixel's window. Red: "
                            "the chosen quadrant, split once more. Haze: the scores.")  # fmt: skip
                quadtree = picture("quadtree", "fullscreen", "download")
        drawn = [said, shown, affinity, quadtree]
        file.change(handlers.show, file, [*drawn, *classes, kept], api_visibility="private")
        shown.select(click, kept, drawn, api_visibility="private")
    return page.queue(default_concurrency_limit=1, max_size=_SESSIONS)


class Address(NamedTuple):
    """Where a page is served.

    Attributes:
        host: the address to listen on; ``127.0.0.1`` serves this machine alone.
        port: the first free one from 7860 on if left out.
    """

    host: str = "127.0.0.1"
    port: int | None = None

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


class ServedPage(NamedTuple):
    """A page that is being served.

    Attributes:
        page: the page.
        url: where a browser finds it.
    """

    page: "gradio.Blocks"
    url: str

    def wait(self) -> None:
        """Wait for Ctrl-C or SIGTERM."""
        self.page.block_thread()


@contextmanager
def served(explorer: Explorer, address: Address, max_upload: str = "10mb") -> Iterator[ServedPage]:
    """Serve the page for as long as the context lasts. Uploaded files are deleted with it, also after SIGTERM.

    The page answers to addresses in digits and to this machine's own names only (:class:`.serving.OwnHosts`).

    Args:
        explorer: what the page shows.
        address: where to serve it.
        max_upload: the size of the largest file that may be uploaded, such as ``"500kb"`` or ``"20mb"``.

    Raises:
        ConfigError: the address is taken, or is none of this machine's.
        ModuleNotFoundError: Gradio is not installed.
    """
    # Gradio would try for minutes to listen on an address that is not this machine's.
    check_address(address.host, address.port)
    with (
        ending_in_order(),
        tempfile.TemporaryDirectory(prefix="tree-ssm-explore-") as folder,
        _environment(UPLOADS, folder),
    ):
        page = build_page(explorer)
        # Imported here because Gradio brings it.
        from starlette.middleware import Middleware

        try:
            _, url, _ = page.launch(
                server_name=address.host, server_port=address.port, max_file_size=max_upload, share=False, quiet=True,
                ssr_mode=False, run_history=False, footer_links=[], state_session_capacity=_SESSIONS,
                prevent_thread_lock=True, app_kwargs={"middleware": [Middleware(OwnHosts, host=address.host)]},
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(f"cannot listen on {address}: {' '.join(str(error).split())}") from error
        try:
            yield ServedPage(page, url)
        finally:
            page.close(verbose=False)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for as long as the context lasts."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
