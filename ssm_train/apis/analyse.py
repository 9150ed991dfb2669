"""What a model costs: parameters, operations, activations and samples a second, for all tasks and any timm model."""

import contextlib
import time
from typing import NamedTuple

import timm
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ssm_core import _ext
from ssm_core.errors import ConfigError, UserError, nearest
from ssm_core.flops import FlopCount, activation_bytes, count_pass
from ssm_train.tasks import task_of
from ssm_train.tasks.base import Size, Task

_WARM_UP = 3  # batches


class Cost(NamedTuple):
    """What one image, or one row of tokens, costs.

    Attributes:
        parameters: of the model, auxiliary heads included.
        flops: of what runs at test time; a multiply-add counts once.
        activations: bytes kept for the backward pass through what is counted, for each image more in a batch.
    """

    parameters: int
    flops: FlopCount
    activations: int


class Throughput(NamedTuple):
    """How fast a model is.

    Attributes:
        per_second: images or rows a second, the median over the batches.
        peak_memory: bytes that were allocated at most; 0 where the device does not tell.
    """

    per_second: float
    peak_memory: int


class _Plain(nn.Module):
    """A task's model as a function of its inputs alone, see :meth:`Task.measure`."""

    def __init__(self, task: Task, model: nn.Module):
        super().__init__()
        self.task = task
        self.model = model

    def forward(self, inputs: Tensor) -> None:
        self.task.measure(self.model, inputs)


def timm_config(name: str) -> Config:
    """The config of a classifier that is a model of timm, as timm builds it: its channels and its size of images.

    Args:
        name: timm's name of it, such as ``"swin_tiny_patch4_window7_224"``.

    Raises:
        ConfigError: timm has no such model.
    """
    if not timm.is_model(name):
        raise ConfigError(
            f"there is no model {name!r} in timm{nearest(name, timm.list_models())}, and a config is a file *.py"
        )
    known = timm.get_pretrained_cfg(name).to_dict()
    channels, *size = known["input_size"]
    backbone = {"type": "timm", "name": name, "in_chans": channels, "num_classes": known["num_classes"] or 0}
    model = {"type": "ImageClassifier", "data_preprocessor": None, "backbone": backbone}
    return Config({"default_scope": "ssm_train", "model": model, "image_size": tuple(size)})


def default_size(cfg: Config) -> Size:
    """The size that a task's figures are usually given for, or that the config's data has."""
    return task_of(cfg).default_size()


def count_cost(cfg: Config, size: Size, dtype: torch.dtype = torch.float32) -> Cost:
    """Parameters of a config's model; operations and activations of one image of a size, or of one row of tokens.

    Counted without weights or data, by the conventions of :func:`~ssm_core.flops.count_pass`; language models and
    timm's by a pass over random inputs. Two-stage detectors are counted with 1,000 proposals and 100 masks.

    Args:
        cfg: the config.
        size: height and width, or the number of tokens.
        dtype: of matrix products and convolutions, which decides what the activations take; other than float32 under
            autocast.

    Raises:
        ConfigError: the model cannot be built, or the size is not one.
        UserError: the compiled library is missing, by whose operators scans and trees are counted.
    """
    task = task_of(cfg)
    # Tensors without contents: nothing is computed, and the memory of a large model is not needed.
    with contextlib.nullcontext() if task.needs_values else FakeTensorMode():
        model = task.build()
        if not _ext.load() and task.has_scans(model):
            raise UserError("scans and trees are counted by the compiled library's operators: run `make setup`")
        parameters = sum(parameter.numel() for parameter in model.parameters())
        plain = _Plain(task, model)
        flops = count_pass(plain, task.example_input(size, batch=1))
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            # The difference is without what a batch has once, such as the weights that autocast casts.
            one, two = (activation_bytes(plain, task.example_input(size, batch)) for batch in (1, 2))
        return Cost(parameters, flops, two - one)


def measure_throughput(
    cfg: Config,
    size: Size,
    batch: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    batches: int = 20,
) -> Throughput:
    """Time the test-time forward pass of a config's model on random images or tokens that lie on the device.

    Args:
        cfg: the config.
        size: height and width, or the number of tokens.
        batch: images or rows at a time.
        device: where.
        dtype: of matrix products and convolutions; other than float32 runs under autocast.
        batches: how many are timed, after three that are not.
    """
    device = torch.device(device)
    task = task_of(cfg)
    model = _Plain(task, task.build().to(device))
    inputs = task.example_input(size, batch, device)
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    with autocast, torch.inference_mode():
        for _ in range(_WARM_UP + batches):
            start = time.perf_counter()
            model(inputs)
            if gpu:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    median = sorted(times[_WARM_UP:])[batches // 2]
    return Throughput(batch / median, torch.cuda.max_memory_allocated(device) if gpu else 0)
