"""The command of docs/upgrading.md rewrites a config of the first edition. Its tables name modules that exist now."""

import re
import subprocess
from importlib import import_module
from importlib.util import find_spec

import pytest
from command_line import ROOT

PAGE = (ROOT / "docs" / "upgrading.md").read_text()
COMMAND = next(re.finditer(r"^```bash\n(sed .*?)^```$", PAGE, re.DOTALL | re.MULTILINE))[1]
NAMES = re.findall(r"^\| `((?:ssm_core|tree_ssm)[\w.]*)` \| `([\w.]+)` \|$", PAGE, re.MULTILINE)

OLD_CONFIG = """default_scope = "ssm_core"
train_cfg = dict(type="ssm_core.ResumableEpochLoop", max_epochs=12, val_interval=1)
optim_wrapper = dict(type='ssm_core.GuardedOptimWrapper', constructor='ssm_core.TimmOptimWrapperConstructor')
default_hooks = dict(
    checkpoint=dict(type="ssm_core.AtomicCheckpointHook"), curves=dict(type="ssm_core.CurvesHook"),
    pictures=dict(type="ssm_core.PicturesHook"), samples=dict(type="ssm_core.TextSamplesHook"),
    evaluate=dict(type="tree_ssm.language.evaluation.Harness", tasks=[]),
)
train_dataloader = dict(
    collate_fn=dict(type="ssm_core.collate_images"), dataset=dict(type="ssm_core.engine.detection.CocoInstances")
)
val_dataloader = dict(collate_fn=dict(type="ssm_core.pad_rows"))
test_dataloader = dict(collate_fn=dict(type="ssm_core.engine.segmentation.stack_samples"))
val_evaluator = dict(type="ssm_core.engine.detection.CocoInstanceMetric")
visualizer = dict(type="ssm_core.engine.segmentation.SegmentationVisualizer")
model = dict(
    backbone=dict(type="quadtree_ssm.QuadMamba", d_state=1),
    decode_head=dict(type="ssm_core.engine.segmentation.FastUPerHead"),
    roi_head=dict(mask_roi_extractor=dict(type="ssm_core.engine.detection.Float32RoIExtractor")),
)
"""


def resolve(name):
    """Return what a config's type stands for, given its full path or its name in one of our registries."""
    module, _, attribute = name.rpartition(".")
    if module != "ssm_train":
        return getattr(import_module(module), attribute)
    registry = import_module("ssm_train.registry")
    registries = [r for r in vars(registry).values() if isinstance(r, type(registry.HOOKS))]
    return next(found for r in registries if r.scope == "ssm_train" and (found := r.get(attribute)))


def test_command_rewrites_configs(tmp_path):
    (tmp_path / "my-configs").mkdir()
    config = tmp_path / "my-configs" / "old.py"
    config.write_text(OLD_CONFIG)
    subprocess.run(COMMAND, shell=True, check=True, cwd=tmp_path)
    text = config.read_text()
    assert "ssm_core" not in text
    assert 'default_scope = "ssm_train"' in text
    assert 'type="quadtree_ssm.QuadMamba"' in text
    types = re.findall(r"""["'](ssm_train\.[\w.]+)["']""", text)
    assert len(types) == len(re.findall(r"""["'](?:ssm_core\.|tree_ssm\.language)[\w.]+["']""", OLD_CONFIG))
    assert all(resolve(name) for name in types)
    subprocess.run(COMMAND, shell=True, check=True, cwd=tmp_path)
    assert config.read_text() == text, "a second time it changes nothing"


def test_command_leaves_our_configs_alone(tmp_path):
    (tmp_path / "my-configs").mkdir()
    configs = {path.name: path.read_text() for path in (ROOT / "configs").rglob("*.py")}
    for name, text in configs.items():
        (tmp_path / "my-configs" / name).write_text(text)
    subprocess.run(COMMAND, shell=True, check=True, cwd=tmp_path)
    assert configs == {path.name: path.read_text() for path in (tmp_path / "my-configs").iterdir()}


def exists(name):
    """Say whether a module, or a function of a module, exists. An empty folder that was left behind is no module."""
    parent, _, attribute = name.rpartition(".")
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is not None and spec.origin is not None:
        return True
    return parent != "" and exists(parent) and hasattr(import_module(parent), attribute)


@pytest.mark.parametrize(("before", "now"), NAMES)
def test_names(before, now):
    assert exists(now)
    assert not exists(before)


def test_there_are_names():
    assert len(NAMES) > 50
