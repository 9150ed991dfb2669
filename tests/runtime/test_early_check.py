"""Tests of the check of a config and of its first keys before anything slow is imported."""

import subprocess
import sys

import pytest
from command_line import COMMANDS, CONFIGS

from ssm_core.errors import ConfigError
from ssm_train.runtime import early_check
from ssm_train.runtime.config import load_config
from ssm_train.runtime.config_check import _LOADER_KEYS, TOP_LEVEL_KEYS
from ssm_train.runtime.config_files import shipped_names
from ssm_train.runtime.config_keys import OWN_LOADER_KEYS, RUNNER_EXTRAS
from ssm_train.runtime.early_check import check_early

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
        "randomness.sead=1", "env_cfg.mp=1", "x", "=3", ".x=3", "Model.backbone=1",
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


def test_no_config_that_is_right_is_refused():
    for name in shipped_names():
        check_early(name, ["train_cfg.max_epochs=3", "train_dataloader.batch_size=3", "randomness.seed=3"])


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


def test_variables_and_keys_of_a_file_are_known(tmp_path):
    lines = ["for own in range(3):\n    pass", "a = dict(train_dataloader=dict(mine=3))", "del a", "_base_ = []"]
    (tmp_path / "a.py").write_text("\n".join(lines) + "\nmodle = 1\ndel modle\n")
    check_early(tmp_path / "a.py", ["own=3", "train_dataloader.mine=3"])


def test_a_config_that_inherits_from_itself_ends(tmp_path):
    (tmp_path / "a.py").write_text('_base_ = "a.py"\n')
    check_early(tmp_path / "a.py")


def test_the_keys_are_those_of_the_classes():
    runner = early_check._arguments("mmengine", "runner/runner.py", "Runner") - {"cfg"}
    assert runner | RUNNER_EXTRAS == TOP_LEVEL_KEYS
    loader = early_check._arguments("torch", "utils/data/dataloader.py", "DataLoader")
    assert loader | set(OWN_LOADER_KEYS) == _LOADER_KEYS
    assert not early_check._arguments("mmengine", "runner/runner.py", "Walker")
    assert not early_check._arguments("nothing", "x.py", "X")


@pytest.mark.parametrize(
    "words",
    [
        "train nonsense", "test nonsense x.pth", "infer nonsense x.pth x.png --out x", "dist-train nonsense 2",
        "dist-test nonsense x.pth 2", "export nonsense x.pth --format onnx --out x", "ablate nonsense --grid a=1",
        "analyse cost nonsense.py", "analyse print-config nonsense", "analyse browse-dataset nonsense --out x",
        "merge-adapters nonsense x.pth x", f"train {DIGITS} --cfg-options trian_cfg.max_epochs=3",
        f"dist-train {NUCLEI} 2 --cfg-options train_dataloader.batch_sise=3",
    ],
)  # fmt: skip
def test_a_typo_costs_no_import(words):
    done = subprocess.run(
        [sys.executable, "-c", STARTED, *words.split()], capture_output=True, text=True, cwd=COMMANDS.parents[1]
    )
    assert done.stdout == "1 []\n", done.stderr
    assert done.stderr.count("\n") == 1
