"""Text in pictures: names on a coloured ground, captions, and legends. Sizes follow from the size of the picture."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssm_train.tasks.drawing.colours import Colour, readable_on

Entry = tuple[Colour, str]  # of a legend
_SMALLEST, _LARGEST = 11, 30  # pixels: the size of letters
_LONGEST = 40  # letters of a name
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def letter_size(height: int, width: int) -> int:
    """Return the size in pixels of letters for a picture of this size."""
    return min(max(round(min(height, width) / 36), _SMALLEST), _LARGEST)


def line_width(height: int, width: int) -> int:
    """Return the width in pixels of lines for a picture of this size."""
    return max(round(min(height, width) / 256), 1)


@lru_cache(8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib comes with this font. It has the letters of most European languages.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def plain(text: str) -> str:
    """A text that can be drawn in one line: without line breaks and letters that are no UTF-8, and not too long."""
    words = " ".join(text.encode(errors="replace").decode().split())
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"


def label_size(text: str, size: int) -> tuple[int, int]:
    """Return the width and the height in pixels of a label, see :func:`write_label`."""
    return round(_font(size).getlength(plain(text))) + 2 * _margin(size), round(1.3 * size)


def write_label(draw: ImageDraw.ImageDraw, place: tuple[int, int, int, int], text: str, colour: Colour) -> None:
    """Write a text on a ground of a colour.

    Args:
        draw: the picture.
        place: left, top, right and bottom of the ground, which is as large as :func:`label_size` says.
        text: the text.
        colour: of the ground.
    """
    left, top, right, bottom = place
    size = round((bottom - top) / 1.3)
    draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)
    middle = (left + _margin(size), (top + bottom) / 2)
    draw.text(middle, plain(text), fill=readable_on(colour), font=_font(size), anchor="lm")


def captioned(picture: Image.Image, caption: str) -> Image.Image:
    """Return the picture with a line of text above it."""
    size = letter_size(picture.height, picture.width)
    room = round(1.6 * size)
    whole = Image.new("RGB", (picture.width, picture.height + room), _WHITE)
    whole.paste(picture, (0, room))
    ImageDraw.Draw(whole).text((_margin(size), room / 2), caption, fill=_BLACK, font=_font(size), anchor="lm")
    return whole


def with_legend(picture: Image.Image, entries: Sequence[Entry]) -> Image.Image:
    """Return the picture with a legend below it: a square of each colour, and its name.

    Args:
        picture: the picture.
        entries: colours and names. Without any, the picture is returned as it is.
    """
    if not entries:
        return picture
    size = letter_size(picture.height, picture.width)
    line, gap = round(1.6 * size), size
    entries = [(colour, plain(name)) for colour, name in entries]
    places, left, row = [], gap // 2, 0
    for _, name in entries:
        width = round(_font(size).getlength(name)) + round(1.4 * size)
        if left > gap // 2 and left + width > picture.width:
            left, row = gap // 2, row + 1
        places.append((left, picture.height + row * line))
        left += width + gap
    whole = Image.new("RGB", (picture.width, picture.height + (row + 1) * line), _WHITE)
    whole.paste(picture)
    draw = ImageDraw.Draw(whole)
    for (colour, name), (left, top) in zip(entries, places, strict=True):
        edge = top + (line - size) // 2
        draw.rectangle((left, edge, left + size - 1, edge + size - 1), fill=colour, outline=(90, 90, 90))
        draw.text((left + 1.4 * size, top + line / 2), name, fill=_BLACK, font=_font(size), anchor="lm")
    return whole


def beside(pictures: Sequence[Image.Image]) -> np.ndarray:  # [H, W, 3] uint8
    """Return pictures side by side on white, their upper edges in line."""
    gap = letter_size(pictures[0].height, pictures[0].width) // 2
    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    whole = Image.new("RGB", (width, max(picture.height for picture in pictures)), _WHITE)
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width + gap
    return np.array(whole)


def _margin(size: int) -> int:
    return max(round(0.3 * size), 2)
