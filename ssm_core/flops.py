"""Counting a model's work as the papers of this family count it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class FlopCount(NamedTuple):
    """Work of one forward pass of one image; a multiply-add counts once."""

    total: int
    scans: int  # the part of it in the scans


def _layer_norm(input_shape: Sequence[int], *_, out_shape=None, **__) -> int:
    # fvcore's five operations an element, doubled because FlopCounterMode counts a multiply-add twice.
    return 2 * 5 * math.prod(input_shape)


def count_flops(model: nn.Module, image_size: tuple[int, int] = (224, 224), in_chans: int = 3) -> FlopCount:
    """Count convolutions, matrix products, norms and scans of a forward pass.

    The count is that of VMamba, QuadMamba and MambaTree (fvcore's conventions): a multiply-add counts once, a layer
    norm five times its elements, a selective scan 9·B·L·D·N + B·D·L a direction, elementwise work not at all.
    MambaTree's published numbers leave the scan out.

    Args:
        model: takes a batch of images; on any device, in the mode it is to be counted in.
        image_size: height and width.
        in_chans: channels of the images.
    """
    parameter = next(model.parameters())
    image = torch.zeros(1, in_chans, *image_size, device=parameter.device, dtype=parameter.dtype)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.native_layer_norm: _layer_norm})
    with counter, torch.no_grad():
        model(image)
    counts = counter.get_flop_counts()["Global"]
    scans = sum(n for op, n in counts.items() if "scan" in str(op))
    return FlopCount(sum(counts.values()) // 2, scans // 2)
