"""Every config loads, builds, has parts that fit, and is in its metafile. test_recipes.py tests the papers' figures."""

import ast
import re
from pathlib import Path

import pytest
import torch
import yaml
from command_line import load_tool
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from torch._subclasses.fake_tensor import FakeTensorMode

from ssm_train.apis.analyse import count_cost
from ssm_train.apis.study import read_study
from ssm_train.runtime.config import load_config
from ssm_train.runtime.config_check import TOP_LEVEL_KEYS
from ssm_train.tasks import image_task_of, task_of

CONFIGS = Path(__file__).parents[2] / "configs"
model_zoo = load_tool("analysis/model_zoo")
# The configs of language models are tested in test_language_configs.py.
LEAVES = sorted(
    p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.py") if not {"_base_", "mambatree_l"} & set(p.parts)
)
DENSE = ("rcnn", "retinanet", "fcos", "dino", "upernet")
ABLATIONS = [name for name in LEAVES if "/ablations/" in name]


# Variables that our configs define, and variables that they inherit from mmdet and mmseg.
OWN_KEYS = {"max_epochs", "warmup", "data_root", "num_classes", "metainfo"}
INHERITED_KEYS = {
    "backbone_norm_cfg", "backend_args", "crop_size", "data_preprocessor", "dataset_type", "img_ratios", "img_scales",
    "norm_cfg", "scales", "test_pipeline", "train_pipeline", "tta_model", "tta_pipeline",
}  # fmt: skip
CLASSES = {
    "photos": 15, "imagenet": 1000, "coco": 80, "nuclei": 3, "composite": 11, "ADEChallengeData2016": 150,
    "cityscapes": 19,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("ssm_train"):
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_draws():
    """Skip timm's drawing of random weights. It runs slowly in Python, and meta tensors hold no values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm.layers.weight_init._trunc_normal_", lambda tensor, mean, std, a, b: tensor)
        yield


def build(cfg):
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device("meta"):
        return ROOT_MODELS.build(cfg.model)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def classes_of(cfg):
    """Return the number of classes in a config's data. The background is not a class of objects."""
    if cfg.train_dataloader.dataset.type == "SyntheticImages":
        return 1000
    root = cfg.train_dataloader.dataset.get("root", cfg.train_dataloader.dataset.get("data_root", ""))
    classes = CLASSES.get(Path(root).name, 10)
    objects = cfg.default_scope == "mmdet" and Path(root).name in ("nuclei", "composite")
    return {3: 1, 11: 10}[classes] if objects else classes


@pytest.fixture(scope="module")
def entries():
    """Return the entries of all metafiles by config."""
    metafiles = [yaml.safe_load((CONFIGS / folder / "metafile.yml").read_text()) for folder in model_zoo.folders()]
    return {e["Config"].removeprefix("configs/"): e for metafile in metafiles for e in metafile["Models"]}


@pytest.mark.parametrize("name", LEAVES)
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")
def test_loads_and_builds(name, entries):
    cfg = load_config(CONFIGS / name)
    model = build(cfg)
    assert set(image_task_of(cfg).class_counts(model).values()) == {classes_of(cfg)}
    for part in ("train", "val", "test"):
        assert f"{part}_dataloader" in cfg
        assert f"{part}_cfg" in cfg
    own = {key for key in cfg if key not in TOP_LEVEL_KEYS}
    assert own <= (OWN_KEYS if cfg.default_scope == "ssm_train" else OWN_KEYS | INHERITED_KEYS)
    assert cfg.val_dataloader == cfg.test_dataloader
    assert entries[name]["Metadata"]["Parameters"] == parameters(model)


STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))


def options_of(cell):
    return [f"{key}={value}" for key, value in cell.settings.items()]


def scans_of(model):
    """Return the kind and the plain attributes of every scan and its predictor. What a switch changes is among them."""
    scans = [block.mixer.scan for stage in model.backbone.stages for block in stage.blocks]
    parts = [part for scan in scans for part in (scan, getattr(scan, "predictor", None))]
    return [(type(part), {k: v for k, v in vars(part).items() if isinstance(v, str | int | tuple)})
            for part in parts if part is not None]  # fmt: skip


