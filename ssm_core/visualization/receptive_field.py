"""Effective receptive fields: the pixels that influence the centre of a model's feature map.

Luo et al. defined the measure in *Understanding the effective receptive field in deep convolutional neural networks*
(2016). This module uses the form of Ding et al., *Scaling up your kernels to 31×31* (2022), which VMamba uses, too:

- Let s be the sum over the map's channels of max(0, y) at the centre (⌊H/2⌋, ⌊W/2⌋) of the map.
- The value at a pixel is the sum over the image's channels of max(0, ∂s/∂pixel), averaged over images.

Autograd computes the gradient. A discrete choice therefore passes on its straight-through gradient.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from .figures import as_written

# The shares of the field for which tables in the literature list the area.
SHARES = (0.2, 0.3, 0.5, 0.99)


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
        ValueError: the field is zero everywhere.
    """
    total = field.sum().item()
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
) -> None:
    """Draw a receptive field on a logarithmic scale of four decades below its maximum.

    Args:
        axes: the axes to draw on.
        field: a result of :func:`effective_receptive_field`.
        title: a caption.
    """
    values = field.cpu().numpy()
    decades = np.log10(np.maximum(values / max(values.max(), np.finfo(values.dtype).tiny), 1e-4))
    axes.imshow(decades, cmap="magma", vmin=-4, vmax=0, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(as_written(title), fontsize=8)
