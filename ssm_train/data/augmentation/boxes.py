"""Random crops and flips of whole batches: the boxes are drawn on the host, the pixels are computed on the device."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_train.data.augmentation.transfer import send
from ssm_train.data.pixels import LEVELS

VIEW_KEY = "view"  # where the drawn numbers of a batch have the matrices of its crops


def draw_views(count: int, scale: tuple[float, float], hflip: float) -> np.ndarray:  # [count, 2, 3] float32
    """Draw a square crop for every image, and whether it is flipped, from NumPy's global generator.

    Args:
        count: number of images.
        scale: smallest and largest share of the image's area that a crop has.
        hflip: probability of a horizontal flip.

    Returns:
        The matrices that ``torch.nn.functional.affine_grid`` takes.
    """
    side = np.sqrt(np.random.uniform(*scale, size=count))
    centre = np.random.uniform(-1, 1, size=(count, 2)) * (1 - side)[:, None]  # of images from -1 to 1
    view = np.zeros((count, 2, 3), np.float32)
    view[:, 0, 0] = side * np.where(np.random.uniform(size=count) < hflip, -1, 1)
    view[:, 1, 1] = side
    view[:, :, 2] = centre
    return view


@torch.no_grad()
def finish_views(
    pixels: Tensor,  # [B, C, H, W] uint8
    drawn: Mapping[str, np.ndarray],
) -> Tensor:  # [B, C, size, size] float32
    """Crop, flip, resize by cubic interpolation, and normalise.

    Args:
        pixels: the images, on any device.
        drawn: ``view`` [B, 2, 3], see :func:`draw_views`; ``size`` [B], the side of the result, which is the same for
            all; ``mean`` and ``std`` [B, C].
    """
    size = int(drawn["size"][0])
    view, mean, std = send([drawn[VIEW_KEY], drawn["mean"], drawn["std"]], pixels.device)
    places = F.affine_grid(view, [*pixels.shape[:2], size, size], align_corners=False)
    levels = F.grid_sample(pixels.float(), places, mode="bicubic", padding_mode="border", align_corners=False)
    return levels.clamp_(0, LEVELS).div_(LEVELS).sub_(mean[:, :, None, None]).div_(std[:, :, None, None])
