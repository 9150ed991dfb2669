"""The overlap of label maps as a metric."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmseg.evaluation import IoUMetric
from torch import Tensor

from ssm_core.errors import ConfigError
from ssm_train.runtime.class_report import ClassReport, figures_of


class SegmentationMetric(IoUMetric):
    """mmseg's ``aAcc``, ``mIoU``, ``mAcc`` …, in percent, with the figures of every class and the confusion matrix.

    The report of :class:`.ClassReportHook` has the number of pixels, IoU, precision, recall (which is mmseg's Acc) and
    F1 (which is Dice) of every class. The matrix counts pixels, without those of ``ignore_index``. ``ece`` is the
    expected calibration error of a sample of the pixels: the mean distance between the probability of the predicted
    class and the accuracy, over bins of that probability. Predictions by tiles have no probabilities and no ``ece``.

    Args:
        iou_metrics: of ``"mIoU"``, ``"mDice"`` and ``"mFscore"``, those that are computed.
        ignore_index: label of the pixels that do not count.
        bins: number of equal bins of the probability for ``ece``.
        pixels: how many pixels of an image ``ece`` is computed over, evenly spaced among those that count; 0 for none.
        options: further arguments of mmseg's metric.
    """

    default_prefix = ""
    report: ClassReport | None = None
    _ece: float | None = None

    def __init__(
        self,
        iou_metrics: Sequence[str] = ("mIoU",),
        ignore_index: int = 255,
        bins: int = 15,
        pixels: int = 1000,
        **options: Any,
    ):
        if bins < 1 or pixels < 0:
            raise ConfigError(f"SegmentationMetric needs at least one bin and no negative pixels, not {bins}, {pixels}")
        # "gpu" gathers by the process group, on any device. "cpu" would gather by files.
        super().__init__(
            iou_metrics=list(iou_metrics), **{"collect_device": "gpu", "ignore_index": ignore_index, **options}
        )
        self.bins, self.pixels = bins, pixels
        self._confusion: Tensor | None = None
        self._sure: list[Tensor] = []  # [2, pixels] of every image: probability, and whether it is right

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of every pair of a true and a predicted class."""
        from torchmetrics.functional.classification import multiclass_confusion_matrix  # here, because it takes seconds

        super().process(data_batch, data_samples)
        if self.format_only:
            return
        for sample in data_samples:
            predicted = sample["pred_sem_seg"]["data"].squeeze().long()
            label = sample["gt_sem_seg"]["data"].squeeze().to(predicted)
            counts = multiclass_confusion_matrix(
                predicted, label, self._count, ignore_index=self.ignore_index, validate_args=False
            )
            self._confusion = counts if self._confusion is None else self._confusion + counts
            if self.pixels and "seg_logits" in sample:
                self._sure.append(
                    _sure_and_right(sample["seg_logits"]["data"], predicted, label, self.ignore_index, self.pixels)
                )

    def evaluate(self, size: int) -> dict:
        """Compute the figures over a whole dataset of ``size`` samples."""
        found = self._confusion
        confusion = torch.zeros(self._count, self._count, dtype=torch.int64) if found is None else found.cpu()
        self._confusion = None
        all_reduce(confusion)
        self._ece = self._calibration()
        if not self.format_only:
            matrix = confusion.numpy()
            figures = figures_of(matrix)
            columns = {"pixels": matrix.sum(axis=1).tolist()}
            columns |= {name: figures[name].tolist() for name in ("iou", "precision", "recall", "f1")}
            self.report = ClassReport(list(self.dataset_meta["classes"]), columns, matrix)
        return super().evaluate(size)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Add the calibration error to mmseg's figures."""
        figures = super().compute_metrics(results)
        return figures if self._ece is None else figures | {"ece": self._ece}

    def _calibration(self) -> float | None:
        """The calibration error over the pixels of all processes, in percent; None if there are none."""
        from torchmetrics.functional.classification import binary_calibration_error

        found = all_gather_object(torch.cat(self._sure, dim=1).cpu() if self._sure else torch.zeros(2, 0))
        self._sure = []
        sure, right = torch.cat(found, dim=1)
        return 100 * float(binary_calibration_error(sure, right.long(), self.bins)) if len(sure) else None

    @property
    def _count(self) -> int:
        return len(self.dataset_meta["classes"])


def _sure_and_right(
    scores: Tensor,  # [classes, H, W] logits, or [1, H, W] the probability of the second of two classes
    predicted: Tensor,  # [H, W]
    label: Tensor,  # [H, W]
    ignored: int,
    most: int,
) -> Tensor:  # [2, pixels] float32
    """The probability of the predicted class in some pixels that count, and whether it is right there."""
    places = (label.flatten() != ignored).nonzero()[:, 0]
    places = places[torch.linspace(0, len(places) - 1, min(most, len(places)), device=places.device).round().long()]
    found, true = (values.flatten()[places] for values in (predicted, label))
    values = scores.flatten(1)[:, places].float()
    chances = torch.cat([1 - values, values]) if len(values) == 1 else values.softmax(0)
    sure = chances.gather(0, found[None])[0]
    return torch.stack([sure.clamp(0, 1), (found == true).float()])
