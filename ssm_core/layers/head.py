"""The classifier that ends a backbone."""

from typing import Literal

import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

GlobalPool = Literal["avg", ""]


class ClassifierHead(nn.Module):
    """Any last transform of the features → global average pool → dropout → Linear.

    Args:
        transform: the last transform of the map, channels-last to channels-last.
        num_features: channels it leaves.
        num_classes: number of classes; 0 leaves the pooled features.
        drop_rate: dropout before the classifier.
        global_pool: ``"avg"``, or ``""`` to leave the map as it is (timm's convention; only without classifier).

    Raises:
        ValueError: a classifier was asked for without a pool.
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
        """Replace the classifier by a new one; the rest of the head stays.

        Args:
            num_classes: number of classes; 0 for none.
            global_pool: a new pool; the present one if left out.

        Raises:
            ValueError: a classifier was asked for without a pool, or the pool is unknown.
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
        """Logits ``[B, classes]``, or with ``pre_logits`` what the classifier would have read."""
        x = self.transform(x)
        if self.global_pool:
            x = x.mean((1, 2))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)
