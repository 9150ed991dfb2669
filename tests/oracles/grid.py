"""Lists the edges of the 4-connected grid, and defines measures that can weight them."""

import torch
import torch.nn.functional as F

DISTANCES = {
    "cosine": lambda a, b: torch.exp(-F.cosine_similarity(a, b, dim=0)),
    "euclidean": lambda a, b: (a - b).square().sum().sqrt(),
    "manhattan": lambda a, b: (a - b).abs().sum(),
}


def grid(height, width):
    """Return the edges of the grid: first all vertical ones, then all horizontal ones."""
    number = torch.arange(height * width).view(height, width)
    vertical = torch.stack([number[:-1], number[1:]], -1).view(-1, 2)
    horizontal = torch.stack([number[:, :-1], number[:, 1:]], -1).view(-1, 2)
    return torch.cat([vertical, horizontal]).tolist()


def num_edges(height, width):
    return (height - 1) * width + height * (width - 1)
