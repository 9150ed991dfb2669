"""Effective receptive fields: the pixels that influence the centre of a model's feature map.

Luo et al. defined the measure in *Understanding the effective receptive field in deep convolutional neural networks*
(2016). This module uses the form of Ding et al., *Scaling up your kernels to 31×31* (2022), which VMamba uses, too:

- Let s be the sum over the map's channels of max(0, y) at the centre (⌊H/2⌋, ⌊W/2⌋) of the map.
- The value at a pixel is the sum over the image's channels of max(0, ∂s/∂pixel), averaged over images.

Autograd computes the gradient. A discrete choice therefore passes on its straight-through gradient.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor, nn

from . import style
from .figures import Sheet, caption_panel, in_rows, panel_width, wrapped

# The shares of the field for which tables in the literature list the area.
SHARES = (0.2, 0.3, 0.5, 0.99)
_LEAST = 0.01  # lower end of a colour scale


def map_extractor(model: nn.Module, stage: int = -1) -> Callable[[Tensor], Tensor]:
    """Return a function that computes the map ``[B, C, H, W]`` of one stage from images.

    Args:
        model: a backbone of this project or of timm. It must have timm's method ``forward_intermediates``.
        stage: the index of the stage; negative numbers count from the last stage.

    Raises:
        ValueError: the model has no such method. The returned function raises it if the model has no such stage.
    """
    forward: Callable[..., Sequence[Tensor]] | None = getattr(model, "forward_intermediates", None)
    if forward is None:
        raise ValueError(f"{type(model).__name__} has no forward_intermediates, which gives a timm model's maps")

    def extract(images: Tensor) -> Tensor:
        try:
            return forward(images, indices=[stage], stop_early=True, intermediates_only=True)[-1]
        except (AssertionError, IndexError, ValueError) as error:  # the model has no such stage or refuses the size
            reason = " ".join(str(error).split()) or "no reason given"
            size = "×".join(map(str, images.shape[2:]))
            raise ValueError(
                f"{type(model).__name__} gives no map of stage {stage} for images of {size}: {reason}"
            ) from error

    return extract


def effective_receptive_field(
    features: Callable[[Tensor], Tensor],
    images: Iterable[Tensor],  # each [B, C, H, W]
) -> Tensor:  # [H, W], float64
    """Return the contribution of every pixel to the centre of the map, averaged over images. It is at least 0.

    Args:
        features: computes the map ``[B, C', H', W']`` of a batch of images; see :func:`map_extractor`.
        images: batches of images. All images have the same size.

    Raises:
        ValueError: there are no images, they differ in size, or ``features`` does not return a map.
    """
    total, count = None, 0
    for batch in images:
        contribution = _contribution(features, batch).double()
        if total is not None and total.shape != contribution.shape:
            raise ValueError(f"the images differ in size: {tuple(total.shape)} and {tuple(contribution.shape)}")
        total = contribution if total is None else total + contribution
        count += batch.shape[0]
    if total is None:
        raise ValueError("there are no images to average over")
    return total / count


def _contribution(
    features: Callable[[Tensor], Tensor],
    images: Tensor,  # [B, C, H, W]
) -> Tensor:  # [H, W]
    """Return the contribution of every pixel to the centre of the map, summed over a batch."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        maps = features(images)
        if maps.dim() != 4:
            raise ValueError(f"a receptive field needs a map [B, C, H, W], got a tensor of shape {tuple(maps.shape)}")
        centre = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
        (gradient,) = torch.autograd.grad(centre.relu().sum(), images)
    return gradient.relu().sum((0, 1))


def area_shares(
    field: Tensor,  # [H, W]
    shares: Sequence[float] = SHARES,
) -> Mapping[float, float]:
    """Measure the area that holds a given share of a receptive field.

    The function finds the smallest rectangle around the centre that holds this share. The rectangle has the aspect
    ratio of the image. A large area means that the field is spread evenly.

    Args:
        field: a result of :func:`effective_receptive_field`.
        shares: shares of the sum over the field, above 0 and at most 1.

    Returns:
        A mapping from each share of the field to the share of the image's area that the rectangle covers.

    Raises:
        ValueError: the field is zero everywhere, or not finite.
    """
    total = field.sum().item()
    if not math.isfinite(total):
        raise ValueError("the receptive field has numbers that are not finite")
    if total <= 0:
        raise ValueError("the receptive field is zero everywhere")
    rows, columns = field.shape
    steps = max(rows, columns)
    areas, held = [], []
    for step in range(1, steps + 1):
        # The rectangle lies around the pixel at the centre of the map.
        height, width = (max(1, round(side * step / steps)) for side in (rows, columns))
        top, left = (side // 2 - part // 2 for side, part in ((rows, height), (columns, width)))
        areas.append(height * width / (rows * columns))
        held.append(field[top : top + height, left : left + width].sum().item() / total)
    # The last rectangle is the whole image. The default 1.0 covers a sum that rounding made slightly too small.
    return {share: next((a for a, h in zip(areas, held, strict=True) if h >= share), 1.0) for share in shares}


def draw_receptive_field(
    axes: Axes,
    field: Tensor,  # [H, W]
    title: str = "",
    limits: tuple[float, float] | None = None,
) -> AxesImage:
    """Draw a receptive field on a logarithmic scale.

    The numbers are contributions of pixels divided by the mean contribution, which lets models be compared. A field
    that is spread evenly is 1 everywhere.

    Args:
        axes: the axes to draw on.
        field: a result of :func:`effective_receptive_field`.
        title: a caption.
        limits: the numbers at the two ends of the colour scale. By default a hundredth and the largest number.

    Returns:
        What a colour bar is made for, see :class:`.figures.Sheet`.
    """
    values = relative_to_mean(field)
    low, high = limits or _limits([values])
    drawn = axes.imshow(values, cmap=style.FIELD, norm=LogNorm(low, high, clip=True), interpolation="nearest")
    caption_panel(axes, title)
    return drawn


def receptive_field_figure(
    fields: Mapping[str, Tensor],  # each [H, W]
    title: str = "",
    width: float = style.PAGE,
) -> Figure:
    """Draw the receptive fields of several models side by side, all on the same scale.

    Args:
        fields: name of each model to a result of :func:`effective_receptive_field`.
        title: a line above the picture.
        width: of the picture in inches.

    Raises:
        ValueError: there are no fields.
    """
    if not fields:
        raise ValueError("there are no receptive fields to draw")
    limits = _limits([relative_to_mean(field) for field in fields.values()])
    rows, columns = in_rows(len(fields), 4)
    names = [wrapped(name, panel_width(columns, width, bar=True)) for name in fields]
    lines = max(name.count("\n") + 1 for name in names)
    shape = tuple(next(iter(fields.values())).shape)
    sheet = Sheet(rows, columns, shape, width, title, [lines] * rows, bar=True)
    for i, (name, field) in enumerate(zip(names, fields.values(), strict=True)):
        drawn = draw_receptive_field(sheet.panel(*divmod(i, columns)), field, name, limits)
    sheet.add_colour_bar(drawn, "contribution ÷ its mean")
    return sheet.figure


def relative_to_mean(
    field: Tensor,  # [H, W]
) -> np.ndarray:  # [H, W]
    """Return the contributions of pixels divided by their mean, in which the scale of a model's outputs cancels."""
    values = field.double().cpu().numpy()
    return values / max(values.mean(), np.finfo(values.dtype).tiny)


def _limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Ends of a scale for all numbers. Contributions below a hundredth of the mean do not count."""
    return _LEAST, max(*(float(numbers.max()) for numbers in values), 1.0)
