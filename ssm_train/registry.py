"""The scope ``ssm_train`` in mmengine's registry tree. mmengine imports this module when a config names the scope.

mmengine imports the modules in ``locations`` at the first look-up, so a task loads only what it uses. Classes that need
mmdet or mmseg are in no registry: a config gives their full path, ``type="ssm_train.tasks.detection.CocoInstances"``.
"""

from importlib import import_module

from mmengine.registry import root
from mmengine.registry.registry import Registry

SCOPE = "ssm_train"
_FOLDERS = ("runtime", "data", "tasks")  # configs may name classes in these folders by their full path


class ScopedRegistry(Registry):
    """mmengine's registry, extended to find classes of this package by their full path.

    mmengine finds such classes in every package, except in those that have a registry of their own.
    """

    def get(self, key: str) -> type | None:
        """Find the class of a name or of a full path; the scope before it may be left out.

        Raises:
            RuntimeError: the path leads to no class. mmengine's registry raises the same.
        """
        module, _, name = key.removeprefix(f"{SCOPE}.").rpartition(".")
        if module.split(".")[0] not in _FOLDERS:
            return super().get(key)
        try:
            return getattr(import_module(f"{SCOPE}.{module}"), name)
        except (AttributeError, ModuleNotFoundError) as error:
            if isinstance(error, AttributeError) or error.name.startswith(SCOPE):
                raise RuntimeError(f"there is no {key}") from error
            raise


def _child(parent: Registry, *locations: str) -> Registry:
    return ScopedRegistry(parent.name, parent=parent, scope=SCOPE, locations=[f"{SCOPE}.{name}" for name in locations])


LOOPS = _child(root.LOOPS, "runtime.loops")
HOOKS = _child(
    root.HOOKS,
    "runtime.hooks",
    "runtime.gradient_exchange",
    "runtime.low_rank_gradients",
    "tasks.class_count",
    "tasks.label_check",
    "tasks.pictures",
    "tasks.classification.start",
    "tasks.language.extra_evaluation",
    "tasks.language.text_samples",
)
DATASETS = _child(root.DATASETS, "data.datasets", "data.datasets.text")
DATA_SAMPLERS = _child(root.DATA_SAMPLERS, "data.samplers")
TRANSFORMS = _child(root.TRANSFORMS, "data.transforms", "data.loading")
MODELS = _child(
    root.MODELS,
    "runtime.averaging",
    "tasks.classification.augmented",
    "tasks.classification.classifier",
    "tasks.classification.preprocessor",
    "tasks.classification.timm_model",
    "tasks.language.model",
)
METRICS = _child(root.METRICS, "tasks.classification.metrics", "tasks.language.perplexity")
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, "runtime.optimizers")
OPTIM_WRAPPER_CONSTRUCTORS = _child(root.OPTIM_WRAPPER_CONSTRUCTORS, "runtime.parameter_groups")
VISUALIZERS = _child(root.VISUALIZERS, "runtime.trackers.visualizer")
VISBACKENDS = _child(root.VISBACKENDS, "runtime.trackers.backends", "runtime.trackers.wandb")
FUNCTIONS = _child(root.FUNCTIONS, "data.collate", "data.datasets.text")

# These registries hold no class of this project. Without them mmengine would warn at every look-up, because they would
# lack the default scope.
RUNNERS = _child(root.RUNNERS)
RUNNER_CONSTRUCTORS = _child(root.RUNNER_CONSTRUCTORS)
MODEL_WRAPPERS = _child(root.MODEL_WRAPPERS)
WEIGHT_INITIALIZERS = _child(root.WEIGHT_INITIALIZERS)
OPTIMIZERS = _child(root.OPTIMIZERS)
PARAM_SCHEDULERS = _child(root.PARAM_SCHEDULERS)
EVALUATOR = _child(root.EVALUATOR)
TASK_UTILS = _child(root.TASK_UTILS)
LOG_PROCESSORS = _child(root.LOG_PROCESSORS)
INFERENCERS = _child(root.INFERENCERS)
STRATEGIES = _child(root.STRATEGIES)
