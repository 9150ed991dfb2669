"""Photos as the models of the page see them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from quadtree_ssm.modules import ChosenQuadrant
from quadtree_ssm.visualization import token_order
from ssm_core.layers import record_scans
from ssm_train.apis.open_model import OpenedModel
from ssm_train.data.images import read_image, to_area
from ssm_train.data.shown import to_shown
from tree_ssm.visualization import WeighedTree, record_trees

_SHOWN_SIDE = 640  # pixels: all pictures of the page have the area of a square of this side

Pixel = tuple[int, int]  # row and column of a photo as it is shown


class Seen(NamedTuple):
    """A photo as one model saw it.

    Attributes:
        title: the model's name and whose weights it has.
        image: ``[H, W, 3]`` or ``[H, W]``, 0 … 1: the photo in the size in which the model saw it.
        trees: the name of every MambaTree block to its spanning tree.
        quadrants: the name of every QuadMamba block with a quadtree to what it chose.
        orders: the name of every such block to the token ``[L]`` that its scan visits at each step.
        classes: class to probability; None if the model has no trained head.
    """

    title: str
    image: np.ndarray
    trees: dict[str, WeighedTree]
    quadrants: dict[str, ChosenQuadrant]
    orders: dict[str, np.ndarray]
    classes: dict[str, float] | None


@dataclass
class Photo:
    """What is kept of a photo while its page is open.

    Attributes:
        path: the file.
        side: the models see it with the area of a square of this side, in pixels; None for each model's own.
        shown: ``[H, W, 3]``, 0 … 1: the photo in the size of the page.
        seen: by the number of the model, the photo as that model saw it. Not every model has been asked.
    """

    path: Path
    side: int | None
    shown: np.ndarray
    seen: dict[int, Seen] = field(default_factory=dict)


class Explorer:
    """The models, which look at photos. It knows nothing of pages and pictures.

    Args:
        models: at least one.
        max_megapixels: larger photos are refused.
        side: models see photos with the area of a square of this side, in pixels. If left out, the side is that of the
            images which a model is tested on.
    """

    def __init__(self, models: Sequence[OpenedModel], max_megapixels: float, side: int | None = None) -> None:
        self.models, self.max_megapixels, self.side = models, max_megapixels, side

    def look(self, path: str | Path, side: int | None = None, which: Iterable[int] | None = None) -> Photo:
        """Show a photo to models.

        Args:
            path: the file.
            side: as for the explorer, which decides if this is left out.
            which: the numbers of the models; None for all.

        Raises:
            DataError: the photo cannot be read, it is too large, or has other channels than the models' images.
        """
        scale = self.models[0].normalization
        photo = read_image(
            path,
            max_megapixels=self.max_megapixels,
            title=Path(path).name,  # the page does not say where on the disk an upload lies
            value_range=scale.value_range,
            bands=scale.bands,
        )
        found = Photo(Path(path), side or self.side, to_area(photo, _SHOWN_SIDE))
        for number in range(len(self.models)) if which is None else which:
            self.see(found, number)
        return found

    def see(self, photo: Photo, number: int) -> Seen:
        """A photo as one model sees it. The model is asked once.

        Args:
            photo: the photo, which keeps the answer.
            number: of the model.

        Raises:
            DataError: the photo cannot be read any more, or has other channels than the model's images.
        """
        if number not in photo.seen:
            opened = self.models[number]
            scale = opened.normalization
            image = scale.read(photo.path, self.max_megapixels, photo.path.name)
            photo.seen[number] = _shown_to(opened, to_area(image, photo.side or scale.side))
        return photo.seen[number]


def _shown_to(opened: OpenedModel, image: np.ndarray) -> Seen:
    network = opened.network
    with record_trees(network) as trees, record_scans(network) as scans, torch.no_grad():
        outputs = network(opened.normalization.inputs(image))
    quadrants = {name: chosen for name, chosen in scans.items() if isinstance(chosen, ChosenQuadrant)}
    orders = {name: token_order(network.get_submodule(name), chosen)[0].numpy() for name, chosen in quadrants.items()}
    classes = None
    if opened.has_head:
        scores = outputs[0].softmax(0).tolist()
        names = opened.classes or [f"class {i}" for i in range(len(scores))]
        classes = dict(zip(names, scores, strict=True))
    return Seen(opened.title, to_shown(image, opened.normalization.bands), trees, quadrants, orders, classes)
