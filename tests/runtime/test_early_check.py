"""Tests of the check of a config and of its first keys before anything slow is imported."""

import os
import subprocess
import sys

import pytest
from command_line import COMMANDS, CONFIGS
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope, root

from ssm_core.errors import ConfigError, DataError
from ssm_train.runtime import class_text, folder_lock
from ssm_train.runtime.config import load_config
from ssm_train.runtime.config_check import _LOADER_KEYS, TOP_LEVEL_KEYS, accepted_arguments, find_type
from ssm_train.runtime.config_files import find_config, shipped_names
from ssm_train.runtime.config_keys import LOADERS, OWN_LOADER_KEYS, RUNNER_EXTRAS
from ssm_train.runtime.config_objects import BUILT, objects, parts
from ssm_train.runtime.config_text import UNKNOWN, read_text
from ssm_train.runtime.early_check import check_early
from ssm_train.runtime.early_places import check_data
from ssm_train.runtime.occupants import check_vacant

DIGITS = "quadmamba/quadmamba-nano_digits"
NUCLEI = "mambatree/mask-rcnn_mambatree-nano_nuclei-128x128"
STARTED = """
import sys
from ssm_train.commands.program import main
status = main(sys.argv[1:])
print(status, sorted({"torch", "mmengine", "numpy", "timm"} & set(sys.modules)))
"""


def error_of(call, *arguments):
    with pytest.raises(ConfigError) as raised:
        call(*arguments)
    return str(raised.value)


@pytest.mark.parametrize("config", [DIGITS, NUCLEI])
@pytest.mark.parametrize(
    "option",
    [
        "trian_cfg.max_epochs=3", "learning_rate=1", "train_dataloader.batch_sise=3", "val_dataloader.x.y=3",
        "randomness.sead=1", "env_cfg.mp=1", "x", "=3", ".x=3", "Model.backbone=1", "model.backbone.arhc=small",
        "optim_wrapper.optimizer.lrr=1", "optim_wrapper.clip_grads=1", "default_hooks.checkpoint.intervall=1",
        "train_dataloader.dataset.tpye=1", "param_scheduler.0.strat_factor=1", "param_scheduler.9.begin=1",
        "log_processor.by_epok=1",
        "param_scheduler.².begin=1",
    ],
)  # fmt: skip
def test_a_misspelt_key_is_found_as_by_the_whole_check(config, option):
    assert error_of(check_early, config, [option]) == error_of(load_config, config, [option])


def test_a_misspelt_key_of_what_the_config_does_not_have():
    assert "auto_scale_lr has no 'enabel' (did you mean 'enable'?)" in error_of(
        check_early, DIGITS, ["auto_scale_lr.enabel=1"]
    )


@pytest.mark.parametrize(
    "name", ["nonsense", f"{DIGITS}x", "/x/y.py", "configs", "quadmamba/../x", str(CONFIGS / "quadmamba" / "x.py")]
)
def test_a_missing_config_is_found_as_by_the_whole_check(name):
    assert error_of(check_early, name) == error_of(load_config, name)


def test_a_misspelt_key_in_a_file_is_found_as_by_the_whole_check(tmp_path):
    (tmp_path / "base.py").write_text(f'_base_ = ["ssm_train::{DIGITS}.py"]\ntrain_dataloadr = dict(batch_size=3)\n')
    (tmp_path / "a.py").write_text('_base_ = "./base.py"\nmy_own = 3\n')
    assert error_of(check_early, tmp_path / "a.py") == error_of(load_config, tmp_path / "a.py")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (DIGITS, 'model = dict(backbone=dict(type="quadtree_ssm.QuadMmaba"))'),
        (DIGITS, 'model = dict(type="ImageClasifier")'),
        (DIGITS, 'model = dict(type="ssm_train.ImageClasifier")'),
        (DIGITS, 'optim_wrapper = dict(optimizer=dict(type="AdamWW"))'),
        (DIGITS, 'optim_wrapper = dict(optimizer=dict(weight_decy=3))'),
        (DIGITS, 'custom_hooks = [dict(type="NonFinitHook")]'),
        (DIGITS, 'custom_hooks = [dict(type="ssm_core.CurvesHook")]'),
        (DIGITS, 'param_scheduler = [*_base_.param_scheduler]\ntrain_cfg = dict(max_epoch=3)'),
        (DIGITS, 'randomness = dict(sead=3)'),
        (DIGITS, 'train_dataloader = dict(batch_sise=3)'),
        (DIGITS, 'model = dict(backbone={{_base_.model.backbone}}, mixup_alph=3)'),
        (NUCLEI, 'model = dict(type="MaskRCN")'),
        (NUCLEI, 'model = dict(roi_head=dict(bbox_head=dict(num_clases=1)))'),
        (NUCLEI, 'train_dataloader = dict(dataset=dict(type="ssm_train.tasks.detection.CocoInstancess"))'),
        (NUCLEI, 'train_pipeline = _base_.train_pipeline\nmodel = dict(neck=dict(num_out=5))'),
    ],
)  # fmt: skip
def test_a_typo_in_a_file_is_found_as_by_the_whole_check(tmp_path, config, text):
    (tmp_path / "a.py").write_text(f'_base_ = ["ssm_train::{config}.py"]\n{text}\n')
    assert error_of(check_early, tmp_path / "a.py") == error_of(load_config, tmp_path / "a.py")


