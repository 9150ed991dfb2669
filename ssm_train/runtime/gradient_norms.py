"""Norms of gradients, which may be sharded between the processes of a run."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor


def group_of(gradients: Sequence[Tensor]) -> ProcessGroup | None:
    """The processes that share the gradients; None if each process has all of them."""
    first = gradients[0] if gradients else None
    return first.device_mesh.get_group() if isinstance(first, DTensor) else None


def summed(value: Tensor, group: ProcessGroup | None) -> Tensor:
    """The sum of a value over the processes that share the gradients; the value itself if there are none."""
    if group is None:
        return value
    value = value.clone()
    distributed.all_reduce(value, group=group)
    return value


def norms_of(gradients: Sequence[Tensor], norm_type: float) -> tuple[Tensor, Tensor]:
    """The norm of all gradients, as torch computes it, and the norm of each [P].

    Processes that share the gradients exchange one number for each, and all of them get the same norms.

    Args:
        gradients: the gradients, or this process's shards of them.
        norm_type: the exponent; ``inf`` takes the largest entry.
    """
    if (group := group_of(gradients)) is not None:
        norms = _sharded(gradients, norm_type, group)
        return torch.linalg.vector_norm(norms, norm_type), norms
    kinds = {(type(gradient), gradient.dtype, gradient.device) for gradient in gradients}
    if len(kinds) == 1 and type(gradients[0]) is Tensor:
        norms = torch.stack(torch._foreach_norm(gradients, norm_type))
        return torch.linalg.vector_norm(norms, norm_type), norms
    norm = torch.nn.utils.get_total_norm(gradients, norm_type)
    return norm, torch.stack([g.norm(norm_type).to(norm) for g in gradients]) if gradients else norm[None][:0]


def _sharded(gradients: Sequence[Tensor], norm_type: float, group: ProcessGroup) -> Tensor:
    """The norm of each gradient [P] from its shards."""
    # A process has no row of a parameter that has fewer rows than there are processes.
    shards = [shard if shard.numel() else shard.new_zeros(1) for shard in map(shard_of, gradients)]
    norms = torch.stack(torch._foreach_norm(shards, norm_type)).float()
    if norm_type == float("inf"):
        norms = norms.nan_to_num(nan=norm_type)  # a maximum would not tell the other processes of a NaN
        distributed.all_reduce(norms, distributed.ReduceOp.MAX, group=group)
        return norms
    return summed(norms**norm_type, group) ** (1 / norm_type)


def shard_of(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has, which is all of it if the tensor is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
