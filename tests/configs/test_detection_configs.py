"""Detection configs build, and their norms decay as intended. test_recipes.py tests the recipes' numbers."""

import itertools
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from recipes import ARCHS
from torch import nn

from ssm_core.errors import MissingPackageError
from ssm_train.runtime.config import load_config
from ssm_train.tasks import image_task_of

CONFIGS = Path(__file__).parents[2] / "configs"
LEAVES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*mask-rcnn*.py") if "_base_" not in p.parts)
COCO = [name for name in LEAVES if name.endswith("_coco.py")]
# Width of the last stage.
WIDTHS = {
    "quadmamba-lite": 384, "quadmamba-tiny": 512, "quadmamba-small": 768, "quadmamba-base": 768,
    "mambatree-tiny": 640, "mambatree-small": 768, "mambatree-base": 1024,
}  # fmt: skip
# A detector with three box heads, a detector with one box head, and all light detectors.
BUILT = [COCO[0], COCO[-1], *(name for name in LEAVES if name not in COCO)]


def backbone_parameters(variant):
    """Return the backbone's parameters in millions.

    They are the classifier's without its head. QuadMamba's backbone has a norm for every stage in addition.
    """
    (millions, _), width = ARCHS[variant], WIDTHS[variant]
    if "quadmamba" in variant:
        stages = sum(width // 2**i for i in range(4))
        return millions - (2 * width + 1001 * width - width + 1000 - 2 * stages) / 1e6
    hidden = width * 3 // 2
    return millions - (width * hidden + 2 * hidden + 1000 * hidden + 1000) / 1e6


@pytest.fixture(scope="module", autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def build(cfg):
    from mmdet.registry import MODELS

    with torch.device("meta"):
        return MODELS.build(cfg.model)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_every_variant_has_every_schedule():
    expected = {
        f"{name.split('-')[0]}/mask-rcnn_{name}_fpn_8xb2-{schedule}_coco.py"
        for name in WIDTHS
        for schedule in ("1x", "3x-ms")
    }
    expected |= {
        "quadmamba/cascade-mask-rcnn_quadmamba-small_fpn_8xb2-1x_coco.py",
        "mambatree/cascade-mask-rcnn_mambatree-tiny_fpn_8xb2-1x_coco.py",
    }
    assert set(COCO) == expected


@pytest.mark.parametrize("name", BUILT)
def test_builds(name):
    cfg = load_config(CONFIGS / name)
    model = build(cfg)
    heads = image_task_of(cfg).class_counts(model)
    assert set(heads.values()) == {80 if name in COCO else 1 if "nuclei" in name else 10}
    assert len(heads) == (6 if "cascade" in name else 2)
    assert {type(e).__name__ for e in model.modules() if "RoIExtractor" in type(e).__name__} == {"Float32RoIExtractor"}
    if name in COCO:
        variant = name.split("rcnn_")[1].split("_fpn")[0]
        assert parameters(model.backbone) / 1e6 == pytest.approx(backbone_parameters(variant), abs=1e-3)


@pytest.mark.parametrize("name", [name for name in LEAVES if name not in COCO])
def test_small_recipes(name):
    cfg = load_config(CONFIGS / name)
    size = 128 if "nuclei" in name else 256
    assert f"{size}x{size}" in name
    for split in ("train", "val"):
        dataset = cfg[f"{split}_dataloader"].dataset
        assert dataset.data_root == ("data/nuclei" if "nuclei" in name else "data/composite")
        assert dataset.ann_file == f"{split}.json"
    assert "dtype" not in cfg.optim_wrapper, "half precision is --amp's to ask for: a CPU takes ten times as long"
    assert cfg.get("load_from") is None


@pytest.mark.parametrize("name", COCO)
def test_coco_settings(name):
    cfg = load_config(CONFIGS / name)
    assert (cfg.default_scope, cfg.default_hooks.checkpoint.save_best) == ("mmdet", "coco/bbox_mAP")
    assert cfg.val_dataloader == cfg.test_dataloader


def decays(model, **paramwise):
    cfg = load_config(CONFIGS / COCO[-1]).optim_wrapper
    cfg.paramwise_cfg = {**cfg.paramwise_cfg, **paramwise}
    return by_name(model, build_optim_wrapper(model, cfg), "weight_decay")


def by_name(model, wrapper, key):
    values = {id(p): group[key] for group in wrapper.optimizer.param_groups for p in group["params"]}
    assert len(values) == len(list(model.parameters()))
    return {name: values[id(p)] for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def small_detector():
    cfg = load_config(CONFIGS / "quadmamba" / "mask-rcnn_quadmamba-nano_nuclei-128x128.py")
    return build(cfg)


def test_norms_do_not_decay(small_detector):
    of_norms = {
        f"{prefix}.{name}"
        for prefix, module in small_detector.named_modules()
        if isinstance(module, nn.LayerNorm | nn.GroupNorm)
        for name, _ in module.named_parameters()
    }
    exempt = {name for name, decay in decays(small_detector).items() if decay == 0}
    assert exempt == of_norms


def test_the_authors_list_misses_some_norms(small_detector):
    exempt = {name for name, decay in decays(small_detector, norms_too=False).items() if decay == 0}
    assert "backbone.stages.0.blocks.0.norm1.weight" in exempt
    assert "backbone.stages.0.blocks.0.mixer.out_norm.bias" in exempt
    assert "backbone.out_norms.3.weight" in exempt
    for name in ("stem.norm1", "stages.1.downsample.norm", "stages.0.blocks.0.mixer.scan.predictor.norm"):
        assert f"backbone.{name}.weight" not in exempt
        assert f"backbone.{name}.weight" in dict(small_detector.named_parameters())
    assert not any(".norm" not in name and ".out_norm" not in name for name in exempt)


def test_timms_rule(small_detector):
    cfg = load_config(CONFIGS / COCO[-1], ["optim_wrapper.paramwise_cfg=none"]).optim_wrapper
    found = by_name(small_detector, build_optim_wrapper(small_detector, cfg), "weight_decay")
    for name, parameter in small_detector.named_parameters():
        scans = name.endswith((".A_log", ".D", ".dt_bias"))
        assert (found[name] == 0) == (parameter.ndim <= 1 or scans), name


def test_layer_wise_rates(small_detector):
    cfg = load_config(CONFIGS / COCO[-1], ["optim_wrapper.paramwise_cfg.layer_decay=0.5"]).optim_wrapper
    rates = by_name(small_detector, build_optim_wrapper(small_detector, cfg), "lr")
    assert {rate for name, rate in rates.items() if not name.startswith("backbone.")} == {1e-4}
    places = ("0.blocks.0", "1.blocks.0", "2.blocks.0", "2.blocks.1", "3.blocks.0")
    blocks = [rates[f"backbone.stages.{place}.mlp.fc1.weight"] for place in places]
    assert all(a < b for a, b in itertools.pairwise(blocks))
    assert blocks[2] == pytest.approx(blocks[3] / 2)
    assert rates["backbone.stem.conv1.weight"] < blocks[0]


def test_without_mmdet(monkeypatch):
    from mmengine.config import Config

    def fail(path, import_custom_modules):
        raise ModuleNotFoundError("mmdet is not installed, please install mmdet manually")

    monkeypatch.setattr(Config, "fromfile", fail)
    with pytest.raises(MissingPackageError, match=r"needs mmdet, which is not installed: .*FILE.whl\[det\]"):
        load_config(CONFIGS / COCO[0])
