"""How different neighbouring tokens of a grid are; a spanning tree of the grid is grown from these weights."""

import torch
from torch import Tensor

from ssm_core.ops.backend import Backend, choose_backend
from ssm_core.ops.checks import require_same_device, shape_of

from . import register as _register  # noqa: F401  registers the operator's rules
from .reference import GuideDistance, grid_distances_reference


def grid_distances(
    x: Tensor,  # [B, H, W, D]
    distance: GuideDistance = "cosine",
    backend: Backend = "auto",
) -> Tensor:
    """How different the two ends of every edge of the 4-connected grid are (MambaTree, section 3.2).

    ``"cosine"`` is the paper's exp(-cosine). ``"euclidean"`` and ``"manhattan"`` are the distances themselves, since a
    spanning tree depends on the order of the weights alone. No gradient passes through, and no tangent.

    Args:
        x: features.
        distance: the measure. Only ``"cosine"`` has compiled kernels; the others always take PyTorch's operators.
        backend: the implementation; ``"auto"`` takes the compiled kernel where there is one.

    Returns:
        ``[B, E]``, float32 (float64 for float64 features): the vertical edges, then the horizontal ones, row by row.

    Raises:
        ValueError: an argument does not fit; the message says which.
    """
    op = "grid_distances"
    if x.dim() != 4 or not x.dtype.is_floating_point:
        raise ValueError(f"{op}: x must be real [B, H, W, D], got {x.dtype} {shape_of(x)}")
    require_same_device(op, x=x)
    if x.shape[1] < 1 or x.shape[2] < 1:
        raise ValueError(f"{op}: the grid must be at least 1×1, got {x.shape[1]}×{x.shape[2]}")
    if distance not in ("cosine", "euclidean", "manhattan"):
        raise ValueError(f"{op}: distance must be one of cosine, euclidean, manhattan, got {distance!r}")
    x = x.detach()
    if distance == "cosine" and choose_backend(op, "tree_ssm::grid_cosine_distance", backend, x.device) != "reference":
        # Samples may lie anywhere, so that a batch that was expanded is not copied.
        each_contiguous = x[:1].is_contiguous()
        return torch.ops.tree_ssm.grid_cosine_distance(x if each_contiguous else x.contiguous())
    return grid_distances_reference(x, distance)


__all__ = ["GuideDistance", "grid_distances", "grid_distances_reference"]
