"""Configs train with the numbers of the authors' recipes in recipes.py, or their README says why not."""

import functools
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, DefaultScope
from recipes import ARCHS, COCO_EPOCH, IMAGENET_EPOCH, RECIPES
from timm.data.random_erasing import RandomErasing
from torch import nn
from torchvision.transforms import InterpolationMode

from ssm_train.registry import TRANSFORMS
from ssm_train.runtime.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
# The name of the recipe, by config.
PLACES = {
    path.relative_to(CONFIGS).as_posix(): recipe
    for recipe, (patterns, _) in RECIPES.items()
    for pattern in patterns
    for path in sorted(CONFIGS.glob(pattern))
}
# The tolerance of rates is this wide because mmengine reaches the end of a warm-up one iteration early.
SPLITS = ("train", "val", "test")
RATES = {"rel": 2e-3, "abs": 1e-8}


@pytest.fixture(scope="module", autouse=True)
def _no_draws():
    """Skip timm's drawing of random weights. It runs slowly in Python, and meta tensors hold no values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm.layers.weight_init._trunc_normal_", lambda tensor, mean, std, a, b: tensor)
        yield


@functools.cache
def load(name: str) -> Config:
    """Load a config by its path under configs/."""
    return load_config(CONFIGS / name)


@functools.cache
def build(path: str) -> nn.Module:
    """Build the model of a config from meta tensors, which hold no values."""
    cfg = load(Path(path).relative_to(CONFIGS).as_posix())
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Default ``avg_non_ignore`` is False")
        return MODELS.build(cfg.model)


def step(cfg: Config, kind: str, loader: str = "train_dataloader") -> Config:
    """Return the step of a pipeline that has the type ``kind``."""
    return next(step for step in cfg[loader].dataset.pipeline if step.type == kind)


def sampled(cfg: Config, epoch_length: int, epochs: tuple[float, ...]) -> dict[float, float]:
    """Return the learning rates at the given epochs."""
    last = round(max(epochs) * epoch_length)
    curve = rates(json.dumps(cfg.param_scheduler), cfg.optim_wrapper.optimizer.lr, last, epoch_length)
    return {epoch: curve[round(epoch * epoch_length)] for epoch in epochs}


@functools.cache
def rates(schedule: str, peak: float, steps: int, epoch_length: int) -> list[float]:
    """Return the learning rate of every iteration, and the rate that would follow the last one."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=peak)
    given = {"optimizer": optimizer, "epoch_length": epoch_length}
    with DefaultScope.overwrite_default_scope("ssm_train"):
        parts = [PARAM_SCHEDULERS.build(part, default_args=given) for part in json.loads(schedule)]
    optimizer.step()  # schedulers ask once whether an update came before them
    (group,) = optimizer.param_groups
    curve = [group["lr"]]
    for iteration in range(1, steps + 1):
        for part in parts:
            if not part.by_epoch or iteration % epoch_length == 0:
                part.step()
        curve.append(group["lr"])
    return curve


def rate_by_epoch(cfg: Config) -> dict[float, float]:
    """Return rates in the warm-up, at the ends of the schedule's parts, between them, and at the end."""
    if cfg.default_scope == "ssm_train":
        return sampled(cfg, IMAGENET_EPOCH, (0, 5, 10, 19, 20, 60, 100, 160, 230, 290, 299.9))
    drops = cfg.param_scheduler[1].milestones
    around = (edge for drop in drops for edge in (drop - 1 / COCO_EPOCH, drop))
    return sampled(cfg, COCO_EPOCH, (0, 1, 2, 5, *around, cfg.train_cfg.max_epochs - 1))


def batch(cfg: Config) -> int:
    """Return the images or rows of an update, over all processes that the config's name states."""
    count = cfg.filename.rpartition("_8xb")[1]
    return (8 if count else 1) * cfg.train_dataloader.batch_size * cfg.optim_wrapper.get("accumulative_counts", 1)


def decaying_norms(cfg: Config) -> int:
    """Count the parameters of norms that decay."""
    model = build(cfg.filename)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    norms = (m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm))
    return sum(decay[id(parameter)] > 0 for norm in norms for parameter in norm.parameters(recurse=False))


def rate_of_the_backbone(cfg: Config) -> float:
    """Return the rate of the backbone's parameters, which is another than that of all others."""
    model = build(cfg.filename)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    (own,), (others,) = (
        {rate[id(p)] for name, p in model.named_parameters() if name.startswith("backbone.") == inside}
        for inside in (True, False)
    )
    assert others == cfg.optim_wrapper.optimizer.lr != own
    return own


