"""Semantic segmentation as a task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, PixelData
from mmseg.datasets import BaseSegDataset

from ssm_train.data.images import write_png
from ssm_train.tasks.base import Labels, Size
from ssm_train.tasks.pipelines import PipelineTask
from ssm_train.tasks.segmentation.labels import label_image, renumber, smallest
from ssm_train.tasks.segmentation.predictions import LabelMapWriter
from ssm_train.tasks.tiles import Tiles, tiled_config

_LABEL_MAPS = ("pred_sem_seg", "gt_sem_seg")  # what of a sample is drawn


class Segmentation(PipelineTask):
    """Assigns a class to every pixel of an image."""

    labels_pixels: ClassVar[bool] = True

    def as_arrays(self, prediction: BaseDataElement, labels: Labels) -> dict[str, Any]:
        """The class of every pixel, see :meth:`.ImageTask.as_arrays`."""
        return {"labels": smallest(_label_map(prediction))}

    def probabilities(self, prediction: BaseDataElement) -> np.ndarray:  # [classes, H, W] float32
        """The probability of every class in every pixel, see :meth:`.ImageTask.probabilities`."""
        scores = prediction.seg_logits.data.float()
        # One output is that of a sigmoid already, and stands for two classes.
        both = torch.cat([1 - scores, scores]) if len(scores) == 1 else scores.softmax(0)
        return both.cpu().numpy()

    def as_data(self, prediction: BaseDataElement, labels: Labels) -> dict[str, Any]:
        """The share of the pixels of each class in the image."""
        label_map = _label_map(prediction)
        most = int(label_map.max(initial=0)) + 1
        # Row by row, because NumPy makes eight bytes of every label.
        found = sum((np.bincount(row, minlength=most) for row in label_map), np.zeros(most, dtype=np.int64))
        numbers = found.nonzero()[0]
        counts = found[numbers]
        names = [labels.name(i) for i in numbers.tolist()]
        return {"shares": dict(zip(names, (counts / label_map.size).round(5).tolist(), strict=True))}

    def resized(self, sample: BaseDataElement, before: Size, after: Size) -> BaseDataElement:
        """Label maps for a picture of another size, see :meth:`.PipelineTask.resized`."""
        resized = sample.new()
        for name in _LABEL_MAPS:
            if name in sample:
                labels = sample.get(name).data
                rows, columns = (
                    torch.arange(new, device=labels.device) * old // new
                    for new, old in zip(after, labels.shape[-2:], strict=True)
                )
                resized.set_data({name: PixelData(data=labels[..., rows[:, None], columns])})
        return resized

    def draw(self, path: Path, prediction: BaseDataElement, labels: Labels, out: Path) -> None:
        """Draw the label map over the image, and write the label map alone into a second file."""
        super().draw(path, prediction, labels, out)
        label_map = _label_map(prediction)
        write_png(out.with_name(f"{out.name}_labels.png"), label_image(label_map))

    def renumber_bare(self, dataset: Any, classes: Sequence[str]) -> None:
        """Number the classes of label maps in another order, see :meth:`.ImageTask.renumber`."""
        if isinstance(dataset, BaseSegDataset):
            renumber(dataset, classes)
        else:
            super().renumber_bare(dataset, classes)

    def merging(self) -> dict[str, Any]:
        """The mean of the probabilities, see :meth:`.PipelineTask.merging`."""
        return {"type": "ssm_train.tasks.segmentation.AugmentedSegmentor"}

    def tiled(self, tiles: Tiles) -> Config:
        """Copy the config, with sliding windows in the copy, see :meth:`.Task.tiled`."""
        self._test_data()
        return tiled_config(self.cfg, "ssm_train.tasks.segmentation.TiledSegmentor", tiles, {}, annotated=True)

    def prediction_writer(self, out: Path) -> LabelMapWriter:
        """Write label maps into a folder, see :meth:`.Task.prediction_writer`."""
        return LabelMapWriter(out)


def _label_map(prediction: BaseDataElement) -> np.ndarray:  # [H, W]
    labels = prediction.pred_sem_seg.data.squeeze(0)
    # mmseg's labels of a single output are floating-point numbers. Those of tiles stay small for large images.
    return (labels.long() if labels.is_floating_point() else labels).cpu().numpy()
