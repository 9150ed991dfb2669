"""Test-time augmentation of classifiers: the mean of the probabilities for several views of an image."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel

from ssm_train.registry import MODELS


@MODELS.register_module()
class AugmentedClassifier(BaseTTAModel):
    """A classifier whose probabilities are the means over the views of :class:`.TestViews`.

    Args:
        module: the classifier or its config.
    """

    def test_step(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Predict for a batch whose ``inputs`` are [B, V, C, H, W]."""
        views = [self.module.test_step({**data, "inputs": view}) for view in data["inputs"].unbind(1)]
        return self.merge_preds(list(zip(*views, strict=True)))

    def merge_preds(self, data_samples_list: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Average the probabilities of every image. Its scores become logits of the means."""
        merged = []
        for views in data_samples_list:
            mean = torch.stack([view["probabilities"] for view in views]).mean(0)
            least = torch.finfo(mean.dtype).tiny
            scores = mean.logit(torch.finfo(mean.dtype).eps) if self.module.binary else mean.clamp_min(least).log()
            merged.append({**views[0], "probabilities": mean, "scores": scores})
        return merged
