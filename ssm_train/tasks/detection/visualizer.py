"""mmdet's visualizer with switches for its backends, and a drawing of its own."""

from typing import Any

import numpy as np
import torch
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image

from ssm_train.runtime.trackers.visualizer import BackendsBySwitch
from ssm_train.tasks.drawing import DrawnObject, SideBySide, class_colour, draw_objects


class DetectionVisualizer(BackendsBySwitch, SideBySide, DetLocalVisualizer):
    """mmdet's visualizer with the arguments of :class:`~ssm_train.runtime.trackers.visualizer.BackendsBySwitch`.

    It draws objects by :func:`ssm_train.tasks.drawing.draw_objects`.
    """

    def draw_part(self, image: np.ndarray, sample: BaseDataElement, predicted: bool, named: bool) -> Image.Image | None:
        """Draw the predicted or the annotated objects, see :meth:`.SideBySide.draw_part`."""
        objects = sample.get("pred_instances" if predicted else "gt_instances")
        if objects is None:
            # Beside a prediction, an image without annotation shows that there is none.
            return None if predicted or "pred_instances" not in sample else Image.fromarray(image)
        return draw_objects(image, self._drawn(objects, image.shape[1], image.shape[0]), named)

    def _drawn(self, objects: InstanceData, width: int, height: int) -> list[DrawnObject]:
        if "labels" not in objects:
            return []
        numbers = torch.as_tensor(objects.labels).tolist()
        names = self.dataset_meta.get("classes") or ()
        masks = _pixels(objects.get("masks"))
        boxes = objects.get("bboxes")
        boxes = torch.as_tensor(getattr(boxes, "tensor", boxes)) if boxes is not None else _around(masks)
        edges = torch.tensor([width, height] * 2, dtype=torch.float32)
        boxes = boxes.float().nan_to_num().clamp(min=torch.zeros(4), max=edges)
        scores = objects.get("scores")
        return [
            DrawnObject(
                # mmdet writes the number where it knows no name. A label of -1 is an object without a class.
                str(names[n]) if 0 <= n < len(names) else f"class {n}",
                class_colour(n, self.palette),
                tuple(boxes[i].tolist()),
                None if scores is None else float(scores[i]),
                None if masks is None else masks[i],
            )
            for i, n in enumerate(numbers)
        ]


def _pixels(masks: Any) -> np.ndarray | None:  # [N, H, W] bool
    """Masks in any of mmdet's forms as pixels; None if there are none, or they are run lengths."""
    if masks is None or isinstance(masks, list):
        return None
    if not isinstance(masks, torch.Tensor | np.ndarray):
        masks = masks.to_ndarray()
    return np.asarray(masks).astype(bool)


def _around(masks: np.ndarray) -> torch.Tensor:  # [N, 4]
    """The smallest boxes around masks."""
    found = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0))
    return torch.tensor(found, dtype=torch.float32).reshape(-1, 4)
