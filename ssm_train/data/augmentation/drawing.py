"""Draws the numbers of timm's augmentation for an image. Of its pixels, only the crop and the flip are computed."""

import copy
import math
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment as timms
from timm.data.auto_augment import AugmentOp, AutoAugment, RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import MaybeToTensor, RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import ColorJitter, Compose, Normalize, RandomHorizontalFlip

from ssm_train.data.augmentation.crops import crop_as_timm
from ssm_train.data.augmentation.kinds import Kind

_RAMP = Image.fromarray(np.arange(256, dtype=np.uint8)[None])  # every value of a channel once
_MOST_KEYS = 1 << 32

# How a warp finds the place in the image of a place in the result: x' = a x + b y + c, y' = d x + e y + f.
Matrix = tuple[float, float, float, float, float, float]


class Drawn(TypedDict):
    """The numbers of one image, or of a batch with one more dimension in front. They stay on the host.

    Attributes:
        kinds: [N] int64, the operations in their order, see :class:`.Kind`.
        numbers: [N, 6] float64, the matrix of a warp, or first the factor of another operation.
        cubic: [N] bool, whether a warp interpolates by cubic and not by linear functions.
        tables: [N, 256] uint8, what each value becomes in an operation of the kind ``TABLE``.
        fill: [C] uint8, colour of what a warp brings in from outside of the image.
        erased: [4] int64, top, left, height and width of the rectangle that becomes noise; zeros for none.
        key: [] int64, from which the noise follows.
        mean: [C] float32, which is subtracted.
        std: [C] float32, which the result is divided by.
    """

    kinds: np.ndarray
    numbers: np.ndarray
    cubic: np.ndarray
    tables: np.ndarray
    fill: np.ndarray
    erased: np.ndarray
    key: np.ndarray
    mean: np.ndarray
    std: np.ndarray


class Unfinished(NamedTuple):
    """An image, and what is still to be done to it.

    Attributes:
        pixels: [C, H, W] uint8.
        drawn: the numbers of the rest.
    """

    pixels: Tensor
    drawn: Drawn | dict[str, np.ndarray]


def drawing_of(transform: Compose, channels: int) -> "Drawing | None":
    """The drawing of a transform of timm's; None if it has a part that :func:`.finish` does not compute.

    Args:
        transform: what ``timm.data.create_transform(…, is_training=True)`` returns.
        channels: number of channels of the images.
    """
    parts = {type(part): part for part in transform.transforms}
    policy = parts.get(RandAugment) or parts.get(AutoAugment)
    jitter = parts.get(ColorJitter)
    if set(parts) - _PARTS or (channels != 3 and (policy or jitter)) or (jitter and jitter.hue is not None):
        return None
    if not all(op.aug_fn in _NOTED for op in _operations(policy)):
        return None
    return Drawing(parts)


