"""Averages of the weights over training, which are tested and published in place of the last weights."""

import torch
from mmengine.model import ExponentialMovingAverage
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssm_train.registry import MODELS
from ssm_train.runtime.tensor_slots import TensorSlots


@MODELS.register_module()
class ForeachExponentialMovingAverage(ExponentialMovingAverage):
    """mmengine's exponential moving average for its ``EMAHook``, with a few kernel launches instead of one a tensor.

    A small network has hundreds of tensors, and its training step takes a few milliseconds. mmengine's loop over the
    tensors would take a large part of that. The arguments are mmengine's. ``update_buffers=True`` averages the buffers
    too; otherwise the buffers are copied.
    """

    _lists: "_Lists | None" = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Add the current weights of ``model`` to the average; the first call copies them."""
        if self._lists is None or self._lists.model is not model:
            self._lists = _Lists(self.module, model, self.update_buffers)
        steps = int(self.steps.cpu().numpy())  # it is on the host, unless the average was given a device
        if steps == 0:
            torch._foreach_copy_(*self._lists.everything())
        elif steps % self.interval == 0:
            get_ema_multi_avg_fn(1 - self.momentum)(*self._lists.averaged(), steps)
        if not self.update_buffers and self._lists.has_buffers:
            torch._foreach_copy_(*self._lists.copied())
        self.steps += 1


class _Lists:
    """The tensors of an average and of the model, in pairs. They are found once."""

    def __init__(self, average: nn.Module, model: nn.Module, update_buffers: bool):
        self.model = model
        slots = [(TensorSlots.parameters_of(part), TensorSlots.buffers_of(part)) for part in (average, model)]
        (self._means, self._mean_buffers), (self._news, self._new_buffers) = slots
        self.has_buffers = bool(self._mean_buffers.tensors())
        parameters = len(self._means.tensors())
        everything, _ = self.everything()
        self._averaged = [
            place
            for place, mean in enumerate(everything)
            if mean.is_floating_point() and (update_buffers or place < parameters)
        ]

    def everything(self) -> tuple[list[Tensor], list[Tensor]]:
        """All tensors of the average, and those of the model."""
        means = self._means.tensors() + self._mean_buffers.tensors()
        return means, _beside(means, self._news.tensors() + self._new_buffers.tensors())

    def averaged(self) -> tuple[list[Tensor], list[Tensor]]:
        """The tensors that are averaged."""
        means, news = self.everything()
        return [means[place] for place in self._averaged], [news[place] for place in self._averaged]

    def copied(self) -> tuple[list[Tensor], list[Tensor]]:
        """The buffers."""
        means = self._mean_buffers.tensors()
        return means, _beside(means, self._new_buffers.tensors())


def _beside(means: list[Tensor], news: list[Tensor]) -> list[Tensor]:
    """The new tensors on the devices of the average, which may be on another one."""
    if len(means) != len(news):
        raise ValueError(f"the average has {len(means)} tensors, and the model has {len(news)}")
    if {mean.device for mean in means} == {new.device for new in news} and len({new.device for new in news}) == 1:
        return news
    return [new.to(mean.device) for mean, new in zip(means, news, strict=True)]
