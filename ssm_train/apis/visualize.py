"""Pictures of what models see and of how runs went: one function for each subcommand of tree-ssm analyse visualize.

A model is named as :func:`ssm_train.apis.open_model.open_model` takes it. Blocks are named by their stage and their
number within it, both counted from 1. Functions that have a line to tell about a model tell it as soon as it is known,
to the function ``say`` that they are given.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

# Once they are imported, timm knows the models of both families.
import quadtree_ssm  # noqa: F401
import tree_ssm  # noqa: F401
from quadtree_ssm.modules import ChosenQuadrant
from quadtree_ssm.visualization import quadtree_figure
from ssm_core.errors import ConfigError
from ssm_core.layers import record_scans
from ssm_core.visualization import (
    KINDS,
    PAGE,
    PRINT_DPI,
    area_shares,
    effective_receptive_field,
    map_extractor,
    receptive_field_figure,
    save,
    scaled_pixel,
)
from ssm_train.apis import cli
from ssm_train.apis.devices import usable_device
from ssm_train.apis.open_model import OpenedModel, open_model
from ssm_train.data.images import find_images, size_of, to_area, to_square
from ssm_train.data.shown import to_shown
from ssm_train.runtime.curve_figures import Counter, draw_runs
from ssm_train.runtime.curve_files import read_curves
from ssm_train.runtime.files import write_atomically
from tree_ssm.visualization import affinity_figure, record_trees, tree_figure

Block = tuple[int, int]  # stage and number, both from 1
Recorded = TypeVar("Recorded")  # what is recorded of one block
_MOST_DOTS = {"png": (1 << 16) - 1, "webp": (1 << 14) - 1}  # of a side: the limits of Matplotlib and of WebP
_TREES, _QUADTREES = "MambaTree", "QuadMamba's quadtree"  # the scans of a block, in errors


class View(NamedTuple):
    """A model and the photo that it is shown.

    Attributes:
        model: see :func:`~ssm_train.apis.open_model.open_model`.
        photo: the image file.
        side: the photo is scaled to the area of a square of this side, in pixels; the model's own if left out.
    """

    model: str
    photo: Path
    side: int | None = None


class Look(NamedTuple):
    """How a picture is laid out.

    Attributes:
        width: of the picture in inches.
        title: a line above it; what it shows and whose weights it is of if left out.
    """

    width: float = PAGE
    title: str | None = None

    def titled(self, words: str) -> str:
        """The title, or other words if none was chosen."""
        return words if self.title is None else self.title


_DEFAULT = Look()


def draw_trees(
    view: View,
    blocks: Sequence[Block] | None = None,
    say: Callable[[str], None] = cli.say,
    look: Look = _DEFAULT,
    columns: int | None = None,
) -> Figure:
    """The spanning trees of MambaTree's blocks over a photo.

    Args:
        view: the model and the photo.
        blocks: which are drawn, in this order; all if left out.
        say: gets a line with the model's title and the size of the image.
        look: how the picture is laid out.
        columns: how many panels stand in a row; at most four if left out.

    Raises:
        ConfigError: the model has no such block, or cannot be opened.
        CheckpointError: its checkpoint cannot be used.
        DataError: the photo cannot be read.
    """
    opened, image, trees = _recorded(view, record_trees, say)
    chosen = _chosen(trees, blocks, view.model, _TREES)
    return tree_figure(image, chosen, look.titled(opened.title), look.width, columns)


def draw_affinities(
    view: View,
    pixels: Sequence[tuple[int, int]],
    blocks: Sequence[Block] | None = None,
    say: Callable[[str], None] = cli.say,
    look: Look = _DEFAULT,
    contrast: float = 1.0,
) -> Figure:
    """What pixels of a photo hear through MambaTree's trees, and what they would hear from scans row by row.

    Args:
        view: the model and the photo.
        pixels: row and column of each in the photo as it is upright, from 0.
        blocks: which are drawn, in this order; the last of each stage if left out.
        say: gets a line with the model's title and the size of the image.
        look: how the picture is laid out.
        contrast: exponent of the colour scale. Below 1, weak affinities are told apart better.

    Raises:
        ConfigError: a pixel is outside the photo, the model has no such block, or it cannot be opened.
        CheckpointError: the model's checkpoint cannot be used.
        DataError: the photo cannot be read.
    """
    opened, image, trees = _recorded(view, record_trees, say)
    blocks = blocks or sorted({stage: (stage, block) for stage, block in map(_number, trees)}.values())
    height, width = size_of(opened.normalization.read(view.photo))
    places = []
    for row, column in pixels:
        if not (0 <= row < height and 0 <= column < width):
            raise ConfigError(f"--pixel {row} {column} is outside the image of {height} rows and {width} columns")
        places.append(scaled_pixel((row, column), (height, width), image.shape))
    chosen = _chosen(trees, blocks, view.model, _TREES)
    return affinity_figure(image, chosen, places, look.titled(opened.title), look.width, contrast)


def draw_quadtrees(
    view: View,
    blocks: Sequence[Block] | None = None,
    say: Callable[[str], None] = cli.say,
    look: Look = _DEFAULT,
) -> Figure:
    """Scores, chosen quadrants and orders of the tokens of QuadMamba's blocks on a photo.

    Args:
        view: the model and the photo.
        blocks: which are drawn, in this order; all if left out.
        say: gets a line with the model's title and the size of the image.
        look: how the picture is laid out.

    Raises:
        ConfigError: the model has no such block, or cannot be opened.
        CheckpointError: its checkpoint cannot be used.
        DataError: the photo cannot be read.
    """
    opened, image, scans = _recorded(view, record_scans, say)
    scans = {name: chosen for name, chosen in scans.items() if isinstance(chosen, ChosenQuadrant)}
    chosen = _chosen(scans, blocks, view.model, _QUADTREES)
    return quadtree_figure(image, opened.network, chosen, look.titled(opened.title), look.width)


def _recorded(
    view: View,
    recorder: Callable[[nn.Module], AbstractContextManager[dict[str, Any]]],
    say: Callable[[str], None],
) -> tuple[OpenedModel, np.ndarray, dict[str, Any]]:
    """The opened model, the photo as the model sees it, and what a recorder recorded of the forward pass."""
    opened = open_model(view.model)
    scale = opened.normalization
    image = to_area(scale.read(view.photo), view.side or scale.side)
    with recorder(opened.network) as record, torch.no_grad():
        opened.network(scale.inputs(image))
    say(f"{opened.title}; image of {image.shape[0]} × {image.shape[1]}")
    return opened, to_shown(image, scale.bands), record


def _number(name: str) -> Block:
    """Stage and number, from 1, of the block that a scan module's name is of."""
    stage, block = re.search(r"stages\.(\d+)\.blocks\.(\d+)\.", name).groups()
    return int(stage) + 1, int(block) + 1


