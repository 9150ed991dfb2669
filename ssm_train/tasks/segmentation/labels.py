"""Label maps as pictures."""

import numpy as np
from PIL import Image


def label_image(
    labels: np.ndarray,  # [H, W], whole numbers from 0
) -> Image.Image:
    """A label map as a picture of 8 bits, or of 16 bits if there are larger labels than 255."""
    return Image.fromarray(smallest(labels))


def smallest(labels: np.ndarray) -> np.ndarray:
    """Labels in 8 bits, or in 16 bits if there are larger ones than 255."""
    wide = labels.max(initial=0) > np.iinfo(np.uint8).max
    return labels.astype(np.uint16 if wide else np.uint8)
