"""What a model costs: parameters, operations, activations and samples a second, for all tasks and any timm model."""

import contextlib
import time
from typing import NamedTuple

import timm
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ssm_core import _ext
from ssm_core.errors import ConfigError, UserError, nearest
from ssm_core.flops import FlopCount, activation_bytes, count_pass
from ssm_core.layers import ScanMixer
from ssm_train.runtime.runner import building_from_config

# What mmdet's own count assumes of a two-stage detector.
PROPOSALS, MASKS = 1000, 100
_WARM_UP = 3  # batches
# Height and width of an image, or the number of tokens of a row.
Size = tuple[int, ...]


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
    """A model as a function of images or tokens alone: all that runs at test time but choosing boxes and resizing."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self,
        inputs: Tensor,  # [B, C, H, W], or [B, L] tokens
    ) -> None:
        if hasattr(self.model, "roi_head"):
            self._detect(inputs)
        elif inputs.dim() == 2:
            # The first half of a row is its prompt.
            context = torch.full(inputs.shape[:1], inputs.shape[1] // 2, device=inputs.device)
            samples = {"attention_mask": torch.ones_like(inputs), "context_len": context}
            self.model(inputs, samples, mode="tensor")
        else:
            self.model(inputs, mode="tensor")

    def _detect(self, images: Tensor) -> None:
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
                stage_head(images.new_zeros(count * len(images), stage_extractor.out_channels, *size))


def build_model(cfg: Config) -> nn.Module:
    """The model of a config, to be tested.

    Raises:
        ConfigError: the config has none, or it cannot be built.
    """
    if "model" not in cfg:
        raise ConfigError("the config has no model")
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope", "ssm_train")), building_from_config():
        return revert_sync_batchnorm(MODELS.build(cfg.model)).eval()


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
    """Height and width that a task's figures are usually given for, or that the config's data has; tokens of a row."""
    if "image_size" in cfg:
        return tuple(cfg.image_size)
    dataset = (cfg.get("test_dataloader") or {}).get("dataset", {})
    if is_language(cfg):
        return (dataset.get("max_length", dataset.get("length", 1024)),)
    size = (cfg.model.get("data_preprocessor") or {}).get("size")
    if size is not None:
        return tuple(size)
    transform = dataset.get("transform")
    if transform is not None:
        return (transform.size, transform.size)
    scale = next((step.scale for step in dataset.get("pipeline", ()) if "scale" in step), (224, 224))
    # COCO's test images are 800 × 1333 at most; figures are given for 800 × 1280.
    return (800, 1280) if tuple(scale) == (1333, 800) else tuple(reversed(scale))


def is_language(cfg: Config) -> bool:
    """Whether a config's model takes rows of tokens."""
    return cfg.get("model", {}).get("type") == "LanguageModel"


def example(
    cfg: Config, size: Size, batch: int, device: torch.device | str = "cpu"
) -> Tensor:  # [B, C, H, W], or [B, L] tokens
    """Random images of the channels that a config's model takes, or rows of random tokens.

    Raises:
        ConfigError: the size has not the one or two numbers that the model's inputs have.
    """
    if len(size) != (1 if is_language(cfg) else 2) or min(size) < 1:
        wanted = "a number of tokens" if is_language(cfg) else "a height and a width"
        raise ConfigError(f"--size takes {wanted} for this model, got {' '.join(map(str, size))}")
    if is_language(cfg):
        return torch.randint(2, 100, (batch, *size), device=device)
    return torch.randn(batch, cfg.model.backbone.get("in_chans", 3), *size, device=device)


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
    # Tensors without contents: nothing is computed, and the memory of a large model is not needed. Trees of tokens
    # depend on the tokens, though, and some of timm's models look at values while they are built.
    contents = is_language(cfg) or ("model" in cfg and cfg.model.backbone.type == "timm")
    with contextlib.nullcontext() if contents else FakeTensorMode():
        model = build_model(cfg)
        if not _ext.load() and (is_language(cfg) or any(isinstance(m, ScanMixer) for m in model.modules())):
            raise UserError("scans and trees are counted by the compiled library's operators: run `make setup`")
        parameters = sum(parameter.numel() for parameter in model.parameters())
        plain = _Plain(model)
        flops = count_pass(plain, example(cfg, size, batch=1))
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            # The difference is without what a batch has once, such as the weights that autocast casts.
            one, two = (activation_bytes(plain, example(cfg, size, batch)) for batch in (1, 2))
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
    model = _Plain(build_model(cfg).to(device))
    inputs = example(cfg, size, batch, device)
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
