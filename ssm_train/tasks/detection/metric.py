"""COCO's average precision."""

from collections.abc import Sequence
from typing import Any

from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric

from ssm_core.errors import DataError
from ssm_train.tasks.detection.annotations import BadAnnotations, read_annotations


class CocoInstanceMetric(CocoMetric):
    """mmdet's COCO metric: ``coco/bbox_mAP``, ``coco/segm_mAP`` …, from 0 to 1.

    Only images that there are predictions of count, which leaves out those that could not be read. A model that finds
    nothing at all has a precision of 0.

    Args:
        ann_file: the annotation file.
        metric: ``"bbox"``, ``"segm"`` or a list of both.
        bad_annotations: see :func:`read_annotations`.
        options: mmdet's further arguments.
    """

    def __init__(
        self,
        ann_file: str,
        metric: str | Sequence[str] = ("bbox", "segm"),
        bad_annotations: BadAnnotations = "skip",
        **options: Any,
    ):
        metric = [metric] if isinstance(metric, str) else list(metric)
        # Results are gathered by the process group, whatever its device; "cpu" means by files.
        super().__init__(metric=metric, collect_device="gpu", **options)
        content = read_annotations(ann_file, bad_annotations)
        self._coco_api = COCO()
        self._coco_api.dataset = vars(content)
        self._coco_api.createIndex()

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """The precisions over the images that there are predictions of.

        Raises:
            DataError: there are none.
        """
        if not results:
            raise DataError("not one image could be read: there is nothing to evaluate")
        self.img_ids = list(dict.fromkeys(prediction["img_id"] for _, prediction in results))
        computed = super().compute_metrics(results)
        return {f"{name}_mAP": 0.0 for name in self.metrics if not self.format_only} | computed
