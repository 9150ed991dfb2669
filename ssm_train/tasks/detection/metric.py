"""COCO's average precision as a metric."""

from collections.abc import Sequence
from typing import Any

from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric

from ssm_core.errors import DataError
from ssm_train.tasks.detection.annotations import BadAnnotations, read_annotations


class CocoInstanceMetric(CocoMetric):
    """mmdet's COCO metric: ``coco/bbox_mAP``, ``coco/segm_mAP`` …, from 0 to 1.

    Only images with predictions count, so that images that could not be read are left out. A model that finds no object
    has a precision of 0.

    Args:
        ann_file: the annotation file.
        metric: ``"bbox"``, ``"segm"`` or both in a list.
        bad_annotations: see :func:`read_annotations`.
        options: further arguments of mmdet's metric.

    Raises:
        DataError: see :func:`read_annotations`.
    """

    def __init__(
        self,
        ann_file: str,
        metric: str | Sequence[str] = ("bbox", "segm"),
        bad_annotations: BadAnnotations = "skip",
        **options: Any,
    ):
        metric = [metric] if isinstance(metric, str) else list(metric)
        # "gpu" gathers by the process group, on any device. "cpu" would gather by files.
        super().__init__(metric=metric, collect_device="gpu", **options)
        content = read_annotations(ann_file, bad_annotations)
        self._coco_api = COCO()
        self._coco_api.dataset = vars(content)
        self._coco_api.createIndex()

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """Compute the precisions over the images with predictions.

        Raises:
            DataError: there are no predictions.
        """
        if not results:
            raise DataError(
                "there is nothing to evaluate, because no image could be read: check the paths of the dataset"
            )
        self.img_ids = list(dict.fromkeys(prediction["img_id"] for _, prediction in results))
        computed = super().compute_metrics(results)
        return {f"{name}_mAP": 0.0 for name in self.metrics if not self.format_only} | computed
