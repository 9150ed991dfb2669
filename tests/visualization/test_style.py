"""The colours of pictures: scales that keep their order in a print in grey, lines that the colour-blind tell apart."""

import matplotlib
import numpy as np
import pytest
from colour_vision import BLINDNESS, closest, seen
from matplotlib.colors import to_rgb
from skimage.color import rgb2lab

from ssm_core.visualization import style


@pytest.mark.parametrize("name", [style.HEAT, style.SCORES, style.FIELD, "way"])
@pytest.mark.parametrize("kind", [None, *BLINDNESS])
def test_scales_get_brighter_all_along(name, kind):
    scale = style.WAY if name == "way" else matplotlib.colormaps[name]
    colours = scale(np.linspace(0, 1, 64))[:, :3]
    lightness = rgb2lab(colours if kind is None else seen(colours, kind))[:, 0]
    assert (np.diff(lightness) > -0.1).all()
    assert lightness[-1] - lightness[0] > 40


@pytest.mark.parametrize("kind", [None, *BLINDNESS])
def test_lines_are_told_apart(kind):
    colours = np.array([to_rgb(name) for name in style.CYCLE])
    assert closest(colours if kind is None else seen(colours, kind)) > 10


def test_lines_stand_out():
    """Those of trees are darker than white paper, and the frames of quadrants differ from all colours of scores."""
    assert rgb2lab(np.array(style.WAY(1.0)[:3]))[0] < 80
    red, white = (np.array(to_rgb(name)) for name in (style.CHOSEN, style.QUADRANT))
    for colour in matplotlib.colormaps[style.SCORES](np.linspace(0, 1, 16))[:, :3]:
        assert closest(np.array([red, colour])) > 20
    assert closest(np.array([red, white])) > 20
