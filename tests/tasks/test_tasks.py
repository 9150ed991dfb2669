"""Tests that every config's task is found. A config of an unknown scope raises an error of one sentence."""

import pytest
from command_line import CONFIGS
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from ssm_core.errors import ConfigError
from ssm_train.registry import MODELS as OURS
from ssm_train.runtime.config import load_config
from ssm_train.tasks import image_task_of, task_of
from ssm_train.tasks.base import ImageTask
from ssm_train.tasks.classification.task import Classification
from ssm_train.tasks.detection.task import Detection
from ssm_train.tasks.language.task import Language
from ssm_train.tasks.segmentation.task import Segmentation

LEAVES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.py") if "_base_" not in p.parts)
DETECTORS = {"mask-rcnn", "cascade-mask-rcnn", "faster-rcnn", "retinanet", "fcos", "dino"}


def task_by_name(leaf):
    """Return the task that a config's folder and file name stand for."""
    folder, _, name = leaf.rpartition("/")
    if folder.startswith("mambatree_l"):
        return Language
    if name.partition("_")[0] in DETECTORS:
        return Detection
    return Segmentation if name.startswith("upernet_") else Classification


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_config_has_its_task(leaf):
    cfg = load_config(CONFIGS / leaf)
    expected = task_by_name(leaf)
    task = task_of(cfg)
    assert type(task) is expected
    assert task.cfg is cfg
    assert task.unit == ("row" if expected is Language else "image")
    if issubclass(expected, ImageTask):
        assert type(image_task_of(cfg)) is expected
    else:
        with pytest.raises(ConfigError, match=r"^the config describes a language model, .* models of images: "):
            image_task_of(cfg)


def test_all_four_tasks_are_there():
    assert {task_by_name(leaf) for leaf in LEAVES} == {Classification, Detection, Segmentation, Language}


class Silent(nn.Module):
    """A model of our scope that does not declare its task."""


class Speaking(nn.Module):
    """A model of our scope that declares the task "language" without being a ``LanguageModel``."""

    task = "language"


@pytest.fixture
def registered():
    """Register both models as a user's package would."""
    for kind in (Silent, Speaking):
        OURS.register_module(module=kind)
    yield
    for kind in (Silent, Speaking):
        del OURS._module_dict[kind.__name__]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("prefix", ["", "ssm_train."])
def test_models_of_our_scope_say_their_task(prefix):
    silent = Config({"default_scope": "ssm_train", "model": {"type": f"{prefix}Silent"}})
    assert type(task_of(silent)) is Classification
    speaking = Config({"default_scope": "ssm_train", "model": {"type": f"{prefix}Speaking"}})
    assert type(task_of(speaking)) is Language
    assert MODELS.get(f"ssm_train.{Silent.__name__}") is Silent


def test_a_model_that_is_a_class():
    assert type(task_of(Config({"model": {"type": Speaking}}))) is Language
    assert type(task_of(Config({"model": {"type": Silent}}))) is Classification


def test_a_config_without_a_model_is_one_of_our_scope():
    task = task_of(Config({}))
    assert type(task) is Classification
    with pytest.raises(ConfigError, match="the config has no model"):
        task.build()


@pytest.mark.parametrize("scope", ["mmpretrain", "ssm_core", "mmengine"])
def test_an_unknown_scope_is_one_sentence(scope):
    cfg = Config({"default_scope": scope, "model": {"type": "Anything"}})
    for ask in (task_of, image_task_of):
        with pytest.raises(ConfigError) as error:
            ask(cfg)
        assert str(error.value) == f"the config's default_scope is {scope!r}: it must be ssm_train, mmdet or mmseg"
