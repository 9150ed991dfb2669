"""Every config loads, builds, and says what the papers say."""

import ast
import math
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from ssm_core.engine.config import load_config
from ssm_core.engine.config_check import TOP_LEVEL_KEYS
from ssm_core.registry import MODELS

CONFIGS = Path(__file__).parents[2] / "configs"
# The language models' are in test_language_configs.py.
LEAVES = sorted(
    p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.py") if not {"_base_", "mambatree_l"} & set(p.parts)
)
ABLATIONS = [name for name in LEAVES if "/ablations/" in name]
# Million parameters, resize ratio at test time, drop path.
IMAGENET = {
    "quadmamba/quadmamba-lite": (5.470, 0.875, 0.1),
    "quadmamba/quadmamba-tiny": (10.323, 0.875, 0.1),
    "quadmamba/quadmamba-small": (31.252, 0.875, 0.2),
    "quadmamba/quadmamba-base": (50.694, 0.875, 0.3),
    "mambatree/mambatree-tiny": (29.959, 1.0, 0.1),
    "mambatree/mambatree-small": (51.332, 1.0, 0.3),
    "mambatree/mambatree-base": (90.597, 1.0, 0.5),
}


@pytest.fixture(scope="module", autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("ssm_core"):
        yield


def build(cfg):
    with torch.device("meta"):
        return MODELS.build(cfg.model)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", LEAVES)
def test_loads_and_builds(name):
    cfg = load_config(CONFIGS / name)
    model = build(cfg)
    classes = 1000 if cfg.train_dataloader.dataset.type in ("ImageNet", "SyntheticImages") else 10
    assert model.num_classes == classes
    for part in ("train", "val", "test"):
        assert f"{part}_dataloader" in cfg
        assert f"{part}_cfg" in cfg
    own = {key for key in cfg if key not in TOP_LEVEL_KEYS}
    assert own <= {"max_epochs", "warmup", "data_root", "num_classes"}
    assert cfg.val_dataloader == cfg.test_dataloader


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_recipe(name):
    millions, crop, drop_path = IMAGENET[name]
    cfg = load_config(CONFIGS / f"{name}_8xb128_in1k.py")
    model = build(cfg)
    assert round(parameters(model) / 1e6, 3) == millions
    assert model.backbone.stages[-1].blocks[-1].drop_path.drop_prob == pytest.approx(drop_path)
    assert (model.mixup.mixup_alpha, model.mixup.cutmix_alpha, model.mixup.label_smoothing) == (0.8, 1.0, 0.1)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.betas, optimizer.weight_decay) == (
        "AdamW",
        1e-3,
        (0.9, 0.999),
        0.05,
    )
    assert cfg.optim_wrapper.clip_grad.max_norm == 5.0
    assert cfg.auto_scale_lr == dict(base_batch_size=8 * cfg.train_dataloader.batch_size, enable=True)
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.custom_hooks[0].type == "EMAHook"
    assert cfg.custom_hooks[0].momentum == pytest.approx(1 - 0.9999)
    train, test = cfg.train_dataloader.dataset.transform, cfg.test_dataloader.dataset.transform
    assert (train.auto_augment, train.random_erasing, train.color_jitter) == ("rand-m9-mstd0.5-inc1", 0.25, 0.4)
    assert (train.size, test.size, test.crop_ratio) == (224, 224, crop)


def learning_rates(name, epoch_length):
    cfg = load_config(CONFIGS / name)
    weight = torch.nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.AdamW([weight], lr=cfg.optim_wrapper.optimizer.lr))
    schedulers = [
        PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=wrapper, epoch_length=epoch_length))
        for s in cfg.param_scheduler
    ]
    rates = []
    for _ in range(cfg.train_cfg.max_epochs * epoch_length):
        rates.append(wrapper.get_lr()["lr"][0])
        wrapper.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates, wrapper.get_lr()["lr"][0]


def test_quadmamba_schedule():
    # 20 epochs of warm-up, then a cosine over 280 down to a hundredth.
    rates, last = learning_rates("quadmamba/quadmamba-small_8xb128_in1k.py", 5)
    assert rates[0] == pytest.approx(1e-6)
    assert rates[50] == pytest.approx(1e-3 * (0.001 + 0.999 * 50 / 99))
    assert max(rates) == pytest.approx(1e-3)
    for step in (100, 300, 800, 1499):
        expected = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * (step - 100) / 1400)) / 2
        assert rates[step] == pytest.approx(expected, rel=2e-3)
    assert last == pytest.approx(1e-5, rel=1e-2)


def test_mambatree_schedule():
    # One cosine over all 300 epochs; the warm-up multiplies its first 20.
    rates, last = learning_rates("mambatree/mambatree-tiny_8xb128_in1k.py", 5)
    assert rates[0] == pytest.approx(1e-6)
    for step in (100, 300, 800, 1499):
        assert rates[step] == pytest.approx(1e-3 * (1 + math.cos(math.pi * step / 1500)) / 2, rel=1e-6)
    assert last == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_are_overrides(name):
    tree = ast.parse((CONFIGS / name).read_text())
    assert [node.targets[0].id for node in tree.body] == ["_base_", "model"]
    assert len((CONFIGS / name).read_text().splitlines()) <= 6
    base = load_config((CONFIGS / name).parent / ast.literal_eval(tree.body[0].value))
    changed = load_config(CONFIGS / name)
    differences = {k for k, v in changed.model.backbone.items() if base.model.backbone.get(k) != v}
    assert len(differences) == 1
    assert {k: v for k, v in changed.items() if k != "model"} == {k: v for k, v in base.items() if k != "model"}


def test_small_models_are_of_one_size():
    sizes = {
        name: parameters(build(load_config(CONFIGS / name))) / 1e6
        for name in ("quadmamba/quadmamba-lite_fmnist.py", "mambatree/mambatree-lite_fmnist.py")
    }
    assert all(4.5 < size < 5.5 for size in sizes.values()), sizes


def test_no_absolute_paths():
    for path in CONFIGS.rglob("*.py"):
        assert not [n.value for n in ast.walk(ast.parse(path.read_text())) if _is_absolute(n)], path


def _is_absolute(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/")
