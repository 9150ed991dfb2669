"""The look of all pictures: widths that fit a paper, sizes of letters, and colours.

The colours are told apart by people with the common kinds of colour blindness, and in a print in grey.
"""

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, ListedColormap

COLUMN = 3.25  # inches: a column of a paper with two columns, such as CVPR's
PAGE = 6.875  # inches: the text of such a paper from edge to edge
PRINT_DPI = 300  # dots per inch that journals and conferences ask for

TITLE_SIZE = 7  # points: names of panels, axes and colour bars
LINE = 1.3 * TITLE_SIZE / 72  # inches: a line of such letters
SMALL_SIZE = 6  # points: numbers at axes, and the line that says whose weights a picture shows

HEAT = "inferno"  # numbers of tokens over a photograph, from dark to bright
SCORES = "viridis"  # a second scale, where one sheet has both
FIELD = "magma"  # receptive fields
QUADRANT = "white"
CHOSEN = (
    "#ff5a36"  # the quadrant that is split again: vermilion stands out from viridis, and grey is lighter than black
)
WINDOW = "#ffe600"  # the window of a token that somebody asks for
MARK = "black"  # with a white edge, so that it is seen on any colour
# Okabe and Ito, *Color universal design* (2008). Yellow is left out because a line of it is lost on white paper.
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def _part(name: str, first: float, last: float) -> Colormap:
    """A part of one of Matplotlib's colour scales."""
    return ListedColormap(matplotlib.colormaps[name](np.linspace(first, last, 256)), f"{name}-part")


# For lines over a pale photograph: the yellow end of the scale is too bright for that.
WAY = _part("plasma", 0, 0.82)