def test_no_config_that_is_right_is_refused():
    for name in shipped_names():
        check_early(name, ["train_dataloader.batch_size=3", "randomness.seed=3"])


def test_no_option_that_is_right_is_refused():
    check_early(DIGITS, ["custom_hooks=[]", "custom_hooks.3.type=x", "model.backbone.type=timm", "model.backbone.x=3"])
    check_early(DIGITS, ["default_scope=mmdet", "model.x=3"])


def test_the_text_of_a_config_says_what_running_it_does():
    def assert_same(text, value, place):
        if isinstance(text, dict):
            assert set(text) == set(value), place
            for key, item in text.items():
                assert_same(item, value[key], f"{place}.{key}")
        elif isinstance(text, list):
            assert len(text) == len(value), place
            for number, item in enumerate(text):
                assert_same(item, value[number], f"{place}.{number}")
        elif text is not UNKNOWN:
            assert text == value, place

    for name in shipped_names():
        text, cfg = read_text(find_config(name)), Config.fromfile(find_config(name))
        assert text.complete
        assert set(text.keys) <= set(cfg) <= set(text.values)
        for key in cfg:
            assert_same(text.values[key], cfg._cfg_dict[key], f"{name}: {key}")


def test_the_arguments_of_a_class_are_those_that_python_finds():
    kinds = set()
    for name in shipped_names():
        values = {key: value for key, value in read_text(find_config(name)).values.items() if value is not UNKNOWN}
        found = [
            *((node, registry) for key in LOADERS for _, node, registry in parts(key, values.get(key) or {})),
            *((node, registry) for key, (registry, _) in BUILT.items() for _, node in objects(key, values.get(key))),
        ]
        while found:
            node, registry = found.pop()
            found += [(inner, other) for _, inner, other in parts("", node)]
            if isinstance(node.get("type"), str):
                kinds.add((node["type"], node.get("_scope_", values.get("default_scope")), registry))
    known = 0
    for kind, scope, registry in kinds:
        place = class_text.find_definition(kind, scope, registry)
        names = class_text.accepted(place) if place else None
        known += names is not None
        if names is not None:
            assert names == accepted_arguments(find_type(kind, scope, getattr(root, registry))), kind
    assert known > 0.8 * len(kinds), "typos in the others take as long as torch and mmengine to import"


@pytest.mark.parametrize(
    "text",
    [
        "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n",
        "from base import *\n",
        '_base_ = "mmnothing::x.py"\n',
        '_base_ = "x.yml"\n',
        '_base_ = ["a" + "b"]\n',
        '_base_ = "missing.py"\n',
        "this is no Python\n",
        "x = '\0'\n",
    ],
)
def test_what_cannot_be_known_is_left_to_the_whole_check(tmp_path, text):
    (tmp_path / "a.py").write_text(text)
    check_early(tmp_path / "a.py", ["own.key=3", "train_dataloader.own=3"])


def test_variables_of_a_file_are_known(tmp_path):
    lines = ["for own in range(3):", "    pass", "a, b = 1, 2", "_base_ = []", "modle = 1", "del modle"]
    (tmp_path / "a.py").write_text("\n".join(lines) + "\n")
    check_early(tmp_path / "a.py", ["own=3", "b=3"])


