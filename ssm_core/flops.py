"""Counting a model's work as the papers of this family count it, and what its activations take."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

_TREES = ("spanning_tree", "grid_cosine_distance")


class FlopCount(NamedTuple):
    """Work of one forward pass; a multiply-add counts once.

    Attributes:
        total: all that is counted.
        scans: the part of it in scans, along sequences and along trees.
        trees: the part of it that grows spanning trees: distances along the edges, and comparisons.
    """

    total: int
    scans: int
    trees: int

    @property
    def published(self) -> int:
        """As the papers count: QuadMamba's and VMamba's with the scans, MambaTree's without scans and trees."""
        return self.total - self.scans - self.trees if self.trees else self.total


def _layer_norm(input_shape: Sequence[int], *_, out_shape=None, **__) -> int:
    # fvcore's five operations an element, doubled because FlopCounterMode counts a multiply-add twice.
    return 2 * 5 * math.prod(input_shape)


def count_pass(
    model: nn.Module,
    inputs: Tensor,  # [B, ...]
) -> FlopCount:
    """Count convolutions, matrix products, attention, layer norms, scans and spanning trees of a forward pass.

    The count is that of VMamba, QuadMamba and MambaTree (fvcore's conventions): a multiply-add counts once, a layer
    norm five times its elements, a selective scan 9·B·L·D·N + B·D·L a direction, other elementwise work not at all.
    MambaTree's published numbers leave scan and tree out. Here an edge and channel of a tree scan counts three
    multiply-adds (one in the pass from the leaves alone), the distances of the grid's edges one for each channel of an
    edge and of a vertex, and the spanning tree E·⌈log₂ L⌉ comparisons.

    Args:
        model: on any device, in the mode it is to be counted in.
        inputs: what it takes; tensors without contents (``FakeTensorMode``) will do.
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.native_layer_norm: _layer_norm})
    with counter, torch.no_grad():
        model(inputs)
    counts = counter.get_flop_counts()["Global"]
    trees = sum(n for op, n in counts.items() if any(name in str(op) for name in _TREES))
    scans = sum(n for op, n in counts.items() if "scan" in str(op))
    return FlopCount(sum(counts.values()) // 2, scans // 2, trees // 2)


def count_flops(model: nn.Module, image_size: tuple[int, int] = (224, 224), in_chans: int = 3) -> FlopCount:
    """:func:`count_pass` for one image.

    Args:
        model: takes a batch of images; on any device, in the mode it is to be counted in.
        image_size: height and width.
        in_chans: channels of the images.
    """
    parameter = next(model.parameters())
    return count_pass(model, torch.zeros(1, in_chans, *image_size, device=parameter.device, dtype=parameter.dtype))


def activation_bytes(
    model: nn.Module,
    inputs: Tensor,  # [B, ...]
) -> int:
    """Bytes that autograd keeps of a forward pass for the backward pass, beside parameters and buffers.

    Counted where the operators save tensors, each memory once however many tensors share it. This is what a training
    step holds at the end of its forward pass; gradients, optimiser and the allocator's rounding come on top.

    Args:
        model: on any device, in the mode it is to be counted in.
        inputs: what it takes; tensors without contents (``FakeTensorMode``) will do.
    """
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    # The memories themselves are kept too, so that no address is used twice.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        model(inputs)
    return sum(storage.nbytes() for storage in kept.values())
