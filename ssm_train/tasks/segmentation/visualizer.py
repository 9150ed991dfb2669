"""mmseg's visualizer with switches for its backends."""

from collections.abc import Sequence

from mmseg.visualization import SegLocalVisualizer

from ssm_train.runtime.trackers.visualizer import BackendsBySwitch


class SegmentationVisualizer(BackendsBySwitch, SegLocalVisualizer):
    """mmseg's visualizer, with the arguments of :class:`.BackendsBySwitch`.

    Args:
        name: see :class:`.BackendsBySwitch`.
        save_dir: see :class:`.BackendsBySwitch`.
        alpha: opacity of the labels over the image, from 0 to 1.
        tensorboard: see :class:`.BackendsBySwitch`.
        wandb: see :class:`.BackendsBySwitch`.
        wandb_project: see :class:`.BackendsBySwitch`.
        wandb_id: see :class:`.BackendsBySwitch`.
        bands: see :class:`.BackendsBySwitch`.
    """

    def __init__(
        self,
        name: str = "visualizer",
        save_dir: str | None = None,
        alpha: float = 0.6,
        tensorboard: bool = True,
        wandb: bool = False,
        wandb_project: str = "tree-ssm-train",
        wandb_id: str | None = None,
        bands: Sequence[int] | None = None,
    ):
        super().__init__(name, save_dir, tensorboard, wandb, wandb_project, wandb_id, bands)
        self.alpha = alpha
