"""Compares the average of weights with mmengine's."""

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn

from ssm_train.runtime.averaging import ForeachExponentialMovingAverage


@pytest.mark.parametrize("update_buffers", [False, True])
@pytest.mark.parametrize("interval", [1, 2])
def test_average_is_that_of_mmengine(update_buffers, interval):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(5, 2).double())
    options = {"momentum": 0.1, "interval": interval, "update_buffers": update_buffers}
    actual, expected = (cls(model, **options) for cls in (ForeachExponentialMovingAverage, ExponentialMovingAverage))
    for _ in range(6):
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn_like(p)
        model[:2](torch.randn(2, 3, 4, 4) + 1)
        for average in (actual, expected):
            average.update_parameters(model)
        torch.testing.assert_close(actual.state_dict(), expected.state_dict())
    mean = actual.module[1].running_mean
    assert torch.equal(mean, model[1].running_mean) != update_buffers
    assert not torch.equal(actual.module[0].weight, model[0].weight)


def test_average_on_another_device():
    model = nn.Linear(3, 2)
    average = ForeachExponentialMovingAverage(model, momentum=0.1)
    average.module.to("meta")  # average.steps stays where it is, because its value is read
    for _ in range(3):
        average.update_parameters(model)
    assert {p.device.type for p in average.module.parameters()} == {"meta"}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
