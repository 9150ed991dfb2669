"""The kinds of operations that are drawn for an image."""

from enum import IntEnum


class Kind(IntEnum):
    """What is done to an image. Several of timm's operations are one kind with other numbers."""

    NONE = 0
    TABLE = 1  # every value of a channel becomes another: invert, posterize, solarize, brightness
    AUTO_CONTRAST = 2
    EQUALIZE = 3
    CONTRAST = 4
    COLOUR = 5
    SHARPNESS = 6
    SLIDE_X = 7  # every row moves to the left or right: shear and translate
    SLIDE_Y = 8  # every column moves up or down
    ROTATE = 9
