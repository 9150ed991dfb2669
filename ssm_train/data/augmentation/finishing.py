"""Computes what was drawn for a batch of images, in a few operations for all images of the same kind."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssm_train.data.augmentation import colours, erasing, warps
from ssm_train.data.augmentation.boxes import VIEW_KEY, finish_views
from ssm_train.data.augmentation.kinds import Kind
from ssm_train.data.augmentation.transfer import send
from ssm_train.data.pixels import LEVELS

Backend = str | Callable[..., Any]  # of torch.compile


class Step(NamedTuple):
    """One operation for some images of the batch.

    Attributes:
        function: takes the images, the arrays as tensors, and the options.
        arrays: the places of the images in the batch, then what the function is given for each of them.
        options: further arguments, which are the same for all of them.
    """

    function: Callable[..., Tensor]
    arrays: list[np.ndarray]
    options: tuple[Any, ...] = ()


@torch.no_grad()
def finish(
    pixels: Tensor,  # [B, C, H, W] uint8
    drawn: Mapping[str, np.ndarray],
    backend: Backend | None = None,
) -> Tensor:  # [B, C, H, W] float32
    """Change colours, warp, normalise and erase, as it was drawn for every image.

    The numbers are on the host, which therefore knows the images of each kind of operation without asking the device.
    They are sent in one copy, and nothing waits for the device.

    Args:
        pixels: the images, on any device.
        drawn: the numbers of the batch, see :class:`.Drawn`, or :func:`.finish_views`.
        backend: that of ``torch.compile`` for warps, noise and scaling, which take the most time. Without it the levels
            are exactly Pillow's. Compiled warps may round the other way in few places.
    """
    if VIEW_KEY in drawn:
        return finish_views(pixels, drawn)
    steps = plan(drawn)
    scaling = [drawn["mean"], drawn["std"]]
    erased = np.flatnonzero(drawn["erased"][:, 2] > 0)
    rectangles = [erased, drawn["erased"][erased], drawn["key"][erased]]
    arrays = [array for step in steps for array in step.arrays] + rectangles
    tensors = iter(send([*map(_twice, arrays), *scaling] if backend else [*arrays, *scaling], pixels.device))
    images = pixels.clone(memory_format=torch.contiguous_format)
    for step in steps:
        places, *arguments = (next(tensors) for _ in step.arrays)
        function = _compiled(step.function, backend) if backend and step.function in _LONG else step.function
        images.index_copy_(0, places, function(images.index_select(0, places), *arguments, *step.options))
    scale, erase = (_compiled(f, backend) if backend else f for f in (_scaled, erasing.erase))
    places, *arguments = (next(tensors) for _ in rectangles)
    inputs = scale(images, *(numbers[:, :, None, None] for numbers in tensors))
    if len(erased):
        inputs.index_copy_(0, places, erase(inputs.index_select(0, places), *arguments))
    return inputs


def _scaled(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return images.float().div_(LEVELS).sub_(mean).div_(std)


def _twice(array: np.ndarray) -> np.ndarray:
    """The numbers of one image twice, so that it is done twice: torch compiles functions of one image anew."""
    return np.repeat(array, 2, axis=0) if len(array) == 1 else array


@functools.cache
def _compiled(function: Callable[..., Tensor], backend: Backend) -> Callable[..., Tensor]:
    """Compile a function for any number of images. Batches have ever other numbers, so CUDA graphs would not pay."""
    return torch.compile(function, backend=backend, dynamic=True, fullgraph=True)


def plan(drawn: Mapping[str, np.ndarray]) -> list[Step]:
    """The steps that a batch takes: for the first operation of every image those of each kind, then for the second."""
    steps = []
    for number in range(drawn["kinds"].shape[1]):
        kinds, numbers = drawn["kinds"][:, number], drawn["numbers"][:, number]
        for kind, function in _BLENDS.items():
            if len(places := np.flatnonzero(kinds == kind)):
                steps.append(Step(function, [places, numbers[places, 0].astype(np.float32)]))
        for kind, function in _STRETCHES.items():
            if len(places := np.flatnonzero(kinds == kind)):
                steps.append(Step(function, [places]))
        if len(places := np.flatnonzero(kinds == Kind.TABLE)):
            steps.append(Step(colours.apply_table, [places, drawn["tables"][places, number]]))
        for kind, function in _WARPS.items():
            for cubic in (False, True):
                if len(places := np.flatnonzero((kinds == kind) & (drawn["cubic"][:, number] == cubic))):
                    steps.append(Step(function, [places, numbers[places], drawn["fill"][places]], (cubic,)))
    return steps


_BLENDS: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {
    Kind.CONTRAST: colours.contrast,
    Kind.COLOUR: colours.colour,
    Kind.SHARPNESS: colours.sharpness,
}
_STRETCHES: dict[Kind, Callable[[Tensor], Tensor]] = {
    Kind.AUTO_CONTRAST: colours.auto_contrast,
    Kind.EQUALIZE: colours.equalize,
}
_LONG = (warps.slide_x, warps.slide_y, warps.rotate)  # the steps that are worth a compilation
_WARPS: dict[Kind, Callable[[Tensor, Tensor, Tensor, bool], Tensor]] = {
    Kind.SLIDE_X: warps.slide_x,
    Kind.SLIDE_Y: warps.slide_y,
    Kind.ROTATE: warps.rotate,
}