@pytest.mark.parametrize("path", [path for path in STUDIES if path.stem != "tree-scale"], ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")
def test_the_cells_of_a_study_differ_in_their_scans(path):
    """A switch that this network does not have, such as a shift where a stage has one block, would change nothing."""
    cells = [cell for cell in read_study(path).cells if cell.table != "models of one size"]
    assert len(cells) == {"digits": 4, "fashion-mnist": 27}.get(path.stem, 17)
    found = [(cell.table, scans_of(build(load_config(cell.config, options_of(cell))))) for cell in cells]
    assert not [cell.name for cell, scans in zip(cells, found, strict=True) if found.count(scans) > 1]


@pytest.mark.parametrize("name", ["fashion-mnist", "largest-item"])
def test_the_models_of_one_size_are_of_one_size(name):
    cells = [cell for cell in read_study(CONFIGS / "studies" / f"{name}.yaml").cells if "one size" in cell.table]
    sizes = [parameters(task_of(load_config(cell.config, options_of(cell))).build()) for cell in cells]
    assert len(sizes) == 5
    assert 1.4e6 < min(sizes) <= max(sizes) < 1.8e6


def widths_asked_for(model_cfg):
    """Return the widths of the backbone's maps that the neck or each head expects, by its name."""
    if "neck" in model_cfg:
        return {"neck": list(model_cfg.neck.in_channels)}
    decode, auxiliary = model_cfg.decode_head, model_cfg.auxiliary_head
    return {
        "decode_head": [list(decode.in_channels)[i] for i in decode.in_index],
        "auxiliary_head": {auxiliary.in_index: auxiliary.in_channels},
    }


@pytest.fixture(scope="module")
def widths_of():
    """Return the function that gives the widths of a config's backbone. Most configs have that of another one."""
    known = {}

    def widths(cfg):
        key = cfg.default_scope, repr(cfg.model.backbone)
        if key not in known:
            with DefaultScope.overwrite_default_scope(cfg.default_scope), FakeTensorMode():
                backbone = ROOT_MODELS.build(cfg.model.backbone)
                backbone.eval()
                known[key] = [m.shape[1] for m in backbone(torch.zeros(1, 3, 64, 64))]
        return known[key]

    return widths


@pytest.mark.parametrize("name", [name for name in LEAVES if any(method in name for method in DENSE)])
@pytest.mark.filterwarnings("ignore:Default ``avg_non_ignore`` is False")
def test_widths_are_those_of_the_backbone(name, widths_of):
    cfg = load_config(CONFIGS / name)
    widths = widths_of(cfg)
    asked = widths_asked_for(cfg.model)
    if "neck" in asked:
        assert asked["neck"] == widths
    else:
        assert asked["decode_head"] == widths
        assert asked["auxiliary_head"] == {2: widths[2]}


@pytest.mark.parametrize("folder", model_zoo.folders())
def test_metafiles_and_readmes_are_up_to_date(folder):
    """Everything but the counted figures is made again and compared.

    Other tests compare the parameters with every built model, and the operations with some models.
    """
    metafile = model_zoo.make_metafile(folder, model_zoo.known_counts(folder))
    assert (CONFIGS / folder / "metafile.yml").read_text() == model_zoo.dump(metafile)
    assert (CONFIGS / folder / "README.md").read_text() == model_zoo.make_readme(folder, metafile)


def test_the_page_is_made_of_the_metafiles():
    metafiles = [yaml.safe_load((CONFIGS / folder / "metafile.yml").read_text()) for folder in model_zoo.folders()]
    assert model_zoo.PAGE.read_text() == model_zoo.make_page(metafiles)
    linked = [
        line.split("](../configs/")[1].split(")")[0]
        for line in model_zoo.PAGE.read_text().splitlines()
        if "| [" in line
    ]
    assert sorted(linked) == sorted(
        p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.py") if "_base_" not in p.parts
    )


def test_facts_are_of_configs_and_sources_that_exist(entries):
    """A misspelt name in the data file would silently drop a figure."""
    facts = model_zoo.facts()
    names = {Path(name).stem for name in entries}
    assert set(facts["Models"]) <= names
    for name, fact in facts["Models"].items():
        assert set(fact) <= {"measured", "control", "source", "published", "published in", "parameters"}, name
        assert ("measured" in fact) == ("source" in fact), name
        assert ("published" in fact) == ("published in" in fact), name
        assert fact.get("control", name) in facts["Models"], name
    used = {fact[key] for fact in facts["Models"].values() for key in ("source", "published in") if key in fact}
    assert used == set(facts["Sources"])
    for source in facts["Sources"].values():
        if source.startswith("docs/"):
            path, _, anchor = source.partition("#")
            headings = re.findall(r"^#+ (.+)$", (CONFIGS.parent / path).read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_results_stand_beside_their_control(entries):
    results = {entry["Name"]: {r["Task"]: r for r in entry.get("Results", [])} for entry in entries.values()}
    beside = [(task, r) for of_config in results.values() for task, r in of_config.items() if "Control" in r]
    assert len(beside) == 12
    for task, result in beside:
        assert result["Control"]["Metrics"] == results[result["Control"]["Name"]][task]["Metrics"]


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
def test_operations_in_the_metafile(name, entries):
    cost, counted = (
        count_cost(load_config(CONFIGS / name), tuple(map(int, entries[name]["Metadata"]["Image Size"].split("x")))),
        entries[name],
    )
    assert (cost.parameters, cost.flops.total) == (counted["Metadata"]["Parameters"], counted["Metadata"]["FLOPs"])


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