def _chosen(
    record: Mapping[str, Recorded], blocks: Sequence[Block] | None, model: str, scan: str
) -> dict[str, Recorded]:
    """What was recorded of the blocks that are asked for; of all blocks if none is asked for.

    Args:
        record: name of the scan module to what was recorded of it.
        blocks: those that are asked for.
        model: what the user called the model, for errors.
        scan: what the blocks have to have, for errors.
    """
    if not record:
        raise ConfigError(f"{model} has no block of {scan}")
    by_number = {_number(name): name for name in record}
    for block in blocks or ():
        if block not in by_number:
            have = ", ".join(f"{s}.{b}" for s, b in by_number)
            raise ConfigError(f"{model} has no block {block[0]}.{block[1]} with one of {scan}: there are {have}")
    return {by_number[block]: record[by_number[block]] for block in blocks or by_number}


def draw_receptive_fields(
    models: Sequence[str],
    images: Path,
    count: int = 50,
    side: int = 224,
    stage: int = -1,
    pretrained: bool = False,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = cli.say,
    look: Look = _DEFAULT,
) -> Figure:
    """Effective receptive fields of several models side by side, each averaged over the same images.

    All have the same colour scale.

    Args:
        models: see :func:`~ssm_train.apis.open_model.open_model`.
        images: a folder of images, or one image.
        count: how many images are used at most.
        side: the images' centre squares are scaled to this side, in pixels.
        stage: the stage whose map's centre the field is of; -1 is the last one.
        pretrained: let timm fetch its weights for models that are named by timm's names.
        device: where to compute.
        say: gets a line for every model with the share of its field that lies within a share of the area.
        look: how the picture is laid out.

    Raises:
        ConfigError: a model cannot be opened, or gives no map of that stage for such images.
        CheckpointError: a checkpoint cannot be used.
        DataError: there are no images, or one cannot be read.
    """
    paths, device = find_images(images)[:count], usable_device(device)
    fields = {}
    for source in models:
        opened = open_model(source, pretrained)
        network = opened.network.to(device).requires_grad_(False)
        scale = opened.normalization
        squares = (to_square(scale.read(path), side) for path in paths)
        inputs = (scale.inputs(square).to(device) for square in squares)
        try:
            field = effective_receptive_field(map_extractor(network, stage), inputs)
            areas = area_shares(field)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from error
        half = f"half within {areas[0.5]:.1%} of the area"
        fields[f"{opened.title.replace(', ', chr(10), 1)}\n{half}"] = field
        said = ", ".join(f"{share:.0%} within {area:.1%} of the area" for share, area in areas.items())
        say(f"{opened.title}: {said}")
    whose = "last stage" if stage == -1 else f"stage {stage}"
    counted = f"{len(paths)} image" + "s" * (len(paths) != 1)
    words = f"effective receptive field, {whose}, {counted}"
    return receptive_field_figure(fields, look.titled(words), look.width)


