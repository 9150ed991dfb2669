"""The scope ``ssm_core`` in mmengine's registry tree; mmengine imports this module when a config names the scope.

``locations`` are imported at the first look-up, so that a task loads only what it uses. What needs mmdet or mmseg is in
no registry: a config gives the full path, ``type="ssm_core.engine.detection.CocoInstances"``.
"""

from importlib import import_module

from mmengine.registry import root
from mmengine.registry.registry import Registry

SCOPE = "ssm_core"


class ScopedRegistry(Registry):
    """mmengine's registry, which also finds classes of this package by their full path.

    mmengine does that for any package but those that have a registry.
    """

    def get(self, key: str) -> type | None:
        """The class of a name or path, with or without the scope before it."""
        module, _, name = key.removeprefix(f"{SCOPE}.").rpartition(".")
        if module.split(".")[0] != "engine":
            return super().get(key)
        try:
            return getattr(import_module(f"{SCOPE}.{module}"), name)
        except (AttributeError, ModuleNotFoundError) as error:
            if isinstance(error, AttributeError) or error.name.startswith(SCOPE):
                raise RuntimeError(f"there is no {key}") from error  # as mmengine does
            raise


def _child(parent: Registry, *locations: str) -> Registry:
    return ScopedRegistry(
        parent.name, parent=parent, scope=SCOPE, locations=[f"ssm_core.engine.{name}" for name in locations]
    )


LOOPS = _child(root.LOOPS, "loops")
HOOKS = _child(root.HOOKS, "hooks")
DATASETS = _child(root.DATASETS, "datasets", "datasets.text")
TRANSFORMS = _child(root.TRANSFORMS, "transforms")
MODELS = _child(root.MODELS, "averaged_model", "classifier", "language_model", "timm_model")
METRICS = _child(root.METRICS, "metrics", "perplexity")
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, "optim_wrapper")
OPTIM_WRAPPER_CONSTRUCTORS = _child(root.OPTIM_WRAPPER_CONSTRUCTORS, "optim_wrapper")
VISUALIZERS = _child(root.VISUALIZERS, "visualizer")
VISBACKENDS = _child(root.VISBACKENDS, "vis_backends", "wandb_backend")
FUNCTIONS = _child(root.FUNCTIONS, "datasets", "datasets.text")

# Nothing of ours in these; a registry that lacks the default scope makes mmengine warn at every look-up.
RUNNERS = _child(root.RUNNERS)
RUNNER_CONSTRUCTORS = _child(root.RUNNER_CONSTRUCTORS)
DATA_SAMPLERS = _child(root.DATA_SAMPLERS)
MODEL_WRAPPERS = _child(root.MODEL_WRAPPERS)
WEIGHT_INITIALIZERS = _child(root.WEIGHT_INITIALIZERS)
OPTIMIZERS = _child(root.OPTIMIZERS)
PARAM_SCHEDULERS = _child(root.PARAM_SCHEDULERS)
EVALUATOR = _child(root.EVALUATOR)
TASK_UTILS = _child(root.TASK_UTILS)
LOG_PROCESSORS = _child(root.LOG_PROCESSORS)
INFERENCERS = _child(root.INFERENCERS)
STRATEGIES = _child(root.STRATEGIES)