@pytest.mark.parametrize(
    "text",
    [
        "model = dict(typ_e=1)\nmodel.pop('typ_e')\nmodel['type'] = 'ImageClassifier'",
        "inner = dict(type='timm')\nmodel = dict(type='ImageClassifier', backbone=inner)\ninner['x'] = 3",
        "names = ['x']\nmodel = dict(type='ImageClassifier', **{name: 3 for name in names})",
        "model = dict(type='ImageClassifier', x=3)\nfor key in list(model):\n    model.pop(key)",
        "def change(model):\n    del model['x']\nmodel = dict(type='ImageClassifier', x=3)\nchange(model)",
        "model = dict(type='ImageClassifier', x=3)\ndel model['x']",
        "custom_imports = dict(imports=['mine'])\nmodel = dict(type='ImageClasifier')",
        "from mine import Net\nmodel = dict(type=Net, x=3)",
        "default_scope = 'm' + 'mdet'\nmodel = dict(type='ImageClassifier', x=3)",
        "x = (modle := 3)\ndel modle",
        "trian_cfg: dict",
        "if False:\n    trian_cfg = 3",
        "class Own:\n    model = dict(type='ImageClassifier', x=3)",
        "import os as launcherr\nvisualiser = lambda: 3",
        "model = dict(type='{{$OWN:ImageClassifier}}', x=3)",
        "_base_ = 'base.yml'\nmodel = dict(x=3)",
        "globals()['own'] = 3\nmodel = dict(type='ImageClasifier')",
        "dict = list\nmodel = dict()",
        "_base_ = '" + 300 * "x" + ".py'",
        "model = dict(type='timm.resnet18', x=3)",
        "model = " + 5000 * "a." + "b",
    ],
)
def test_a_value_that_is_computed_is_not_judged(tmp_path, text):
    (tmp_path / "a.py").write_text(f"default_scope = 'ssm_train'\n{text}\n")
    check_early(tmp_path / "a.py")


def test_a_config_that_inherits_from_itself_ends(tmp_path):
    (tmp_path / "a.py").write_text('_base_ = "a.py"\n')
    check_early(tmp_path / "a.py")


def test_the_keys_are_those_of_the_classes():
    runner = class_text.arguments("mmengine.runner.runner", "Runner") - {"cfg"}
    assert runner | RUNNER_EXTRAS == TOP_LEVEL_KEYS
    loader = class_text.arguments("torch.utils.data.dataloader", "DataLoader")
    assert loader | set(OWN_LOADER_KEYS) == _LOADER_KEYS
    assert class_text.arguments("mmengine.runner.runner", "Walker") is None
    assert class_text.arguments("nothing.x", "X") is None


@pytest.mark.parametrize(
    "words",
    [
        "train nonsense", "test nonsense x.pth", "infer nonsense x.pth x.png --out x", "dist-train nonsense 2",
        "dist-test nonsense x.pth 2", "export nonsense x.pth --format onnx --out x", "ablate nonsense --grid a=1",
        "analyse cost nonsense.py", "analyse print-config nonsense", "analyse browse-dataset nonsense --out x",
        "merge-adapters nonsense x.pth x", f"train {DIGITS} --cfg-options trian_cfg.max_epochs=3",
        f"dist-train {NUCLEI} 2 --cfg-options train_dataloader.batch_sise=3",
        f"train {NUCLEI} --cfg-options model.roi_head.bbox_head.num_clases=3",
    ],
)  # fmt: skip
def test_a_typo_costs_no_import(words):
    done = subprocess.run(
        [sys.executable, "-c", STARTED, *words.split()], capture_output=True, text=True, cwd=COMMANDS.parents[1]
    )
    assert done.stdout == "1 []\n", done.stderr
    assert done.stderr.count("\n") == 1


def start_train(folder, *words):
    """What ``tree-ssm train`` says in a folder, the slow packages that it has imported by then among it."""
    command = [sys.executable, "-c", STARTED, "train", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(COMMANDS.parents[1])}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


