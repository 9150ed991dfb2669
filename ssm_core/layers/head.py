"""The classifier at the end of a backbone."""

from typing import Literal, get_args

import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from .initial import draw_weights

# timm's names. Those that begin with "fast" are other names for the same here.
GlobalPool = Literal[
    "avg", "max", "avgmax", "catavgmax", "fast", "fastavg", "fastmax", "fastavgmax", "fastcatavgmax", ""
]


class ClassifierHead(nn.Module):
    """The head: a transform of the last map → global pool → dropout → Linear.

    Args:
        transform: the transform of the last map. It reads and returns a channels-last map.
        num_features: number of channels that the transform returns.
        num_classes: number of classes; with 0 the head returns the pooled features.
        drop_rate: dropout rate before the linear layer.
        global_pool: how the map is pooled, by timm's names: the mean (``"avg"``), the maximum (``"max"``), the mean of
            both (``"avgmax"``) or both beside each other (``"catavgmax"``). With ``""`` every token keeps its features,
            or gets its own logits.

    Raises:
        ValueError: ``global_pool`` is unknown.
    """

    def __init__(
        self,
        transform: nn.Module,
        num_features: int,
        num_classes: int,
        drop_rate: float = 0.0,
        global_pool: GlobalPool = "avg",
    ) -> None:
        super().__init__()
        self.transform = transform
        self.in_features = num_features
        self.drop_rate = drop_rate
        self.fc: nn.Module = nn.Identity()
        _check_pooling(global_pool)
        self.reset(num_classes, global_pool)

    def reset(self, num_classes: int, global_pool: GlobalPool | None = None) -> None:
        """Replace the linear layer by a new one. The rest of the head keeps its weights.

        Args:
            num_classes: number of classes; 0 for no linear layer.
            global_pool: the new pooling; None keeps the present pooling.

        Raises:
            ValueError: ``global_pool`` is unknown.
        """
        if global_pool is not None:
            _check_pooling(global_pool)
            self.global_pool = SelectAdaptivePool2d(
                pool_type=global_pool, flatten=bool(global_pool), input_fmt="NHWC"
            ).train(self.training)
        # The features that the linear layer reads. Two ways of pooling beside each other give twice as many.
        self.num_features = self.in_features * self.global_pool.feat_mult()
        old = next(self.transform.parameters())
        self.fc = nn.Identity()
        if num_classes > 0:
            self.fc = nn.Linear(self.num_features, num_classes, device=old.device, dtype=old.dtype)
            draw_weights(self.fc.weight, 0.02)
            nn.init.zeros_(self.fc.bias)
        self.fc.train(self.training)

    def forward(
        self,
        x: Tensor,  # [B, H, W, C]
        pre_logits: bool = False,
    ) -> Tensor:
        """Return the logits ``[B, classes]``, or with ``pre_logits`` the features that the linear layer reads."""
        x = self.global_pool(self.transform(x))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)


def _check_pooling(name: object) -> None:
    if name not in get_args(GlobalPool):
        known = ", ".join(map(repr, get_args(GlobalPool)))
        raise ValueError(f"global_pool must be one of {known}, got {name!r}")
