"""Sends arrays to a device, all of them in one copy that nothing waits for."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_ALIGNED = 8  # bytes; every array begins at a multiple, so that it can be viewed as any type


def send(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Copy arrays to a device. On the CPU they are not copied."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    packed = torch.empty(starts_of(arrays)[-1], dtype=torch.uint8, pin_memory=True)
    pack(arrays, packed)
    return unpack(packed.to(device, non_blocking=True), arrays)


def starts_of(arrays: Sequence[np.ndarray]) -> list[int]:
    """The bytes at which packed arrays begin, and the length of all of them."""
    return np.cumsum([0, *(-(-array.nbytes // _ALIGNED) * _ALIGNED for array in arrays)]).tolist()


def pack(arrays: Sequence[np.ndarray], packed: Tensor) -> None:
    """Write arrays, one after the other, into bytes on the host."""
    content = packed.numpy()
    for array, start in zip(arrays, starts_of(arrays), strict=False):
        content[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def unpack(packed: Tensor, arrays: Sequence[np.ndarray]) -> list[Tensor]:
    """View bytes as tensors, which have the types and shapes of the arrays."""
    return [
        packed[start : start + array.nbytes].view(torch.from_numpy(array).dtype).view(array.shape)
        for array, start in zip(arrays, starts_of(arrays), strict=False)
    ]
