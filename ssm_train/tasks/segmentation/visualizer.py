"""mmseg's visualizer with switches for its backends, and a drawing of its own."""

from collections.abc import Sequence

import numpy as np
from mmengine.structures import BaseDataElement
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

from ssm_train.runtime.trackers.visualizer import BackendsBySwitch
from ssm_train.tasks.drawing import SideBySide, class_colours, draw_label_map

_IGNORED = 255  # in an annotation: mmseg's label of pixels that do not count


class SegmentationVisualizer(BackendsBySwitch, SideBySide, SegLocalVisualizer):
    """mmseg's visualizer, with the arguments of :class:`.BackendsBySwitch`.

    It draws label maps by :func:`ssm_train.tasks.drawing.draw_label_map`.

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
        alpha: float = 0.5,
        tensorboard: bool = True,
        wandb: bool = False,
        wandb_project: str = "tree-ssm-train",
        wandb_id: str | None = None,
        bands: Sequence[int] | None = None,
    ):
        super().__init__(name, save_dir, tensorboard, wandb, wandb_project, wandb_id, bands)
        self.alpha = alpha

    def draw_part(self, image: np.ndarray, sample: BaseDataElement, predicted: bool, named: bool) -> Image.Image | None:
        """Draw the predicted or the annotated label map, see :meth:`.SideBySide.draw_part`."""
        found = sample.get("pred_sem_seg" if predicted else "gt_sem_seg")
        if found is None:
            return None
        labels = np.asarray(found.data).reshape(image.shape[:2]).astype(np.int64)
        known = labels[labels != _IGNORED]
        names = self.dataset_meta.get("classes") or [f"class {n}" for n in range(int(known.max(initial=0)) + 1)]
        colours = class_colours(len(names), self.palette)
        return draw_label_map(image, labels, names, colours, self.alpha, named)