def shape_of_all_images(cfg: Config) -> tuple[int, int]:
    """Return the height and width that every image has."""
    sizes = {tuple(step(cfg, "ssm_train.tasks.detection.FixedSize", f"{split}_dataloader").size) for split in SPLITS}
    (size,) = sizes
    return size


def scales(cfg: Config) -> list[tuple[int, int]]:
    """Return the sizes of training images."""
    resize = cfg.train_dataloader.dataset.pipeline[2]
    return [tuple(scale) for scale in resize.get("scales", [resize.get("scale")])]


def train_crop(cfg: Config) -> tuple[int, int]:
    """Return the training crop. The preprocessor pads to this size, and sliding windows have it."""
    crop = tuple(step(cfg, "RandomCrop").crop_size)
    assert crop == tuple(cfg.model.data_preprocessor.size) == tuple(cfg.model.test_cfg.crop_size)
    return crop


def initial_weights(cfg: Config) -> str:
    """Return the data that the initial weights were trained on. The file's name must contain the config's backbone."""
    backbone = next(part for part in Path(cfg.filename).stem.split("_") if part.startswith(("quadmamba", "mambatree")))
    return "ImageNet-1k" if cfg.load_from == f"checkpoints/{backbone}_in1k.pth" else cfg.load_from


def warm_up_updates(cfg: Config) -> int:
    """Count the updates of the weights before the full rate. The rate is constant from there on."""
    peak, length = cfg.optim_wrapper.optimizer.lr, 400
    curve = rates(json.dumps(cfg.param_scheduler), peak, length, length)
    first = next(iteration for iteration, rate in enumerate(curve) if rate == pytest.approx(peak))
    assert curve[first:] == pytest.approx([peak] * (length + 1 - first))
    return math.ceil(first / cfg.optim_wrapper.accumulative_counts)


def transforms(cfg: Config, split: str) -> list:
    """Return the transforms of a classifier's images."""
    with DefaultScope.overwrite_default_scope("ssm_train"):
        return TRANSFORMS.build(cfg[f"{split}_dataloader"].dataset.transform).transform.transforms


def interpolation(cfg: Config) -> str:
    """Return the interpolations of training and testing. There are several if they differ or one is drawn at random."""
    found = [transforms(cfg, split)[0].interpolation for split in ("train", "test")]
    modes = {InterpolationMode(mode) for one in found for mode in (one if isinstance(one, tuple) else (one,))}
    return "/".join(sorted(mode.value for mode in modes))


QUANTITIES: dict[str, Callable[[Config], Any]] = {
    "epochs": lambda cfg: cfg.train_cfg.max_epochs,
    "iterations": lambda cfg: cfg.train_cfg.max_iters,
    "batch": batch,
    "rate scales with the batch": lambda cfg: cfg.auto_scale_lr.enable and cfg.auto_scale_lr.base_batch_size,
    "optimizer": lambda cfg: cfg.optim_wrapper.optimizer.type,
    "peak rate": lambda cfg: cfg.optim_wrapper.optimizer.lr,
    "rate by epoch": rate_by_epoch,
    "rate by iteration": lambda cfg: sampled(cfg, 1, (0, 750, 1500, 40_000, 80_000, 159_000)),
    "rate of the backbone": rate_of_the_backbone,
    "last rate": lambda cfg: sampled(cfg, IMAGENET_EPOCH, (300,))[300],
    "warm-up updates": warm_up_updates,
    "betas": lambda cfg: tuple(cfg.optim_wrapper.optimizer.betas),
    "weight decay": lambda cfg: cfg.optim_wrapper.optimizer.weight_decay,
    "decaying norms": decaying_norms,
    "what does not decay": lambda cfg: dict(cfg.optim_wrapper.paramwise_cfg),
    "largest gradient": lambda cfg: cfg.optim_wrapper.clip_grad.max_norm,
    "averaging": lambda cfg: next(1 - hook.momentum for hook in cfg.custom_hooks if hook.type == "EMAHook"),
    "precision": lambda cfg: cfg.optim_wrapper.dtype,
    "label smoothing": lambda cfg: build(cfg.filename).mixup.label_smoothing,
    "mixup": lambda cfg: build(cfg.filename).mixup.mixup_alpha,
    "cutmix": lambda cfg: build(cfg.filename).mixup.cutmix_alpha,
    "share of mixed batches": lambda cfg: build(cfg.filename).mixup.mix_prob,
    "share of cutmix": lambda cfg: build(cfg.filename).mixup.switch_prob,
    "colour jitter": lambda cfg: cfg.train_dataloader.dataset.transform.color_jitter,
    "augmentation": lambda cfg: cfg.train_dataloader.dataset.transform.auto_augment,
    "random erasing": lambda cfg: next(t for t in transforms(cfg, "train") if isinstance(t, RandomErasing)).probability,
    "interpolation": interpolation,
    "image size": lambda cfg: tuple(cfg[f"{split}_dataloader"].dataset.transform.size for split in ("train", "test")),
    "test resize": lambda cfg: transforms(cfg, "test")[0].size,
    "flip": lambda cfg: step(cfg, "RandomFlip").prob,
    "padding": lambda cfg: cfg.model.data_preprocessor.pad_size_divisor,
    "train scales": scales,
    "test scale": lambda cfg: tuple(step(cfg, "Resize", "test_dataloader").scale),
    "decoder": lambda cfg: step(cfg, "ssm_train.LoadImage").type,
    "train crop": train_crop,
    "shape of all images": shape_of_all_images,
    "decode head's width": lambda cfg: cfg.model.decode_head.channels,
    "auxiliary head's width": lambda cfg: cfg.model.auxiliary_head.channels,
    "auxiliary loss": lambda cfg: cfg.model.auxiliary_head.loss_decode.loss_weight,
    "test ratios": lambda cfg: [scale.scale_factor for scale in cfg.tta_pipeline[-1].transforms[0]],
    "test flips": lambda cfg: len(cfg.tta_pipeline[-1].transforms[1]),
    "initial weights": initial_weights,
    "base model": lambda cfg: cfg.model.backbone.path,
    "tokens": lambda cfg: cfg.train_dataloader.dataset.max_length,
    "held-out rows": lambda cfg: 1 / cfg.train_dataloader.dataset.held_out_every,
    "LoRA": lambda cfg: dict(cfg.model.backbone.lora),
}


