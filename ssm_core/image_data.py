"""How the images of a model are prepared and what its outputs stand for, in the words of timm and transformers."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssm_core.errors import CheckpointError
from ssm_core.folders import CONFIG

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_MOST_CHANNELS = 1 << 12
_LARGEST_SIDE = 1 << 16
_LEAST_CROP = 0.01
# transformers' word for images that can have several classes, each a question of yes or no.
SEVERAL_CLASSES = "multi_label_classification"
# How the notes begin that say what timm has no word for.
_TYPE, _RANGE = "problem_type: ", "value_range: "


class ImageData(NamedTuple):
    """How the images of a model are prepared, and what its outputs stand for.

    An image is scaled by ``interpolation`` until its shorter side is that of ``size`` divided by ``crop_ratio``, and
    its centre is cut out. The mean is subtracted from values between 0 and 1, and they are divided by the deviation.

    Attributes:
        mean: mean of every channel, or one for all channels.
        std: standard deviation of every channel, or one for all channels.
        size: height and width in pixels.
        crop_ratio: the share of the sides of the scaled image that is left.
        interpolation: one of Pillow's filters in lower case, such as ``"bicubic"``.
        classes: names of the classes; None if they are not known.
        multi_label: whether an image can have several classes.
        value_range: the values in a file that become 0 and 1; None for the least and the largest of their type.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    crop_ratio: float = 1.0
    interpolation: str = "bicubic"
    classes: tuple[str, ...] | None = None
    multi_label: bool = False
    value_range: tuple[float, float] | None = None

    def check(self, channels: int, num_classes: int) -> None:
        """Raise a ``ValueError`` unless this fits a model.

        Args:
            channels: number of channels of the model's images.
            num_classes: length of the model's output.
        """
        if not len(self.mean) == len(self.std) or len(self.mean) not in (1, channels):
            raise ValueError(f"mean and std have one number, or one for each of {channels} channels")
        numbers = (*self.mean, *self.std, self.crop_ratio, *(self.value_range or ()))
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise ValueError("mean, std, crop_ratio and value_range are finite numbers")
        if min(self.std) <= 0 or not _LEAST_CROP <= self.crop_ratio <= 2:
            raise ValueError(f"std is above 0, and crop_ratio from {_LEAST_CROP} to 2")
        if len(self.size) != 2 or not all(type(side) is int and 0 < side <= _LARGEST_SIDE for side in self.size):
            raise ValueError(f"size is a height and a width from 1 to {_LARGEST_SIDE}")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(f"interpolation is one of {', '.join(_INTERPOLATIONS)}")
        if self.value_range is not None and not (
            len(self.value_range) == 2 and self.value_range[0] < self.value_range[1]
        ):
            raise ValueError("value_range is the value that becomes 0, and a larger one that becomes 1")
        names = self.classes
        if names is not None and not (len(names) == num_classes and all(isinstance(name, str) for name in names)):
            raise ValueError(f"classes are the names of {num_classes} classes")

    def for_timm(self, channels: int, reduction: int) -> dict[str, Any]:
        """Return the entries of timm's ``pretrained_cfg``.

        Args:
            channels: number of channels of the model's images.
            reduction: by how much the sides of the last map are smaller.
        """
        entries: dict[str, Any] = {
            "input_size": (channels, *self.size),
            "pool_size": tuple(-(-side // reduction) for side in self.size),
            "crop_pct": self.crop_ratio,
            "crop_mode": "center",
            "interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
        }
        if self.classes is not None:
            entries["label_names"] = self.classes
        # timm refuses keys that it does not know, and keeps notes.
        notes = [f"{_TYPE}{SEVERAL_CLASSES}"] if self.multi_label else []
        if self.value_range is not None:
            notes.append(f"{_RANGE}{json.dumps(self.value_range)}")
        return {**entries, "notes": tuple(notes)} if notes else entries


def check_text(names: Sequence[str]) -> None:
    """Raise a ``ValueError`` if text files cannot hold the name of a class, such as that of a folder of another coding.

    Args:
        names: of the classes.
    """
    for number, name in enumerate(names):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the name of class {number}, {name!r}, is no text: rename the class") from None


def from_timm(cfg: Mapping[str, Any], channels: int, num_classes: int) -> ImageData:
    """Return what timm's ``pretrained_cfg`` of a model says.

    Where it is for images of another number of channels, all channels get the mean of its numbers. Names of other
    classes than the model has are left out.

    Args:
        cfg: timm's config.
        channels: number of channels of the model's images.
        num_classes: length of the model's output.
    """

    def for_channels(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(values) if len(values) in (1, channels) else (sum(values) / len(values),)

    names, notes = cfg.get("label_names"), cfg.get("notes") or ()
    limits = [note for note in notes if isinstance(note, str) and note.startswith(_RANGE)]
    return ImageData(
        for_channels(cfg["mean"]),
        for_channels(cfg["std"]),
        tuple(cfg["input_size"][-2:]),
        cfg.get("crop_pct") or 1.0,
        cfg.get("interpolation") or "bicubic",
        tuple(names) if isinstance(names, list | tuple) and names and len(names) == num_classes else None,
        f"{_TYPE}{SEVERAL_CLASSES}" in notes,
        tuple(json.loads(limits[0].removeprefix(_RANGE))) if limits else None,
    )


def from_folder(config: Mapping[str, Any], channels: int, num_classes: int, folder: Path) -> ImageData | None:
    """Return what the ``config.json`` of a folder says, which anybody can have written.

    Args:
        config: its content.
        channels: number of channels of the model's images.
        num_classes: length of the model's output.
        folder: the folder, for messages.

    Returns:
        The description; None if there is none.

    Raises:
        CheckpointError: it is of no images.
    """
    cfg = config.get("pretrained_cfg")
    if not isinstance(cfg, Mapping) or "mean" not in cfg:
        return None
    try:
        if not 0 < len(cfg["mean"]) <= _MOST_CHANNELS or not 0 < len(cfg["std"]) <= _MOST_CHANNELS:
            raise ValueError("mean and std are lists of numbers")
        names = config.get("label_names") or cfg.get("label_names")
        if isinstance(names, Mapping):  # numbers of classes and their names, if some numbers have none
            names = None
        if not isinstance(names, list | None):
            raise ValueError("label_names is a list of names")
        limits = config.get("value_range")
        data = from_timm({**cfg, "label_names": names, "notes": None}, channels, num_classes)._replace(
            multi_label=config.get("problem_type") == SEVERAL_CLASSES,
            value_range=None if limits is None else tuple(limits),
        )
        data.check(channels, num_classes)
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        reason = str(error) if type(error) is ValueError else "a value is not of the type that timm writes"
        raise CheckpointError(f"{folder / CONFIG} says wrongly how images are prepared: {reason}") from error
    return data
