"""One function for what any scan chose, so that its callers need not know the family."""

from functools import singledispatch
from importlib import import_module
from typing import Any

import numpy as np
from matplotlib.axes import Axes


@singledispatch
def draw_choice(
    chosen: Any,
    axes: Axes,
    image: np.ndarray,  # [H', W', 3] or [H', W'], 0 … 1
    sample: int = 0,
    title: str = "",
) -> None:
    """Draw what one scan chose on one image of the batch: a spanning tree, or quadrants under their scores.

    A family says how in its module ``visualization``, which is imported here when its choice is first seen.

    Args:
        chosen: what :func:`ssm_core.layers.record_scans` recorded for the scan.
        axes: where to draw.
        image: the image underneath.
        sample: its number in the batch.
        title: a caption.

    Raises:
        TypeError: no family knows what ``chosen`` is.
    """
    kind = type(chosen)
    module = f"{kind.__module__.partition('.')[0]}.visualization"
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
    draw = draw_choice.dispatch(kind)
    if draw is draw_choice.dispatch(object):
        raise TypeError(f"there is no drawing of a {kind.__name__} in {module}")
    draw(chosen, axes, image, sample, title)
