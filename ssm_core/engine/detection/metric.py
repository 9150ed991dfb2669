"""COCO's average precision."""

from collections.abc import Sequence
from typing import Any

from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger

from ssm_core.engine.detection.annotations import BadData, read_annotations
from ssm_core.engine.errors import DataError


class CocoInstanceMetric(CocoMetric):
    """mmdet's COCO metric: ``coco/bbox_mAP``, ``coco/segm_mAP`` …, from 0 to 1.

    Images that could not be read are left out and counted, and a model that finds nothing at all has a precision of 0.

    Args:
        ann_file: the annotation file.
        metric: ``"bbox"``, ``"segm"`` or both.
        bad_data: see :func:`read_annotations`.
        options: mmdet's further arguments.
    """

    def __init__(
        self,
        ann_file: str,
        metric: str | Sequence[str] = ("bbox", "segm"),
        bad_data: BadData = "skip",
        **options: Any,
    ):
        metric = [metric] if isinstance(metric, str) else list(metric)
        # Results are gathered by the process group, whatever its device; "cpu" means by files.
        super().__init__(metric=metric, collect_device="gpu", **options)
        content = read_annotations(ann_file, bad_data)
        self._coco_api = COCO()
        self._coco_api.dataset = vars(content)
        self._coco_api.createIndex()

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Note the predictions of a batch, and of unreadable images that they were."""
        for sample in data_samples:
            if sample.get("unreadable"):
                self.results.append((sample["img_id"], None))
            else:
                super().process(data_batch, [sample])

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """The precisions over all images that could be read.

        Raises:
            DataError: there are none.
        """
        unreadable = {image for image, prediction in results if prediction is None}
        readable = [pair for pair in results if pair[1] is not None]
        if not readable:
            raise DataError(f"not one of {len(results)} images could be read: there is nothing to evaluate")
        self.img_ids = [number for number in self._coco_api.get_img_ids() if number not in unreadable]
        if unreadable:
            MMLogger.get_current_instance().warning(
                f"{len(unreadable)} of {len(results)} images could not be read and are not in the average precision"
            )
        computed = super().compute_metrics(readable)
        if self.format_only:
            return computed
        return {f"{name}_mAP": 0.0 for name in self.metrics if name in ("bbox", "segm")} | computed
