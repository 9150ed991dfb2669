"""Segmentation of large images by sliding windows, in memory for a row of windows."""

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from ssm_train.tasks.tiles import TiledModel

_BYTE = 256  # labels that fit into eight bits


class TiledSegmentor(TiledModel):
    """A segmentor that sees tiles of an image, whose logits are averaged where tiles overlap.

    It gives what mmseg's sliding windows (``test_cfg.mode="slide"``) give. But those keep the logits of all pixels, and
    this keeps those of a row of tiles. Classes are of eight bits where they fit.

    Args:
        options: arguments of :class:`.TiledModel`.
    """

    def predict(self, image: Tensor, sample: SegDataSample) -> SegDataSample:
        """Predict for an image, see :meth:`.TiledModel.predict`."""
        height, width = image.shape[1:]
        starts = [start for start, _ in self.tiles.cut(height)]
        labels: Tensor | None = None
        top = 0  # first row whose logits are not complete
        sums = counts = None
        for place, prediction in self.predictions(image, sample):
            logits = prediction.seg_logits.data
            if sums is None or labels is None:
                classes, rows = len(logits), place.bottom - place.top
                sums, counts = logits.new_zeros(classes, rows, width), logits.new_zeros(rows, width)
                kind = torch.uint8 if max(classes, 2) <= _BYTE else torch.int32
                labels = torch.empty(height, width, dtype=kind)
            if place.top > top:  # the first tile of a row
                done = place.top - top
                labels[top : place.top] = self._classes(sums[:, :done] / counts[:done]).to(labels)
                sums, counts = _moved_up(sums, done), _moved_up(counts, done)
                top = place.top
            sums[:, :, place.left : place.right] += logits
            counts[:, place.left : place.right] += 1
        assert top == starts[-1]
        labels[top:] = self._classes(sums / counts).to(labels)
        sample.set_data({"pred_sem_seg": PixelData(data=labels[None])})
        return sample

    def _classes(self, means: Tensor) -> Tensor:  # of [K, rows, W]
        # Of one channel, mmseg has made probabilities of the logits.
        return means.argmax(0) if len(means) > 1 else means[0] > self.module.decode_head.threshold


def _moved_up(values: Tensor, rows: int) -> Tensor:
    """Values without their first rows, and with rows of zeros at the end."""
    moved = torch.zeros_like(values)
    left = values.shape[-2] - rows
    if left > 0:
        moved[..., :left, :] = values[..., rows:, :]
    return moved
