"""Label maps over an image in grey: transparent colours of classes, lines between regions, and a legend."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from ssm_core.visualization import in_grey
from ssm_train.tasks.drawing.colours import GREY, Colour
from ssm_train.tasks.drawing.text import line_width, with_legend

_MOST = 24  # classes in a legend
_LINE = (255, 255, 255)


def draw_label_map(
    image: np.ndarray,  # [H, W, 3] uint8
    labels: np.ndarray,  # [H, W] integer
    names: Sequence[str],
    colours: Sequence[Colour],
    opacity: float,
    named: bool = True,
) -> Image.Image:
    """Draw a label map over an image in grey, with a legend of the classes that are in it.

    The colours of the image would make others of those of the classes. Black is the colour of backgrounds in many
    palettes and would darken most of the picture: a class whose colour is black is not painted.

    Args:
        image: the image.
        labels: the class of every pixel. Numbers without a name, such as 255, are not painted.
        names: of the classes.
        colours: of the classes.
        opacity: of the colours, 0 … 1. At 0 the picture is the image alone.
        named: whether there is a legend.
    """
    if opacity == 0:
        return Image.fromarray(image)
    known = (labels >= 0) & (labels < len(names))
    counts = np.bincount(labels[known].astype(np.int64), minlength=len(names))
    table = np.array([*colours[: len(names)], (0, 0, 0)], dtype=np.float32)
    over = table[np.where(known, labels, len(names))]
    share = opacity * over.any(-1, keepdims=True)
    drawn = (in_grey(image)[..., None] * (1 - share) + over * share).round().astype(np.uint8)
    drawn[_between(labels, max(line_width(*labels.shape) // 2, 1))] = _LINE
    if not named:
        return Image.fromarray(drawn)
    present = sorted(np.flatnonzero(counts).tolist(), key=lambda number: -counts[number])
    shown = [colour if any(colour) else GREY for colour in colours]
    entries = [(shown[n], f"{names[n]} {_percent(counts[n] / labels.size)}") for n in present[:_MOST]]
    if len(present) > _MOST:
        entries.append(((255, 255, 255), f"and {len(present) - _MOST} more"))
    return with_legend(Image.fromarray(drawn), entries)


def _between(labels: np.ndarray, stroke: int) -> np.ndarray:  # [H, W] bool
    """The pixels of lines between regions of different labels."""
    edge = np.zeros(labels.shape, np.uint8)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    return cv2.dilate(edge, np.ones((stroke, stroke), np.uint8)) > 0 if stroke > 1 else edge > 0


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "< 1%"
