"""What a config's model costs: parameters, operations and images a second, for all three tasks."""

import time
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ssm_core.engine.errors import ConfigError
from ssm_core.engine.runner import building_from_config
from ssm_core.flops import FlopCount, count_flops

# What mmdet's own count assumes of a two-stage detector.
PROPOSALS, MASKS = 1000, 100
_WARM_UP = 3  # batches


class Cost(NamedTuple):
    """What one image costs.

    Attributes:
        parameters: of the model, auxiliary heads included.
        flops: of what runs at test time; a multiply-add counts once.
    """

    parameters: int
    flops: FlopCount


class Throughput(NamedTuple):
    """How fast a model is.

    Attributes:
        images_per_second: the median over the batches.
        peak_memory: bytes that were allocated at most; 0 where the device does not tell.
    """

    images_per_second: float
    peak_memory: int


class _Plain(nn.Module):
    """A model as a function of images alone: all that runs at test time but for the choice of boxes and resizing."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> None:
        if not hasattr(self.model, "roi_head"):
            self.model(images, mode="tensor")
            return
        maps = self.model.extract_feat(images)
        self.model.rpn_head(maps)
        heads = self.model.roi_head
        # Which level a box is taken from depends on the box, but the size of what is taken does not.
        for extractor, head, count in (
            (heads.bbox_roi_extractor, heads.bbox_head, PROPOSALS),
            (heads.mask_roi_extractor, heads.mask_head, MASKS),
        ):
            stages = zip(extractor, head, strict=True) if isinstance(head, nn.ModuleList) else ((extractor, head),)
            for stage_extractor, stage_head in stages:
                size = stage_extractor.roi_layers[0].output_size
                stage_head(images.new_zeros(count, stage_extractor.out_channels, *size))


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, to be tested.

    Raises:
        ConfigError: the config has none, or it cannot be built.
    """
    if "model" not in cfg:
        raise ConfigError("the config has no model")
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "ssm_core")), building_from_config():
        return revert_sync_batchnorm(MODELS.build(cfg.model)).eval()


def default_size(cfg: Config) -> tuple[int, int]:
    """Height and width that a task's figures are usually given for, or that the config's data has."""
    size = cfg.model.get("data_preprocessor", {}).get("size")
    if size is not None:
        return tuple(size)
    transform = cfg.get("test_dataloader", {}).get("dataset", {}).get("transform")
    if transform is not None:
        return (transform.size, transform.size)
    steps = cfg.get("test_dataloader", {}).get("dataset", {}).get("pipeline", ())
    scale = next((step.scale for step in steps if "scale" in step), (224, 224))
    # COCO's test images are 800 × 1333 at most; figures are given for 800 × 1280.
    return (800, 1280) if tuple(scale) == (1333, 800) else tuple(reversed(scale))


def count_cost(cfg: Config, size: tuple[int, int]) -> Cost:
    """Parameters of a config's model, and operations for one image of a size (height, width).

    Counted without weights or data, by the conventions of :func:`~ssm_core.flops.count_flops`. Two-stage detectors are
    counted with 1,000 proposals and 100 masks.
    """
    # Tensors without contents: nothing is computed, and the memory of a large model is not needed.
    with FakeTensorMode():
        model = build_model(cfg)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return Cost(parameters, count_flops(_Plain(model), size, cfg.model.backbone.get("in_chans", 3)))


def measure_throughput(
    cfg: Config,
    size: tuple[int, int],
    batch: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    batches: int = 20,
) -> Throughput:
    """Time the test-time forward pass of a config's model on random images that lie on the device.

    Args:
        cfg: the config.
        size: height and width.
        batch: images at a time.
        device: where.
        dtype: of matrix products and convolutions; other than float32 runs under autocast.
        batches: how many are timed, after three that are not.
    """
    device = torch.device(device)
    model = _Plain(build_model(cfg).to(device))
    images = torch.randn(batch, cfg.model.backbone.get("in_chans", 3), *size, device=device)
    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    with autocast, torch.inference_mode():
        for _ in range(_WARM_UP + batches):
            start = time.perf_counter()
            model(images)
            if gpu:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
    median = sorted(times[_WARM_UP:])[batches // 2]
    return Throughput(batch / median, torch.cuda.max_memory_allocated(device) if gpu else 0)
