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
    """Draw what one scan chose on one image of the batch.

    A family registers how (``@draw_choice.register``) in its module ``visualization``, which has to be imported before.

    Args:
        chosen: what :func:`ssm_core.layers.record_scans` recorded for the scan.
        axes: where to draw.
        image: the image underneath.
        sample: its number in the batch.
        title: a caption.

    Raises:
        TypeError: no imported module has registered how to draw ``chosen``.
    """
    kind = type(chosen)
    raise TypeError(
        f"no drawing is registered for a {kind.__name__} of {kind.__module__}: import the module that registers one"
    )


def is_drawable(chosen: Any) -> bool:
    """Whether an imported module has registered how to draw what a scan chose."""
    return draw_choice.dispatch(type(chosen)) is not draw_choice.dispatch(object)
