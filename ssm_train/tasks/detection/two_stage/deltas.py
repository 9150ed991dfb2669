"""Boxes as shifts and scales of other boxes. mmdet's coder copies its constants to the device and waits for that."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.task_modules import DeltaXYWHBBoxCoder
from torch import Tensor

from ssm_core.errors import ConfigError
from ssm_train.tasks.detection.two_stage.refusal import refuse

_LARGEST = abs(math.log(16 / 1000))  # scale of a side, as in mmdet


@dataclass(frozen=True)
class Deltas:
    """mmdet's ``DeltaXYWHBBoxCoder`` with numbers in place of tensors.

    Attributes:
        means: subtracted from the shifts and scales.
        stds: they are divided by these.
        clipped: whether decoded boxes end at the edge of the image.
    """

    means: Sequence[float]
    stds: Sequence[float]
    clipped: bool

    @classmethod
    def of(cls, coder: Any) -> "Deltas":
        """The numbers of mmdet's coder.

        Raises:
            ConfigError: the coder is another one, or has an option that is not supported.
        """
        if type(coder) is not DeltaXYWHBBoxCoder:
            raise ConfigError(f"the fast heads need DeltaXYWHBBoxCoder as bbox_coder, not {type(coder).__name__}")
        refuse({"add_ctr_clamp=True": coder.add_ctr_clamp}, "DeltaXYWHBBoxCoder")
        return cls(tuple(coder.means), tuple(coder.stds), coder.clip_border)

    def encode(
        self,
        boxes: Tensor,  # [..., 4]
        targets: Tensor,  # [..., 4]
    ) -> Tensor:  # [..., 4]
        """What turns boxes into their targets."""
        left, top, right, bottom = boxes.unbind(-1)
        to_left, to_top, to_right, to_bottom = targets.unbind(-1)
        width, height = right - left, bottom - top
        values = (
            ((to_left + to_right) - (left + right)) * 0.5 / width,
            ((to_top + to_bottom) - (top + bottom)) * 0.5 / height,
            ((to_right - to_left) / width).log(),
            ((to_bottom - to_top) / height).log(),
        )
        scaled = [(value - mean) / std for value, mean, std in zip(values, self.means, self.stds, strict=True)]
        return torch.stack(scaled, -1)

    def decode(
        self,
        boxes: Tensor,  # [B, K, 4]
        deltas: Tensor,  # [B, K, 4]
        sizes: Tensor,  # [B, 2]
    ) -> Tensor:  # [B, K, 4]
        """The boxes that deltas make of others.

        Args:
            boxes: the other boxes.
            deltas: shifts and scales.
            sizes: height and width of every image.
        """
        left, top, right, bottom = boxes.unbind(-1)
        columns = deltas.unbind(-1)
        x, y, wide, high = (d * std + mean for d, mean, std in zip(columns, self.means, self.stds, strict=True))
        width, height = right - left, bottom - top
        x, y = (left + right) * 0.5 + width * x, (top + bottom) * 0.5 + height * y
        width = width * wide.clamp(-_LARGEST, _LARGEST).exp() * 0.5
        height = height * high.clamp(-_LARGEST, _LARGEST).exp() * 0.5
        decoded = [x - width, y - height, x + width, y + height]
        if self.clipped:
            tall, broad = sizes.to(boxes.dtype)[:, :, None].unbind(1)
            decoded = [
                torch.minimum(value.clamp(min=0), limit)
                for value, limit in zip(decoded, (broad, tall, broad, tall), strict=True)
            ]
        return torch.stack(decoded, -1)
