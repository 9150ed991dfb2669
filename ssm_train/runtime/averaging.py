"""Averages of the weights over training, which are tested and published in place of the last weights."""

import torch
from mmengine.model import ExponentialMovingAverage
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssm_train.registry import MODELS


@MODELS.register_module()
class ForeachExponentialMovingAverage(ExponentialMovingAverage):
    """mmengine's exponential moving average for its ``EMAHook``, with a few kernel launches instead of one a tensor.

    A small network has hundreds of tensors, and its training step takes a few milliseconds. mmengine's loop over the
    tensors would take a large part of that. The arguments are mmengine's. ``update_buffers=True`` averages the buffers
    too; otherwise the buffers are copied.
    """

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Add the current weights of ``model`` to the average; the first call copies them."""
        averaged = _tensors(self.module)
        # The average may be on another device. If it is on the same one, ``to`` copies nothing.
        current = [new.to(mean.device) for mean, new in zip(averaged, _tensors(model), strict=True)]
        if self.steps == 0:
            torch._foreach_copy_(averaged, current)
        elif self.steps % self.interval == 0:
            pairs = [
                (mean, new)
                for mean, new in zip(averaged, current, strict=True)
                if mean.is_floating_point() and (self.update_buffers or isinstance(mean, nn.Parameter))
            ]
            means, news = zip(*pairs, strict=True)
            get_ema_multi_avg_fn(1 - self.momentum)(means, news, self.steps)
        if not self.update_buffers:
            for mean, new in zip(self.module.buffers(), model.buffers(), strict=True):
                mean.copy_(new)
        self.steps += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
