"""Every config loads, builds, and says what the papers say."""

import ast
import math
from pathlib import Path

import pytest
import torch
from command_line import load_tool
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from ssm_train.apis.analyse import default_size
from ssm_train.runtime.config import load_config
from ssm_train.runtime.config_check import TOP_LEVEL_KEYS
from ssm_train.runtime.hooks.class_count import class_counts

CONFIGS = Path(__file__).parents[2] / "configs"
model_zoo = load_tool("analysis/model_zoo")
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


# Variables of the configs themselves, and of those they inherit from mmdet and mmseg.
OWN_KEYS = {"max_epochs", "warmup", "data_root", "num_classes", "metainfo"}
INHERITED_KEYS = {
    "backbone_norm_cfg", "backend_args", "crop_size", "data_preprocessor", "dataset_type", "img_ratios", "img_scales",
    "norm_cfg", "scales", "test_pipeline", "train_pipeline", "tta_model", "tta_pipeline",
}  # fmt: skip
CLASSES = {"imagenet": 1000, "coco": 80, "nuclei": 3, "composite": 11, "ADEChallengeData2016": 150, "cityscapes": 19}


@pytest.fixture(scope="module", autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("ssm_train"):
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_draws():
    """Tensors without contents need no random numbers, which Python would draw operator by operator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm.layers.weight_init._trunc_normal_", lambda tensor, mean, std, a, b: tensor)
        yield


def build(cfg):
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        return ROOT_MODELS.build(cfg.model)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def classes_of(cfg):
    """How many classes the data of a config have; of objects, the background is none."""
    if cfg.train_dataloader.dataset.type == "SyntheticImages":
        return 1000
    root = cfg.train_dataloader.dataset.get("root", cfg.train_dataloader.dataset.get("data_root", ""))
    classes = CLASSES.get(Path(root).name, 10)
    objects = cfg.default_scope == "mmdet" and Path(root).name in ("nuclei", "composite")
    return {3: 1, 11: 10}[classes] if objects else classes


@pytest.fixture(scope="module")
def table():
    """The lines of docs/model_zoo.md by config: parameters, operations, size and schedule."""
    lines = (CONFIGS.parent / "docs" / "model_zoo.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| [")]
    return {row[0].split("](../configs/")[1].rstrip(")"): row[1:] for row in cells}


@pytest.mark.parametrize("name", LEAVES)
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")
def test_loads_and_builds(name, table):
    cfg = load_config(CONFIGS / name)
    model = build(cfg)
    assert set(class_counts(model).values()) == {classes_of(cfg)}
    for part in ("train", "val", "test"):
        assert f"{part}_dataloader" in cfg
        assert f"{part}_cfg" in cfg
    own = {key for key in cfg if key not in TOP_LEVEL_KEYS}
    assert own <= (OWN_KEYS if cfg.default_scope == "ssm_train" else OWN_KEYS | INHERITED_KEYS)
    assert cfg.val_dataloader == cfg.test_dataloader
    millions, _, size, schedule, _ = table[name]
    assert millions == f"{parameters(model) / 1e6:.3f} M"
    assert size == " × ".join(map(str, default_size(cfg)))
    assert schedule == model_zoo.describe_schedule(cfg)


def test_the_table_has_every_config(table):
    assert list(table) == [name for task in ("ssm_train", "mmdet", "mmseg") for name in LEAVES if task_of(name) == task]
    assert set(model_zoo.PUBLISHED) <= {Path(name).stem for name in LEAVES}


def task_of(name):
    kind = Path(name).name.split("_")[0]
    return {"upernet": "mmseg", "mask-rcnn": "mmdet", "cascade-mask-rcnn": "mmdet"}.get(kind, "ssm_train")


@pytest.mark.parametrize(
    "name",
    [
        "quadmamba/quadmamba-lite_8xb128_in1k.py",
        "mambatree/mask-rcnn_mambatree-nano_nuclei-128x128.py",
        "mambatree/cascade-mask-rcnn_mambatree-tiny_fpn_8xb2-1x_coco.py",
        "quadmamba/upernet_quadmamba-lite_8xb2-160k_ade20k-512x512.py",
    ],
)
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")
def test_operations_in_the_table(name, table):
    row = model_zoo.row_of(CONFIGS / name)
    assert [f"{row.parameters / 1e6:.3f} M", f"{row.flops / 1e9:.3f}"] == table[name][:2]


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


@pytest.mark.parametrize("name", [name for name in LEAVES if "160k" in name])
def test_segmentation_recipe(name):
    cfg = load_config(CONFIGS / name)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 6e-5, 0.01)
    assert cfg.optim_wrapper.paramwise_cfg == dict(no_decay_keys=["norm"])
    warm_up, decay = cfg.param_scheduler
    assert (warm_up.type, warm_up.begin, warm_up.end, warm_up.by_epoch) == ("LinearLR", 0, 1500, False)
    assert (decay.type, decay.power, decay.begin, decay.end, decay.eta_min) == ("PolyLR", 1.0, 1500, 160_000, 0.0)
    assert cfg.train_cfg.max_iters == 160_000
    assert cfg.train_dataloader.batch_size * 8 == 16
    assert (cfg.model.decode_head.channels, cfg.model.auxiliary_head.channels) == (512, 256)
    assert cfg.model.auxiliary_head.loss_decode.loss_weight == 0.4
    crop = (512, 1024) if "cityscapes" in name else (512, 512)
    assert cfg.model.data_preprocessor.size == cfg.model.test_cfg.crop_size == crop
    assert next(step for step in cfg.train_dataloader.dataset.pipeline if step.type == "RandomCrop").crop_size == crop
    scales, flips = cfg.tta_pipeline[-1].transforms[:2]
    assert [scale.scale_factor for scale in scales] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert len(flips) == 2


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
