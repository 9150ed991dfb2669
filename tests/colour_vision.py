"""How colours look to people with colour blindness, and how far apart they are."""

import numpy as np
from skimage.color import deltaE_ciede2000, rgb2lab

# How people without one kind of cones see linear red, green and blue: Machado, Oliveira and Fernandes, *A
# physiologically-based model for simulation of color vision deficiency* (2009), severity 1.0.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def seen(colours, kind):
    """Return the colours (sRGB, 0 … 1) as somebody with a kind of colour blindness sees them."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    linear = (linear @ np.array(BLINDNESS[kind]).T).clip(0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def closest(colours):
    """Return the smallest difference (CIEDE2000) of any two colours; 1 is just noticeable."""
    lab = rgb2lab(colours)
    distances = deltaE_ciede2000(lab[:, None], lab[None])
    return distances[np.triu_indices(len(colours), 1)].min()
