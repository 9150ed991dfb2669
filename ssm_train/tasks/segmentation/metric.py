"""The overlap of label maps as a metric."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmseg.evaluation import IoUMetric
from torch import Tensor

from ssm_train.runtime.class_report import ClassReport, figures_of


class SegmentationMetric(IoUMetric):
    """mmseg's ``aAcc``, ``mIoU``, ``mAcc`` …, in percent, with the figures of every class and the confusion matrix.

    The report of :class:`.ClassReportHook` has the number of pixels, IoU, precision, recall (which is mmseg's Acc) and
    F1 (which is Dice) of every class. The matrix counts pixels, without those of ``ignore_index``.

    Args:
        iou_metrics: of ``"mIoU"``, ``"mDice"`` and ``"mFscore"``, those that are computed.
        ignore_index: label of the pixels that do not count.
        options: further arguments of mmseg's metric.
    """

    report: ClassReport | None = None

    def __init__(self, iou_metrics: Sequence[str] = ("mIoU",), ignore_index: int = 255, **options: Any):
        # "gpu" gathers by the process group, on any device. "cpu" would gather by files.
        super().__init__(
            iou_metrics=list(iou_metrics), **{"collect_device": "gpu", "ignore_index": ignore_index, **options}
        )
        self._confusion: Tensor | None = None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of every pair of a true and a predicted class."""
        from torchmetrics.functional.classification import multiclass_confusion_matrix  # here, because it takes seconds

        super().process(data_batch, data_samples)
        if self.format_only:
            return
        for sample in data_samples:
            predicted = sample["pred_sem_seg"]["data"].squeeze()
            label = sample["gt_sem_seg"]["data"].squeeze().to(predicted)
            counts = multiclass_confusion_matrix(
                predicted, label, self._count, ignore_index=self.ignore_index, validate_args=False
            )
            self._confusion = counts if self._confusion is None else self._confusion + counts

    def evaluate(self, size: int) -> dict:
        """Compute the figures over a whole dataset of ``size`` samples."""
        found = self._confusion
        confusion = torch.zeros(self._count, self._count, dtype=torch.int64) if found is None else found.cpu()
        self._confusion = None
        all_reduce(confusion)
        if not self.format_only:
            matrix = confusion.numpy()
            figures = figures_of(matrix)
            columns = {"pixels": matrix.sum(axis=1).tolist()}
            columns |= {name: figures[name].tolist() for name in ("iou", "precision", "recall", "f1")}
            self.report = ClassReport(list(self.dataset_meta["classes"]), columns, matrix)
        return super().evaluate(size)

    @property
    def _count(self) -> int:
        return len(self.dataset_meta["classes"])
