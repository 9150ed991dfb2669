"""Draws what a scan chose. The callers of this function need not know the model family."""

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
    """Draw what one scan chose on one image of the batch.

    Each model family registers its own drawing function with ``@draw_choice.register`` in its module ``visualization``.
    That module must be imported before this function is called.

    Args:
        chosen: the record of the scan from :func:`ssm_core.layers.record_scans`.
        axes: the axes to draw on.
        image: the image underneath.
        sample: the index of the image in the batch.
        title: a caption.

    Raises:
        TypeError: no imported module has registered a drawing function for ``chosen``.
    """
    kind = type(chosen)
    raise TypeError(
        f"no drawing is registered for a {kind.__name__} of {kind.__module__}: import the module that registers one"
    )


def is_drawable(chosen: Any) -> bool:
    """Return whether an imported module has registered a drawing function for what a scan chose."""
    return draw_choice.dispatch(type(chosen)) is not draw_choice.dispatch(object)
