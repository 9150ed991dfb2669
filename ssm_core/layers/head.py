"""The classifier at the end of a backbone."""

from typing import Literal

import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

GlobalPool = Literal["avg", ""]


class ClassifierHead(nn.Module):
    """The head: a transform of the last map → global average pool → dropout → Linear.

    Args:
        transform: the transform of the last map. It reads and returns a channels-last map.
        num_features: number of channels that the transform returns.
        num_classes: number of classes; with 0 the head returns the pooled features.
        drop_rate: dropout rate before the linear layer.
        global_pool: ``"avg"``, or ``""`` for no pooling (timm's convention). No pooling requires ``num_classes=0``.

    Raises:
        ValueError: there are classes but no pooling, or ``global_pool`` is unknown.
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
        self.num_features = num_features
        self.drop_rate = drop_rate
        self.global_pool = global_pool
        self.fc: nn.Module = nn.Identity()
        self.reset(num_classes, global_pool)

    def reset(self, num_classes: int, global_pool: GlobalPool | None = None) -> None:
        """Replace the linear layer by a new one. The rest of the head keeps its weights.

        Args:
            num_classes: number of classes; 0 for no linear layer.
            global_pool: the new pooling; None keeps the present pooling.

        Raises:
            ValueError: there are classes but no pooling, or ``global_pool`` is unknown.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in ("avg", ""):
            raise ValueError(f'global_pool must be "avg" or "" (no pooling), got {pool!r}')
        if num_classes > 0 and not pool:
            raise ValueError(f"a classifier of {num_classes} classes needs global_pool='avg'; '' is for num_classes=0")
        self.global_pool = pool
        old = next(self.transform.parameters())
        self.fc = nn.Identity()
        if num_classes > 0:
            self.fc = nn.Linear(self.num_features, num_classes, device=old.device, dtype=old.dtype)
            trunc_normal_(self.fc.weight, std=0.02)
            nn.init.zeros_(self.fc.bias)

    def forward(
        self,
        x: Tensor,  # [B, H, W, C]
        pre_logits: bool = False,
    ) -> Tensor:
        """Return the logits ``[B, classes]``, or with ``pre_logits`` the features that the linear layer reads."""
        x = self.transform(x)
        if self.global_pool:
            x = x.mean((1, 2))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)
