"""Counts the work of a forward pass as papers on vision state space models do, and the memory of its activations."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ssm_core.ops.registry import Shape, Work, work_of_operators


class FlopCount(NamedTuple):
    """Work of one forward pass; a multiply-add counts once.

    Attributes:
        total: everything that is counted.
        scans: its part in scans along sequences and along trees.
        trees: its part in growing spanning trees: the weights of the edges, and comparisons.
    """

    total: int
    scans: int
    trees: int

    @property
    def published(self) -> int:
        """The number that papers report, which is without trees and scans for models that grow trees."""
        return self.total - self.scans - self.trees if self.trees else self.total


def _layer_norm(input_shape: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    # fvcore counts five operations an element. They are doubled because FlopCounterMode counts a multiply-add twice.
    return 2 * 5 * math.prod(input_shape)


def count_pass(
    model: nn.Module,
    inputs: Tensor,  # [B, ...]
) -> FlopCount:
    """Count convolutions, matrix products, attention, layer norms, scans and spanning trees of a forward pass.

    The conventions are fvcore's. A multiply-add counts once, a layer norm five times its elements, and an operator of
    this project as it declares (see the README of each). Other elementwise work is not counted.

    Args:
        model: on any device, in the mode in which to count it.
        inputs: the model's input; a tensor without contents (``FakeTensorMode``) is enough.
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.native_layer_norm: _layer_norm})
    with counter, torch.no_grad():
        model(inputs)
    counts = counter.get_flop_counts()["Global"]
    work = work_of_operators()

    def spent_on(kind: Work) -> int:
        return sum(n for op, n in counts.items() if work.get(op) is kind) // 2

    return FlopCount(sum(counts.values()) // 2, spent_on(Work.SCAN), spent_on(Work.TREE))


def count_flops(model: nn.Module, image_size: tuple[int, int] = (224, 224), in_chans: int = 3) -> FlopCount:
    """:func:`count_pass` for one image.

    Args:
        model: takes a batch of images; on any device, in the mode in which to count it.
        image_size: height and width.
        in_chans: channels of the images.
    """
    parameter = next(model.parameters())
    return count_pass(model, torch.zeros(1, in_chans, *image_size, device=parameter.device, dtype=parameter.dtype))


def activation_bytes(
    model: nn.Module,
    inputs: Tensor,  # [B, ...]
) -> int:
    """Bytes that autograd keeps from a forward pass for the backward pass, without parameters and buffers.

    The count is taken where operators save tensors. Memory that several tensors share counts once. A training step
    holds this much at the end of its forward pass, and gradients, optimiser and the allocator's rounding besides.

    Args:
        model: on any device, in the mode in which to count it.
        inputs: the model's input; a tensor without contents (``FakeTensorMode``) is enough.
    """
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    # Keeping the storages keeps their memory, so that no later one is found at the same address.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        model(inputs)
    return sum(storage.nbytes() for storage in kept.values())
