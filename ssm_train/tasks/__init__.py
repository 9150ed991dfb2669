"""The four tasks: image classification, detection, segmentation and language. Tasks do not import each other.

:func:`task_of` finds the task of a config. It imports the module of a task only when a config needs it, because
detection needs mmdet, segmentation mmseg and language transformers.
"""

from mmengine.config import Config
from mmengine.registry import MODELS

from ssm_core.errors import ConfigError
from ssm_train.registry import SCOPE
from ssm_train.runtime.building import scope_of
from ssm_train.runtime.config_check import find_type
from ssm_train.tasks.base import ImageTask, Task

CLASSIFICATION, DETECTION, SEGMENTATION, LANGUAGE = "classification", "detection", "segmentation", "language"
_OF_SCOPE = {"mmdet": DETECTION, "mmseg": SEGMENTATION}


def task_name_of(cfg: Config) -> str:
    """The name of the task of a config.

    The scope ``mmdet`` stands for detection, and ``mmseg`` for segmentation. In the scope ``ssm_train``, the class of
    the model names its task in the attribute ``task``. A class without this attribute is a classifier.

    Raises:
        ConfigError: the config has another scope.
    """
    scope = scope_of(cfg)
    if scope in _OF_SCOPE:
        return _OF_SCOPE[scope]
    if scope != SCOPE:
        raise ConfigError(f"the config's default_scope is {scope!r}: it must be {SCOPE}, {' or '.join(_OF_SCOPE)}")
    kind = cfg.get("model", {}).get("type")
    model = find_type(kind, scope, MODELS) if isinstance(kind, str) else kind
    return getattr(model, "task", CLASSIFICATION)


def task_of(cfg: Config) -> Task:
    """The task of a config.

    Raises:
        ConfigError: the config has an unknown scope.
        MissingPackageError: a package that the task needs is not installed.
    """
    name = task_name_of(cfg)
    if name == DETECTION:
        from ssm_train.tasks.detection.task import Detection

        return Detection(cfg)
    if name == SEGMENTATION:
        from ssm_train.tasks.segmentation.task import Segmentation

        return Segmentation(cfg)
    if name == LANGUAGE:
        from ssm_train.tasks.language.task import Language

        return Language(cfg)
    from ssm_train.tasks.classification.task import Classification

    return Classification(cfg)


def image_task_of(cfg: Config) -> ImageTask:
    """The task of a config whose model takes images.

    Raises:
        ConfigError: the model takes text, or the config has an unknown scope.
        MissingPackageError: a package that the task needs is not installed.
    """
    task = task_of(cfg)
    if not isinstance(task, ImageTask):
        raise ConfigError(
            "the config describes a language model, and this command is for models of images: use "
            "tree-ssm merge-adapters, which writes a language model as a folder of transformers"
        )
    return task
