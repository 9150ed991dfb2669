"""What preprocessors of mmengine's kind need to take images of any number of channels."""

from collections.abc import Sequence
from typing import Any

import torch

from ssm_core.errors import ConfigError

_MMENGINES = (0, 1, 3)  # numbers of means that mmengine takes


class AnyChannels:
    """A base class to put before a preprocessor of mmengine's kind, which takes one or three means only.

    Args:
        mean: mean of every channel, for values from 0 to 255; None to leave images as they are.
        std: standard deviation of every channel.
        settings: the other arguments of the preprocessor.

    Raises:
        ConfigError: there are not as many means as standard deviations.
    """

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, **settings: Any):
        count = len(mean or ())
        if count != len(std or ()):
            raise ConfigError(f"data_preprocessor has {count} means and {len(std or ())} standard deviations")
        if count in _MMENGINES:
            super().__init__(mean=mean, std=std, **settings)
            return
        super().__init__(mean=mean[:1], std=std[:1], **settings)
        for name, values in (("mean", mean), ("std", std)):
            setattr(self, name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1))
