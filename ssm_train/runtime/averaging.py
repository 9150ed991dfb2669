"""The averaged weights that are tested and published in place of the last ones."""

import torch
from mmengine.model import ExponentialMovingAverage
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssm_train.registry import MODELS


@MODELS.register_module()
class ForeachExponentialMovingAverage(ExponentialMovingAverage):
    """mmengine's average of weights for its ``EMAHook``, updated by a few launches on the GPU instead of one a tensor.

    A small network has hundreds of tensors and a training step of a few milliseconds, of which mmengine's loop over
    them takes a large part. Arguments are mmengine's; ``update_buffers=True`` averages buffers too, others are copied.
    """

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Average in what ``model`` has now; the first time, copy it."""
        averaged = _tensors(self.module)
        # The average may be kept on another device; where it is not, this moves nothing.
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
