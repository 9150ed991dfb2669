"""Counts the work of a forward pass, by the conventions of papers on vision models, and the memory of activations."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ssm_core.layers import SelectiveSSM
from ssm_core.ops.registry import Shape, Work, work_of_operators

_FEW = 64  # a tensor of so many whole numbers keeps its values without_values: the sizes of some maps are fewer


class FlopCount(NamedTuple):
    """The work of one forward pass. A multiply-add counts as one operation.

    Attributes:
        total: all operations that are counted.
        scans: the operations of scans along sequences and along trees.
        trees: the operations that grow spanning trees: they compute edge weights and compare them.
    """

    total: int
    scans: int
    trees: int

    @property
    def published(self) -> int:
        """The number that papers report. For models that grow trees it excludes the trees and the scans."""
        return self.total - self.scans - self.trees if self.trees else self.total


def _layer_norm(input_shape: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
    # fvcore counts five operations per element. We double them because FlopCounterMode counts a multiply-add twice.
    return 2 * 5 * math.prod(input_shape)


def count_pass(
    model: nn.Module,
    inputs: Tensor,  # [B, ...]
) -> FlopCount:
    """Count convolutions, matrix products, attention, layer norms, scans and spanning trees of a forward pass.

    The conventions are those of fvcore. A multiply-add counts once. A layer norm counts five operations per element. An
    operator of this project declares its own count, which its README explains. Other elementwise work is not counted,
    nor are the zeros that scans append to the weights of their projections.

    Args:
        model: a model on any device. The pass runs in its present mode, training or evaluation.
        inputs: the input of the model; a tensor without contents (:func:`without_values`) is enough.
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.native_layer_norm: _layer_norm})
    with _weights_as_they_are(model), counter, torch.no_grad():
        model(inputs)
    counts = counter.get_flop_counts()["Global"]
    work = work_of_operators()

    def spent_on(kind: Work) -> int:
        return sum(n for op, n in counts.items() if work.get(op) is kind) // 2

    return FlopCount(sum(counts.values()) // 2, spent_on(Work.SCAN), spent_on(Work.TREE))


@contextmanager
def _weights_as_they_are(model: nn.Module) -> Iterator[None]:
    """Let the scans of a network append no zeros to weights."""
    scans = [(module, module.multiple) for module in model.modules() if isinstance(module, SelectiveSSM)]
    for scan, _ in scans:
        scan.multiple = 1
    try:
        yield
    finally:
        for scan, multiple in scans:
            scan.multiple = multiple


def count_flops(model: nn.Module, image_size: tuple[int, int] = (224, 224), in_chans: int = 3) -> FlopCount:
    """Count the work for one image; see :func:`count_pass`.

    Args:
        model: a model that takes a batch of images, as in :func:`count_pass`.
        image_size: height and width in pixels.
        in_chans: number of channels of the images.
    """
    parameter = next(model.parameters())
    return count_pass(model, torch.zeros(1, in_chans, *image_size, device=parameter.device, dtype=parameter.dtype))


def activation_bytes(
    model: nn.Module,
    inputs: Tensor,  # [B, ...]
) -> int:
    """Count the bytes that autograd keeps from a forward pass for the backward pass, without parameters and buffers.

    The function counts the tensors that operators save. Memory that several tensors share counts once. A training step
    holds this much memory at the end of its forward pass. It also needs memory for the gradients, the state of the
    optimiser and the rounding of the allocator.

    Args:
        model: a model on any device. The pass runs in its present mode, training or evaluation.
        inputs: the input of the model; a tensor without contents (:func:`without_values`) is enough.
    """
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    # The dictionary keeps the storages alive, so that no later storage gets the address of an earlier one.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        model(inputs)
    return sum(storage.nbytes() for storage in kept.values())


@contextmanager
def without_values() -> Iterator[None]:
    """Make tensors without contents: nothing is computed, and a large model needs no memory.

    Tensors of a few whole numbers are real. Deformable attention reads the sizes of its maps from such a tensor.
    PyTorch's own ``FakeTensorMode`` keeps single numbers only and cannot run it.
    """
    with _FewNumbersKept(), _ShapesRead():
        yield


class _FewNumbersKept(FakeTensorMode):
    """Tensors without contents, but for those of a few whole numbers."""

    def may_turn_const(self, t: Tensor) -> bool:
        """Whether a tensor keeps its values."""
        few = t.numel() <= _FEW and not (t.is_floating_point() or t.is_complex() or t.is_sparse or t.is_meta)
        return super().may_turn_const(t) or (few and not self.is_our_fake(t))

    def __deepcopy__(self, memo: dict[int, Any]) -> FakeTensorMode:
        """Stay one mode when a module is copied, since tensors of two modes cannot meet."""
        return self


class _ShapesRead(TorchFunctionMode):
    """``torch._shape_as_tensor`` for tensors without contents, which PyTorch has only for others."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch._shape_as_tensor:
            return torch.tensor(args[0].shape)
        return func(*args, **(kwargs or {}))
