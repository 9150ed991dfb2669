"""Where scalars go: JSON lines always, TensorBoard and Weights & Biases by a switch."""

import importlib.util

from mmengine.visualization import Visualizer

from ssm_core.engine.errors import MissingPackageError
from ssm_core.registry import VISUALIZERS


@VISUALIZERS.register_module()
class TrainingVisualizer(Visualizer):
    """mmengine's visualizer with its backends chosen by name.

    Args:
        name: mmengine's handle of it.
        save_dir: where the run's files go; the Runner fills it in.
        tensorboard: write TensorBoard event files.
        wandb: log to Weights & Biases; ``WANDB_MODE=offline`` keeps that on this machine.
        wandb_project: the project there.
    """

    def __init__(
        self,
        name: str = "visualizer",
        save_dir: str | None = None,
        tensorboard: bool = True,
        wandb: bool = False,
        wandb_project: str = "tree-ssm-train",
    ):
        super().__init__(name, vis_backends=scalar_backends(name, tensorboard, wandb, wandb_project), save_dir=save_dir)


def scalar_backends(name: str, tensorboard: bool, wandb: bool, wandb_project: str) -> list[dict]:
    """Configs of the backends that :class:`TrainingVisualizer` and its like take.

    Raises:
        MissingPackageError: one is asked for that is not installed.
    """
    backends: list[dict] = [{"type": "LocalVisBackend"}]
    if tensorboard:
        _require("tensorboard", "visualizer.tensorboard")
        backends.append({"type": "TensorboardVisBackend"})
    if wandb:
        _require("wandb", "visualizer.wandb")
        backends.append({"type": "WandbVisBackend", "init_kwargs": {"project": wandb_project, "name": name}})
    return backends


def _require(package: str, switch: str) -> None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:  # no origin: a mere folder of that name, such as wandb's own output
        raise MissingPackageError(package, f"{switch}=True")