ROOT_OPTION = "train_dataloader.dataset.root=here"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["mambatree/mambatree-tiny_image-folder"], "there is no dataset folder data/images/train; put your images"),
        (["mambatree/mambatree-tiny_image-folder", "--cfg-options", ROOT_OPTION], "no dataset folder here/train; put"),
        (
            ["mambatree/mambatree-tiny_8xb128_in1k"],
            "no dataset folder data/imagenet/train; arrange a downloaded",
        ),
        (["mambatree/mambatree-nano_fmnist"], "there is no Fashion-MNIST: data/fashion-mnist/train-images-idx3-ubyte"),
        ([NUCLEI], "there is no annotation file data/nuclei/train.json; `tree-ssm prepare-data --help`"),
        (["mambatree/upernet_mambatree-tiny_8xb2-160k_ade20k-512x512"], "data/ade/ADEChallengeData2016 (train_dat"),
    ],
)
def test_missing_data_are_found_before_anything_slow_is_imported(tmp_path, words, line):
    said = start_train(tmp_path, *words)
    assert said.stdout == "1 []\n", said.stderr
    assert said.stderr.startswith("error: ")
    assert line in said.stderr
    assert said.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_datasets_say_the_same_of_what_is_missing(tmp_path, monkeypatch):
    """The check reads the config's text. The datasets have the last word."""
    monkeypatch.chdir(tmp_path)
    configs = ("mambatree/mambatree-tiny_image-folder", "mambatree/mambatree-tiny_8xb128_in1k")
    for name in (*configs, "mambatree/mambatree-nano_fmnist", NUCLEI):
        cfg = load_config(name)
        with pytest.raises(DataError) as early:
            check_data(name, (), ["train_dataloader"])
        with DefaultScope.overwrite_default_scope(cfg.default_scope), pytest.raises(DataError) as late:
            DATASETS.build(cfg.train_dataloader.dataset)
        assert str(early.value) == str(late.value)


def test_data_of_which_nothing_is_certain_are_left_to_the_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = "train_dataloader.dataset"
    for option in (f"{place}.type=Digits", f"{place}={{}}", "train_dataloader={}", f"{place}.root=['a']"):
        check_data("mambatree/mambatree-tiny_image-folder", [option], ["train_dataloader"])
    (tmp_path / "data" / "images" / "train").mkdir(parents=True)
    check_data("mambatree/mambatree-tiny_image-folder", (), ["train_dataloader"])
    (tmp_path / "own.py").write_text(
        f'_base_ = "ssm_train::{DIGITS}.py"\ntrain_dataloader = dict(dataset=dict(type="own.Made", data_root="none"))\n'
    )
    check_data("own.py", (), ["train_dataloader"])


@pytest.mark.parametrize("named", [True, False])
def test_a_taken_work_folder_is_found_before_anything_slow_is_imported(tmp_path, named):
    folder = tmp_path / ("taken" if named else f"work_dirs/{DIGITS.partition('/')[2]}")
    folder.mkdir(parents=True)
    (folder / "epoch_1.pth").touch()
    said = start_train(tmp_path, DIGITS, *(["--work-dir", "taken"] if named else []))
    assert said.stdout == "1 []\n", said.stderr
    assert said.stderr.startswith(f"error: {folder.relative_to(tmp_path)} has the files of a run (epoch_1.pth): go on")
    assert said.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["epoch_1.pth"]


def test_the_folder_of_a_run_that_goes_on_is_left_to_the_lock(tmp_path):
    (tmp_path / "epoch_1.pth").touch()
    lock = folder_lock.acquire(tmp_path)
    try:
        check_vacant(tmp_path)
    finally:
        folder_lock.release(lock)
    with pytest.raises(ConfigError, match="has the files of a run"):
        check_vacant(tmp_path)
    folder_lock.release(folder_lock.acquire(tmp_path))


def test_a_wrong_value_is_found_before_what_only_a_training_needs():
    code = "import sys\nfrom ssm_train.commands.program import main\nstatus = main(sys.argv[1:])\n"
    code += "print(status, 'ssm_train.apis.train' in sys.modules)"
    words = ["train", DIGITS, "--cfg-options", "train_dataloader.batch_size=-3"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=COMMANDS.parents[1])
    assert done.stdout == "1 False\n", done.stderr
    assert done.stderr == "error: train_dataloader.batch_size has to be 1 or more, not -3\n"
