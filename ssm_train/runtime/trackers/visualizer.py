"""Visualizers with switches: they always write JSON lines, and TensorBoard and Weights & Biases if asked."""

import importlib.util
from collections.abc import Sequence

from mmengine.visualization import Visualizer

from ssm_core.errors import MissingPackageError
from ssm_train.registry import VISUALIZERS
from ssm_train.runtime.trackers.patient import PatientBackend


class BackendsBySwitch:
    """A base class to put before a visualizer, which adds switches for its backends.

    Args:
        name: name by which mmengine finds the visualizer.
        save_dir: folder for the files of the run; the Runner sets it. Without one, nothing is recorded, and pictures
            are drawn for whoever asks for them.
        tensorboard: whether to write TensorBoard event files.
        wandb: whether to log to Weights & Biases; ``WANDB_MODE=offline`` keeps everything on this machine.
        wandb_project: name of the project at Weights & Biases.
        wandb_id: id of the run at Weights & Biases. The Runner sets it, so that a resumed training continues its run.
        bands: numbers from 0 of the three channels that pictures of images with many channels show as red, green and
            blue; None for the first three.

    Raises:
        MissingPackageError: a switch is on, and its package is not installed.
    """

    def __init__(
        self,
        name: str = "visualizer",
        save_dir: str | None = None,
        tensorboard: bool = True,
        wandb: bool = False,
        wandb_project: str = "tree-ssm-train",
        wandb_id: str | None = None,
        bands: Sequence[int] | None = None,
    ):
        self.bands = bands
        writes = backends(name, tensorboard, wandb, wandb_project, wandb_id)
        super().__init__(name, vis_backends=[] if save_dir is None else writes, save_dir=save_dir)
        self._vis_backends = {name: PatientBackend(backend) for name, backend in self._vis_backends.items()}


@VISUALIZERS.register_module()
class TrainingVisualizer(BackendsBySwitch, Visualizer):
    """mmengine's visualizer with the arguments of :class:`BackendsBySwitch`."""

    def add_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int = 0) -> None:
        """Pass a table of texts to every backend.

        Args:
            name: name of the table.
            columns: titles of the columns.
            rows: cells of each row.
            step: number of completed iterations.
        """
        for backend in self._vis_backends.values():
            backend.add_table(name, columns, rows, step)


def backends(name: str, tensorboard: bool, wandb: bool, wandb_project: str, wandb_id: str | None = None) -> list[dict]:
    """Configs of the backends of a visualizer. The arguments are those of :class:`BackendsBySwitch`.

    Raises:
        MissingPackageError: a switch is on, and its package is not installed.
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
    if spec is None or spec.origin is None:  # without origin it is only a folder of that name, such as wandb's output
        raise MissingPackageError(package, f"{switch}=True")