def draw_curves(
    runs: Sequence[Path],
    metrics: Sequence[str] | None = None,
    counter: Counter = "iter",
    smoothing: int = 1,
    start: float = 0,
    look: Look = _DEFAULT,
) -> Figure:
    """Learning curves of runs, a panel for every metric.

    Args:
        runs: work folders of tree-ssm train. They are called by their names, or by their paths if names repeat.
        metrics: such as ``loss``, ``lr`` and ``top1``; all but ``lr`` if left out.
        counter: whether x counts iterations or epochs.
        smoothing: points that the training loss is averaged over, see :func:`.curve_figures.smooth`.
        start: what was before this iteration or epoch is left out.
        look: how the picture is laid out. Curves have no title of their own.

    Raises:
        ConfigError: no run has one of the metrics.
        DataError: a folder has no curves.
    """
    names = [path.name if len({p.name for p in runs}) == len(runs) else str(path) for path in runs]
    curves = {name: read_curves(path) for name, path in zip(names, runs, strict=True)}
    try:
        return draw_runs(curves, metrics, counter, smoothing, start, look.width, look.titled(""))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def write_figure(figure: Figure, path: Path, dpi: int = PRINT_DPI) -> None:
    """Write a picture, all of it or nothing.

    Args:
        figure: what to write.
        path: ends in ``.pdf``, ``.png``, ``.svg`` or ``.webp``, which says the format.
        dpi: dots an inch, of a PNG or a WebP and of the images within a PDF or an SVG.

    Raises:
        ConfigError: the path ends otherwise, or the picture has more dots than its format or the memory can hold.
        WriteError: the file cannot be written.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in KINDS:
        raise ConfigError(f"{path} ends in none of .{', .'.join(KINDS)}")
    width, height = (round(inches * dpi) for inches in figure.get_size_inches())
    too_large = ConfigError(
        f"{path} would have {width}x{height} dots, which is too much: give a smaller --width or fewer --dpi"
    )
    if max(width, height) > _MOST_DOTS.get(kind, math.inf):
        raise too_large
    try:
        write_atomically(path, lambda file: save(figure, file, kind, dpi))
    except MemoryError as error:
        raise too_large from error
