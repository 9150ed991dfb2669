"""What a model costs: parameters, operations, activations and samples a second, for all tasks and any timm model."""

import contextlib
import statistics
from collections.abc import Iterator
from typing import NamedTuple

import timm
import torch
from mmengine.config import Config
from torch import Tensor, nn

# Once they are imported, timm knows the models of both families.
import quadtree_ssm  # noqa: F401
import tree_ssm  # noqa: F401
from ssm_core import _ext
from ssm_core.errors import ConfigError, UserError, nearest
from ssm_core.flops import FlopCount, activation_bytes, count_pass, without_values
from ssm_core.timing import timed
from ssm_train.apis.devices import usable_device
from ssm_train.runtime.config import apply_options, load_config
from ssm_train.runtime.config_files import is_config
from ssm_train.tasks import task_of
from ssm_train.tasks.base import Size, Task

_WARM_UP = 3  # batches


class Cost(NamedTuple):
    """What one image, or one row of tokens, costs.

    Attributes:
        parameters: of the model, with its auxiliary heads.
        flops: operations of what runs at test time; a multiply-add counts once.
        activations: bytes that each further image of a batch keeps for the backward pass through what is counted.
    """

    parameters: int
    flops: FlopCount
    activations: int


class Throughput(NamedTuple):
    """How fast a model is.

    Attributes:
        per_second: images or rows a second, the median over the batches.
        peak_memory: bytes that were allocated at most; 0 on devices that do not tell.
    """

    per_second: float
    peak_memory: int


class Timing(NamedTuple):
    """How a model is timed.

    Attributes:
        batch: images or rows in a batch.
        batches: how many batches are timed.
        device: where the model runs; a GPU by default, if there is one.
    """

    batch: int
    batches: int = 20
    device: torch.device | str | None = None


class _Plain(nn.Module):
    """A task's model as a function of its inputs alone, see :meth:`Task.measure`."""

    def __init__(self, task: Task, model: nn.Module):
        super().__init__()
        self.task = task
        self.model = model

    def forward(self, inputs: Tensor) -> None:
        self.task.measure(self.model, inputs)


def open_config(source: str, options: list[str] | None = None) -> Config:
    """The config that a command line names.

    Args:
        source: a config file (``.py``), the name of one that comes with the package, or timm's name of a model.
        options: ``KEY=VALUE`` for what is changed in the config.

    Raises:
        ConfigError: the config or an option is wrong, or timm has no such model.
        MissingPackageError: a package that the config needs is not installed.
    """
    if is_config(source):
        return load_config(source, options)
    cfg = timm_config(source)
    apply_options(cfg, options or [])
    return cfg


def cost_lines(
    cfg: Config, size: Size | None = None, half: bool = False, timing: Timing | None = None
) -> Iterator[str]:
    """What a config's model costs, in lines for a user to read.

    Args:
        cfg: the config.
        size: height and width, or the number of tokens; :func:`default_size` if left out.
        half: whether activations and times are those in bfloat16; in float32 otherwise.
        timing: how inference is timed; not at all if left out.

    Yields:
        The lines. Those with measured figures are measured when they are asked for.

    Raises:
        ConfigError: the model cannot be built, or the size does not fit its task.
        UserError: the compiled library is missing.
    """
    task = task_of(cfg)
    size = size or task.default_size()
    dtype = torch.bfloat16 if half else torch.float32
    cost, unit = count_cost(cfg, size, dtype), task.unit
    total, scans, trees = (n / 1e9 for n in (cost.flops.total, cost.flops.scans, cost.flops.trees))
    yield f"parameters  {cost.parameters / 1e6:.3f} M"
    yield f"operations  {total:.3f} GFLOPs for one {unit} of {task.describe(size)}, multiply-adds once"
    yield f"of which    {scans:.3f} GFLOPs in scans, {trees:.3f} in growing spanning trees"
    yield f"activations {cost.activations / 2**20:.1f} MiB kept of each {unit} for the backward pass, in {dtype}"
    if timing is not None:
        device = usable_device(timing.device)
        speed = measure_throughput(cfg, size, timing.batch, device, dtype, timing.batches)
        yield f"inference   {speed.per_second:.1f} {unit}s a second in batches of {timing.batch} on {device}"
        if speed.peak_memory:
            yield f"memory      {speed.peak_memory / 2**30:.2f} GiB at most"


def timm_config(name: str) -> Config:
    """The config of a classifier that is a model of timm: with the channels and the size of images of timm's own.

    Args:
        name: timm's name of it, such as ``"swin_tiny_patch4_window7_224"``.

    Raises:
        ConfigError: timm has no such model.
    """
    if not timm.is_model(name):
        raise ConfigError(f"there is no model {name!r} in timm{nearest(name, timm.list_models())}, and no such config")
    known = timm.get_pretrained_cfg(name).to_dict()
    channels, *size = known["input_size"]
    backbone = {"type": "timm", "name": name, "in_chans": channels, "num_classes": known["num_classes"] or 0}
    model = {"type": "ImageClassifier", "data_preprocessor": None, "backbone": backbone}
    return Config({"default_scope": "ssm_train", "model": model, "image_size": tuple(size)})


def default_size(cfg: Config) -> Size:
    """The size that a task's figures are usually given for, or that the config's data has."""
    return task_of(cfg).default_size()


def count_cost(cfg: Config, size: Size, dtype: torch.dtype = torch.float32) -> Cost:
    """Count the parameters of a config's model, and the operations and activations of one image or row of tokens.

    The conventions are those of :func:`~ssm_core.flops.count_pass`. Nothing is computed, unless the model looks at
    values: language models and timm's are counted in a pass over random inputs. Two-stage detectors are counted with
    1,000 proposals and 100 masks.

    Args:
        cfg: the config.
        size: height and width, or the number of tokens.
        dtype: of matrix products and convolutions, which decides how large the activations are. The model runs under
            autocast if it is not float32.

    Raises:
        ConfigError: the model cannot be built, or the size does not fit its task.
        UserError: the compiled library is missing, whose operators the scans and trees are counted by.
    """
    task = task_of(cfg)
    with contextlib.nullcontext() if task.needs_values else without_values():
        model = task.build()
        if not _ext.load() and task.has_scans(model):
            raise UserError(f"scans and trees are counted by the compiled library's operators: {_ext.HOW_TO_BUILD}")
        parameters = sum(parameter.numel() for parameter in model.parameters())
        plain = _Plain(task, model)
        flops = count_pass(plain, task.example_input(size, batch=1))
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            # The difference leaves out what every batch has once, such as the weights that autocast casts.
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
    """Time the test-time forward pass of a config's model on random images or tokens that are on the device already.

    Args:
        cfg: the config.
        size: height and width, or the number of tokens.
        batch: images or rows at a time.
        device: where the model runs.
        dtype: of matrix products and convolutions. The model runs under autocast if it is not float32.
        batches: how many batches are timed, after three for warming up.

    Raises:
        ConfigError: the model cannot be built, or the size does not fit its task.
    """
    device = torch.device(device)
    task = task_of(cfg)
    model = _Plain(task, task.build().to(device))
    inputs = task.example_input(size, batch, device)
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    with autocast, torch.inference_mode():
        times = [timed(lambda: model(inputs), device) for _ in range(_WARM_UP + batches)]
    seconds = statistics.median(times[_WARM_UP:]) / 1e3
    return Throughput(batch / seconds, torch.cuda.max_memory_allocated(device) if gpu else 0)
