"""Where scalars go, and how label maps are drawn."""

from mmseg.visualization import SegLocalVisualizer

from ssm_train.runtime.trackers.visualizer import backends


class SegmentationVisualizer(SegLocalVisualizer):
    """mmseg's visualizer with its backends chosen by name.

    Args:
        name: mmengine's handle of it.
        save_dir: where the run's files go; the Runner fills it in.
        alpha: opacity of the labels over the image.
        tensorboard: write TensorBoard event files.
        wandb: log to Weights & Biases; ``WANDB_MODE=offline`` keeps that on this machine.
        wandb_project: the project there.
        wandb_id: the run there; the Runner fills it in, so that a resumed training goes on in its run.
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
    ):
        writes = backends(name, tensorboard, wandb, wandb_project, wandb_id)
        super().__init__(name, vis_backends=writes, save_dir=save_dir, alpha=alpha)