def matches(quantity: str, found: Any, expected: Any) -> bool:
    """Say whether a config has the recipe's value. A rate is expected as a function of the epoch or iteration."""
    if callable(expected):
        return all(rate == pytest.approx(expected(time), **RATES) for time, rate in found.items())
    if isinstance(expected, float):
        return found == pytest.approx(expected, abs=1e-9)
    return found == expected


@pytest.mark.parametrize("name", PLACES)
def test_numbers(name):
    cfg = load(name)
    wrong = {}
    for quantity, figure in RECIPES[PLACES[name]].figures.items():
        found = QUANTITIES[quantity](cfg)
        if not matches(quantity, found, figure.value):
            wrong[quantity] = f"{found}, and {figure.value} in {figure.source}"
    assert not wrong


@pytest.mark.parametrize("name", PLACES)
def test_departures_are_in_the_readme(name):
    readme = (CONFIGS / name).parents[1 if "ablations" in name else 0] / "README.md"
    text = readme.read_text()
    if "../quadmamba/README.md#where" in text:
        text += (CONFIGS / "quadmamba" / "README.md").read_text()
    words = " ".join(text.split())
    for figure in RECIPES[PLACES[name]].figures.values():
        assert figure.departure in words


def test_every_recipe_has_configs_and_every_quantity_is_used():
    assert set(PLACES.values()) == set(RECIPES)
    assert {quantity for recipe in RECIPES.values() for quantity in recipe.figures} == set(QUANTITIES)
    patterns = ("*/*_in1k.py", "*/ablations/*_in1k.py", "*/*_coco*.py", "*/*_ade20k-*.py", "*/*_cityscapes-*.py")
    assert {path.relative_to(CONFIGS).as_posix() for pattern in patterns for path in CONFIGS.glob(pattern)} | {
        "mambatree_l/mamba-130m-lora_alpaca.py",
        "mambatree_l/mambatree-l-130m_alpaca.py",
    } == set(PLACES)


@pytest.mark.parametrize("path", sorted([*CONFIGS.glob("*/*_in1k.py"), *CONFIGS.glob("*/*_image-folder.py")]))
def test_the_device_augments_in_every_recipe_for_photographs(path):
    transform = load(path.relative_to(CONFIGS).as_posix()).train_dataloader.dataset.transform
    with DefaultScope.overwrite_default_scope("ssm_train"):
        drawing = TRANSFORMS.build(transform).drawing
    assert drawing.policy.num_layers == 2
    assert drawing.erasing.probability == 0.25


@pytest.mark.parametrize("arch", ARCHS)
def test_archs(arch):
    model = build(str(CONFIGS / arch.split("-")[0] / f"{arch}_8xb128_in1k.py"))
    millions, drop_path = ARCHS[arch]
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 3) == millions
    assert model.backbone.stages[-1].blocks[-1].drop_path.drop_prob == pytest.approx(drop_path)
