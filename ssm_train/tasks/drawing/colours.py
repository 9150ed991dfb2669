"""Colours of classes: the same in every run, and told apart by people with the common kinds of colour blindness."""

from collections.abc import Sequence

Colour = tuple[int, int, int]  # red, green and blue, 0 … 255

# Petroff, *Accessible color sequences for data visualization* (2021): the sequence of ten colours. Matplotlib has it as
# the style petroff10.
TEN: tuple[Colour, ...] = (
    (63, 144, 218), (255, 169, 14), (189, 31, 1), (148, 164, 162), (131, 45, 182),
    (169, 107, 89), (231, 99, 0), (185, 172, 112), (113, 117, 129), (146, 218, 221),
)  # fmt: skip
GREY: Colour = (128, 128, 128)  # of what has no class, or a class without a colour
_SHADES = (0.0, -0.45, 0.5)  # how far each ten classes are moved to black or to white


def class_colours(count: int, palette: Sequence[Sequence[int]] | None = None) -> list[Colour]:
    """Return a colour for each class.

    Args:
        count: the number of classes.
        palette: colours that the data come with, such as those of Cityscapes. Classes beyond its end, or all classes if
            there is none, get the ten of :data:`TEN`, then darker and lighter ones. After thirty they repeat.
    """
    return [class_colour(number, palette) for number in range(count)]


def class_colour(number: int, palette: Sequence[Sequence[int]] | None = None) -> Colour:
    """Return the colour of a class.

    Args:
        number: of the class. What has no class, which mmdet's labels say by -1, is grey.
        palette: see :func:`class_colours`.
    """
    if number < 0:
        return GREY
    if palette is not None and number < len(palette):
        red, green, blue = map(int, palette[number])
        return red, green, blue
    shade = _SHADES[number // len(TEN) % len(_SHADES)]
    end = 255 if shade > 0 else 0
    red, green, blue = (round(level + abs(shade) * (end - level)) for level in TEN[number % len(TEN)])
    return red, green, blue


def readable_on(colour: Colour) -> Colour:
    """Return black or white, whichever has the higher contrast on a colour (WCAG 2, relative luminance)."""
    linear = [(v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4) for v in (level / 255 for level in colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # Contrasts with black and with white are (L + 0.05) / 0.05 and 1.05 / (L + 0.05).
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)