class Drawing:
    """timm's training transform, whose numbers are drawn as timm draws them, and whose pixels are left for later.

    The random numbers of an image are the same, and drawn in the same order, as if timm transformed it.

    Args:
        parts: the parts of the transform by their types.
    """

    def __init__(self, parts: Mapping[type, Any]):
        parts = copy.deepcopy(dict(parts))
        self.crop: RandomResizedCropAndInterpolation = parts[RandomResizedCropAndInterpolation]
        self.flip: RandomHorizontalFlip | None = parts.get(RandomHorizontalFlip)
        self.policy: RandAugment | AutoAugment | None = parts.get(RandAugment) or parts.get(AutoAugment)
        self.jitter: ColorJitter | None = parts.get(ColorJitter)
        self.erasing: RandomErasing | None = parts.get(RandomErasing)
        if self.erasing is not None:
            self.erasing.per_pixel = False  # zeros, see _draw_erasing
        scaling: Normalize = parts[Normalize]
        self.mean, self.std = (np.asarray(values, np.float32) for values in (scaling.mean, scaling.std))
        self.fill = np.zeros(len(self.mean), np.uint8)
        for op in _operations(self.policy):
            self.fill = np.asarray(op.kwargs["fillcolor"], np.uint8)
            op.aug_fn = partial(_NOTED[op.aug_fn], op.aug_fn)
        self.most = _most_operations(self.policy) + (3 if self.jitter else 0)

    def __call__(self, image: Image.Image) -> Unfinished:
        """Crop and flip an image, and draw the numbers of the rest."""
        height, width = self.crop.size
        pixels = crop_as_timm(self.crop, image).permute(2, 0, 1)
        if self.flip is not None:
            pixels = self.flip(pixels)
        record = Record(self.most, width, height)
        if self.policy is not None:
            self.policy(record)
        if self.jitter is not None:
            self._draw_jitter(record)
        erased, key = self._draw_erasing(height, width)
        drawn = Drawn(
            kinds=record.kinds,
            numbers=record.numbers,
            cubic=record.cubic,
            tables=record.tables,
            fill=self.fill,
            erased=erased,
            key=key,
            mean=self.mean,
            std=self.std,
        )
        return Unfinished(pixels, drawn)

    def _draw_jitter(self, record: "Record") -> None:
        jitter = self.jitter
        order, *factors = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, None)
        for place in order.tolist():
            if factors[place] is not None:
                _NOTED[_JITTER[place]](_JITTER[place], record, factors[place])

    def _draw_erasing(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        if self.erasing is None:
            return np.zeros(4, np.int64), np.zeros((), np.int64)
        # timm erases a mask instead of the image, with zeros in place of noise, and the rectangle is read off the mask.
        rest = self.erasing(torch.ones(1, height, width, dtype=torch.uint8))[0].numpy()
        rectangle = np.zeros(4, np.int64)
        if not rest.all():
            rows, columns = (np.flatnonzero(rest.min(axis=axis) == 0) for axis in (1, 0))
            rectangle[:] = rows[0], columns[0], len(rows), len(columns)
        return rectangle, np.array(random.randrange(_MOST_KEYS), np.int64)


class Record:
    """Stands in for an image in timm's operations, and takes note of them.

    Args:
        most: largest number of operations.
        width: of the image.
        height: of the image.
    """

    def __init__(self, most: int, width: int, height: int):
        self.width, self.height = width, height
        self.kinds = np.zeros(most, np.int64)
        self.numbers = np.zeros((most, 6))
        self.cubic = np.zeros(most, bool)
        self.tables = np.zeros((most, 256), np.uint8)
        self._count = 0

    def add(self, kind: Kind) -> int:
        """Note the next operation, and return its place."""
        place, self._count = self._count, self._count + 1
        self.kinds[place] = kind
        return place


def _note_table(function: Callable, record: Record, *arguments: float, **_: Any) -> Record:
    """Note an operation that looks at one value at a time: what it does to each value says all."""
    record.tables[record.add(Kind.TABLE)] = np.asarray(function(_RAMP, *arguments))[0]
    return record


def _note_plain(kind: Kind, function: Callable, record: Record, **_: Any) -> Record:
    record.add(kind)
    return record


def _note_factor(kind: Kind, function: Callable, record: Record, factor: float, **_: Any) -> Record:
    record.numbers[record.add(kind), 0] = factor
    return record


def _note_warp(
    kind: Kind,
    matrix_of: Callable[[Record, float], Matrix],
    function: Callable,
    record: Record,
    argument: float,
    resample: Any,
    **_: Any,
) -> Record:
    chosen = random.choice(resample) if isinstance(resample, list | tuple) else resample
    place = record.add(kind)
    record.numbers[place] = matrix_of(record, argument)
    record.cubic[place] = chosen == Image.Resampling.BICUBIC
    return record


# The matrices are made by named functions and no lambdas, so that a transform can be pickled for a loading process.
def _shear_x(record: Record, share: float) -> Matrix:
    return (1, share, 0, 0, 1, 0)


def _shear_y(record: Record, share: float) -> Matrix:
    return (1, 0, 0, share, 1, 0)


def _translate_x(record: Record, pixels: float) -> Matrix:
    return (1, 0, pixels, 0, 1, 0)


def _translate_y(record: Record, pixels: float) -> Matrix:
    return (1, 0, 0, 0, 1, pixels)


def _translate_x_by_share(record: Record, share: float) -> Matrix:
    return _translate_x(record, share * record.width)


def _translate_y_by_share(record: Record, share: float) -> Matrix:
    return _translate_y(record, share * record.height)


def _rotation(record: Record, degrees: float) -> Matrix:
    """Pillow's matrix of a rotation around the centre, rounded as Pillow rounds it."""
    angle = -math.radians(degrees % 360.0)
    a, b, d = (round(value, 15) for value in (math.cos(angle), math.sin(angle), -math.sin(angle)))
    x, y = record.width / 2, record.height / 2
    return (a, b, a * -x + b * -y + x, d, a, d * -x + a * -y + y)


# How each of timm's operations is noted. Whatever is not here is left to timm.
_NOTED: dict[Callable, Callable] = {
    **dict.fromkeys((timms.invert, timms.posterize, timms.solarize, timms.solarize_add, timms.brightness), _note_table),
    timms.auto_contrast: partial(_note_plain, Kind.AUTO_CONTRAST),
    timms.equalize: partial(_note_plain, Kind.EQUALIZE),
    timms.contrast: partial(_note_factor, Kind.CONTRAST),
    timms.color: partial(_note_factor, Kind.COLOUR),
    timms.sharpness: partial(_note_factor, Kind.SHARPNESS),
    timms.shear_x: partial(_note_warp, Kind.SLIDE_X, _shear_x),
    timms.shear_y: partial(_note_warp, Kind.SLIDE_Y, _shear_y),
    timms.translate_x_rel: partial(_note_warp, Kind.SLIDE_X, _translate_x_by_share),
    timms.translate_y_rel: partial(_note_warp, Kind.SLIDE_Y, _translate_y_by_share),
    timms.translate_x_abs: partial(_note_warp, Kind.SLIDE_X, _translate_x),
    timms.translate_y_abs: partial(_note_warp, Kind.SLIDE_Y, _translate_y),
    timms.rotate: partial(_note_warp, Kind.ROTATE, _rotation),
}
_JITTER = (timms.brightness, timms.contrast, timms.color)  # in the order of torchvision's factors
_PARTS = {
    RandomResizedCropAndInterpolation, RandomHorizontalFlip, RandAugment, AutoAugment, ColorJitter, MaybeToTensor,
    Normalize, RandomErasing,
}  # fmt: skip


def _operations(policy: RandAugment | AutoAugment | None) -> list[AugmentOp]:
    if policy is None:
        return []
    return list(policy.ops) if isinstance(policy, RandAugment) else [op for part in policy.policy for op in part]


def _most_operations(policy: RandAugment | AutoAugment | None) -> int:
    if policy is None:
        return 0
    return policy.num_layers if isinstance(policy, RandAugment) else max(map(len, policy.policy))
