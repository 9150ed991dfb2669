"""Where scalars go, and how detections are drawn."""

from mmdet.visualization import DetLocalVisualizer

from ssm_core.engine.visualizer import backends


class DetectionVisualizer(DetLocalVisualizer):
    """mmdet's visualizer with its backends chosen by name.

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
        super().__init__(name, vis_backends=backends(name, tensorboard, wandb, wandb_project), save_dir=save_dir)
