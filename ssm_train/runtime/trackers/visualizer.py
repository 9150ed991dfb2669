"""Where scalars go: JSON lines always, TensorBoard and Weights & Biases by a switch."""

import importlib.util
from collections.abc import Sequence

from mmengine.visualization import Visualizer

from ssm_core.errors import MissingPackageError
from ssm_train.registry import VISUALIZERS


class BackendsBySwitch:
    """Put before a visualizer among the bases of a class: where it writes is then chosen by switches.

    Args:
        name: mmengine's handle of it.
        save_dir: where the run's files go; the Runner fills it in.
        tensorboard: write TensorBoard event files.
        wandb: log to Weights & Biases; ``WANDB_MODE=offline`` keeps that on this machine.
        wandb_project: the project there.
        wandb_id: the run there; the Runner fills it in, so that a resumed training goes on in its run.
    """

    def __init__(
        self,
        name: str = "visualizer",
        save_dir: str | None = None,
        tensorboard: bool = True,
        wandb: bool = False,
        wandb_project: str = "tree-ssm-train",
        wandb_id: str | None = None,
    ):
        writes = backends(name, tensorboard, wandb, wandb_project, wandb_id)
        super().__init__(name, vis_backends=writes, save_dir=save_dir)


@VISUALIZERS.register_module()
class TrainingVisualizer(BackendsBySwitch, Visualizer):
    """mmengine's visualizer with :class:`BackendsBySwitch`'s arguments."""

    def add_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int = 0) -> None:
        """Hand a table of texts to every backend."""
        for backend in self._vis_backends.values():
            backend.add_table(name, columns, rows, step)


def backends(name: str, tensorboard: bool, wandb: bool, wandb_project: str, wandb_id: str | None = None) -> list[dict]:
    """Configs of where a visualizer writes; the arguments are :class:`BackendsBySwitch`'s.

    Raises:
        MissingPackageError: one of the two is asked for and not installed.
    """
    found: list[dict] = [{"type": "ssm_train.LocalBackend"}]
    if tensorboard:
        _require("tensorboard", "visualizer.tensorboard")
        found.append({"type": "ssm_train.TensorboardBackend"})
    if wandb:
        _require("wandb", "visualizer.wandb")
        found.append({"type": "ssm_train.WandbBackend", "project": wandb_project, "run_name": name, "run_id": wandb_id})
    return found


def _require(package: str, switch: str) -> None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:  # no origin: a mere folder of that name, such as wandb's own output
        raise MissingPackageError(package, f"{switch}=True")
