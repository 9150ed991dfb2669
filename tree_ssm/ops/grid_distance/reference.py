"""Distances along the edges of a grid in plain PyTorch: the definition that kernels are tested against."""

from typing import Literal

import torch
from torch import Tensor

from ssm_core.ops.checks import accumulate_dtype

GuideDistance = Literal["cosine", "euclidean", "manhattan"]


def grid_distances_reference(
    x: Tensor,  # [B, H, W, D]
    distance: GuideDistance,
) -> Tensor:  # [B, E]
    """Measure the distance along every vertical edge, then along every horizontal one, each row by row."""
    x = x.to(accumulate_dtype(x.dtype))
    # Each function has its own branch: torch.compile takes no variable of a closure that is set in some cases alone.
    if distance == "cosine":
        scale = torch.linalg.vector_norm(x, dim=-1).clamp_min(1e-8).reciprocal()

        def measure(lower: tuple[slice, ...], upper: tuple[slice, ...]) -> Tensor:
            return torch.exp(-(x[lower] * x[upper]).sum(-1) * scale[lower] * scale[upper])

    else:
        order = 2 if distance == "euclidean" else 1

        def measure(lower: tuple[slice, ...], upper: tuple[slice, ...]) -> Tensor:
            return torch.linalg.vector_norm(x[lower] - x[upper], ord=order, dim=-1)

    every, but_last, but_first = slice(None), slice(None, -1), slice(1, None)
    vertical = measure((every, but_last), (every, but_first))
    horizontal = measure((every, every, but_last), (every, every, but_first))
    return torch.cat([vertical.flatten(1), horizontal.flatten(1)], dim=1)
