"""One function for what any scan chose, so that its callers need not know the family."""

from functools import singledispatch
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

    Args:
        chosen: what :func:`ssm_core.layers.record_scans` recorded for the scan. The family's ``visualization`` module
            has to be imported: it says how.
        axes: where to draw.
        image: the image underneath.
        sample: its number in the batch.
        title: a caption.

    Raises:
        TypeError: no imported family knows what ``chosen`` is.
    """
    kind = type(chosen)
    package = kind.__module__.partition(".")[0]
    raise TypeError(f"there is no drawing of a {kind.__name__}: import {package}.visualization first")
