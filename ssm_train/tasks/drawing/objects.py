"""Objects over an image: boxes, masks, and names that hide neither them nor each other."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ssm_train.tasks.drawing.colours import Colour
from ssm_train.tasks.drawing.placing import place_labels
from ssm_train.tasks.drawing.text import label_size, letter_size, line_width, with_legend, write_label

_OPACITY = 0.35  # of masks: the image is seen through them, and their edges are drawn as lines
_COVERED = 0.15  # the largest share of a picture that texts may cover
_EDGE = (0, 0, 0)


class DrawnObject(NamedTuple):
    """An object as it is drawn.

    Attributes:
        name: of its class.
        colour: of its class.
        box: left, top, right and bottom in pixels.
        score: how sure the model is, 0 … 1; None for annotations.
        mask: ``[H, W]`` bool: its pixels; None if they are not known.
    """

    name: str
    colour: Colour
    box: tuple[float, float, float, float]
    score: float | None = None
    mask: np.ndarray | None = None

    @property
    def score_text(self) -> str:
        """Its score in two digits, empty if there is none."""
        return "" if self.score is None else f"{self.score:.2f}"

    @property
    def text(self) -> str:
        """Its name, and its score if there is one."""
        return f"{self.name} {self.score_text}".rstrip()

    @property
    def area(self) -> float:
        """Of its box, in pixels."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


def draw_objects(
    image: np.ndarray,  # [H, W, 3] uint8
    objects: Sequence[DrawnObject],
    named: bool = True,
) -> Image.Image:
    """Draw objects over an image.

    Small objects are drawn over large ones. A name stands at its object where it hides no other name and little of any
    object, see :func:`.placing.place_labels`; the surest objects have their choice first. If a name finds no place, the
    names go into a legend below the picture, with the number of objects of each class, and scores alone, which are
    shorter, stand at the objects where they find a place. In a crowd, where texts would cover much of the picture,
    there are none.

    Args:
        image: the image.
        objects: what is drawn.
        named: whether names and scores are written.
    """
    height, width = image.shape[:2]
    stroke = line_width(height, width)
    largest_first = sorted(objects, key=lambda found: -found.area)
    coloured = np.array(image)
    for found in largest_first:
        if found.mask is not None:
            _colour_mask(coloured, found.mask, found.colour, stroke)
    picture = Image.fromarray(coloured)
    draw = ImageDraw.Draw(picture)
    for found in largest_first:
        _frame(draw, found, stroke)
    if not named:
        return picture
    surest_first = sorted(objects, key=lambda found: -(found.score or 0))
    if _write(draw, surest_first, [found.text for found in surest_first], (height, width), all_or_none=True):
        return picture
    scored = [found for found in surest_first if found.score is not None]
    _write(draw, scored, [found.score_text for found in scored], (height, width))
    counts = Counter((found.colour, found.name) for found in objects)
    return with_legend(picture, [(colour, f"{name} × {n}") for (colour, name), n in counts.most_common()])


def _write(
    draw: ImageDraw.ImageDraw,
    objects: Sequence[DrawnObject],
    texts: Sequence[str],
    picture: tuple[int, int],
    all_or_none: bool = False,
) -> bool:
    """Write a text at each object where it finds a place. Return whether all of them did.

    Args:
        draw: the picture.
        objects: those that come first have their choice first.
        texts: one for each object.
        picture: height and width of the picture.
        all_or_none: write nothing if one text has no place. If they would cover too much of the picture together,
            nothing is written in any case.
    """
    sizes = [label_size(text, letter_size(*picture)) for text in texts]
    if sum(width * height for width, height in sizes) > _COVERED * picture[0] * picture[1]:
        return False
    places = place_labels([found.box for found in objects], sizes, picture)
    complete = all(place is not None for place in places)
    if complete or not all_or_none:
        for found, text, place in zip(objects, texts, places, strict=True):
            if place is not None:
                write_label(draw, place, text, found.colour)
    return complete


def _frame(draw: ImageDraw.ImageDraw, found: DrawnObject, stroke: int) -> None:
    """Draw a box as a line in its colour, with a dark line around it. With a mask, whose edge says more, it is thin."""
    left, top, right, bottom = (round(edge) for edge in found.box)
    right, bottom = max(right - 1, left), max(bottom - 1, top)  # the last pixels within the box
    if found.mask is None:
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_EDGE, width=1)
    thickness = stroke if found.mask is None else max(stroke // 2, 1)
    draw.rectangle((left, top, right, bottom), outline=found.colour, width=thickness)


def _colour_mask(image: np.ndarray, mask: np.ndarray, colour: Colour, stroke: int) -> None:
    """Lay a colour over the pixels of a mask, and draw its edge as a line within it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = mask[part].astype(np.uint8)
    padded = np.pad(inside, 1)  # erode() takes what is outside an array for a part of the mask
    core = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=stroke)[1:-1, 1:-1]
    pixels = image[part]
    mixed = pixels[inside > 0] * (1 - _OPACITY) + np.array(colour) * _OPACITY
    pixels[inside > 0] = mixed.round().astype(np.uint8)
    pixels[(inside > 0) & (core == 0)] = colour
