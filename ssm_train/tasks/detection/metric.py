"""COCO's average precision as a metric."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval, COCOevalMP
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger

from ssm_core.errors import ConfigError, DataError
from ssm_train.runtime.class_report import ClassReport, figures_of
from ssm_train.tasks.detection.annotations import BadAnnotations, read_annotations
from ssm_train.tasks.detection.confusion import Objects, count_pairs


class CocoInstanceMetric(CocoMetric):
    """COCO's precisions of all objects, ``coco/bbox_mAP``, ``coco/segm_mAP`` …, and of every class, from 0 to 1.

    Only images with predictions count, so that images that could not be read are left out. A model that finds no object
    has a precision of 0. If there is no object to find, the precision is NaN.

    The report of :class:`.ClassReportHook` has the number of objects of every class, their AP at all overlaps, at 0.5
    and at 0.75, and their AR, by boxes and by masks. Its confusion matrix takes the predictions with a score of at
    least ``min_score``, each for the true object whose box it overlaps by half or more. The background stands for
    objects that were not found and for predictions of nothing. Precision, recall and F1 of the report are those of the
    matrix.

    Args:
        ann_file: the annotation file.
        metric: ``"bbox"``, ``"segm"`` or both in a list; mmdet's ``"proposal"`` and ``"proposal_fast"`` are possible.
        bad_annotations: see :func:`read_annotations`.
        min_score: lowest score of the predictions in the confusion matrix.
        options: further arguments of mmdet's metric. With ``classwise=True``, the AP of every class is a metric, too:
            ``coco/bbox_AP/<class>``.

    Raises:
        DataError: see :func:`read_annotations`.
    """

    report: ClassReport | None = None

    # Where COCO's summary has the figures that mmdet names.
    _ITEMS: ClassVar[dict[str, int]] = {
        "mAP": 0, "mAP_50": 1, "mAP_75": 2, "mAP_s": 3, "mAP_m": 4, "mAP_l": 5,
        "AR@100": 6, "AR@300": 7, "AR@1000": 8, "AR_s@1000": 9, "AR_m@1000": 10, "AR_l@1000": 11,
    }  # fmt: skip

    def __init__(
        self,
        ann_file: str,
        metric: str | Sequence[str] = ("bbox", "segm"),
        bad_annotations: BadAnnotations = "skip",
        min_score: float = 0.3,
        **options: Any,
    ):
        metric = [metric] if isinstance(metric, str) else list(metric)
        # "gpu" gathers by the process group, on any device. "cpu" would gather by files.
        super().__init__(metric=metric, collect_device="gpu", **options)
        self.min_score = min_score
        unknown = [item for item in self.metric_items or () if item not in self._ITEMS]
        if unknown:
            raise ConfigError(f"metric_items has no {unknown[0]!r}, only {', '.join(self._ITEMS)}")
        content = read_annotations(ann_file, bad_annotations)
        self._coco_api = COCO()
        self._coco_api.dataset = vars(content)
        self._coco_api.createIndex()

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """Compute the precisions over the images with predictions.

        Raises:
            DataError: there are no predictions.
            ConfigError: precisions of masks are wanted, and the model has none.
        """
        if not results:
            raise DataError(
                "there is nothing to evaluate, because no image could be read: check the paths of the dataset"
            )
        self.img_ids = list(dict.fromkeys(prediction["img_id"] for _, prediction in results))
        self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta["classes"])
        wanted = self.metrics
        kinds = [] if self.format_only else [kind for kind in wanted if kind in ("bbox", "segm")]
        self.metrics = [kind for kind in wanted if kind not in kinds]
        others = super().compute_metrics(results) if self.metrics or self.outfile_prefix else {}
        self.metrics = wanted
        if not kinds:
            return others
        predictions = [prediction for _, prediction in results]
        metrics: dict[str, float] = {}
        counts = self._counts()
        if not sum(counts):  # COCO's figures would be -1, and 0 if nothing is predicted
            return dict.fromkeys((f"{kind}_mAP" for kind in kinds), np.nan) | others
        columns: dict[str, list[float]] = {"objects": counts}
        for kind in kinds:
            figures, of_class = self._evaluate(kind, predictions)
            metrics |= {f"{kind}_{name}": value for name, value in figures.items()}
            columns |= {f"{kind}_{name}": values for name, values in of_class.items()}
        self.report = self._report(columns, predictions)
        return metrics | others

    def _evaluate(self, kind: str, predictions: Sequence[dict]) -> tuple[dict[str, float], dict[str, list[float]]]:
        """COCO's figures by boxes or by masks: of all objects, and of every class."""
        if kind == "segm" and "masks" not in predictions[0]:
            raise ConfigError('the model predicts no masks: set metric="bbox" in val_evaluator and test_evaluator')
        objects = [item for prediction in predictions for item in objects_of(prediction, self.cat_ids)]
        if not objects:
            return {"mAP": 0.0}, {"AP": [0.0 if count else np.nan for count in self._counts()]}
        if kind == "segm":
            # COCO would take the area of the box for that of the mask.
            objects = [{key: value for key, value in item.items() if key != "bbox"} for item in objects]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):  # pycocotools prints
            evaluation = (COCOevalMP if self.use_mp_eval else COCOeval)(
                self._coco_api, self._coco_api.loadRes(objects), kind
            )
            evaluation.params.catIds = self.cat_ids
            evaluation.params.imgIds = self.img_ids
            evaluation.params.maxDets = list(self.proposal_nums)
            evaluation.params.iouThrs = np.asarray(self.iou_thrs)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        MMLogger.get_current_instance().info(f"{kind}\n{said.getvalue()}")
        items = self.metric_items or list(self._ITEMS)[:6]
        figures = {item: round(float(evaluation.stats[self._ITEMS[item]]), 3) for item in items}
        of_class = self._of_classes(evaluation)
        if self.classwise:
            figures |= {f"AP/{name}": value for name, value in zip(self._names, of_class["AP"], strict=True)}
        return figures, of_class

    def _of_classes(self, evaluation: COCOeval) -> dict[str, list[float]]:
        """AP and AR of every class, over objects of all sizes and with the most predictions for an image."""
        # [threshold, recall, class, size, limit]; -1 where a class has no objects
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        recall = evaluation.eval["recall"][:, :, 0, -1]
        found = {"AP": precision}
        for name, overlap in (("AP50", 0.5), ("AP75", 0.75)):
            place = np.flatnonzero(np.isclose(self.iou_thrs, overlap))
            if len(place):
                found[name] = precision[place]
        columns = {name: [_mean(values[..., c]) for c in range(values.shape[2])] for name, values in found.items()}
        return columns | {"AR": [_mean(recall[:, c]) for c in range(recall.shape[1])]}

    def _report(self, columns: Mapping[str, Sequence[float]], predictions: Sequence[dict]) -> ClassReport:
        number_of = {category: number for number, category in enumerate(self.cat_ids)}
        confusion = np.zeros((len(number_of) + 1,) * 2, dtype=np.int64)
        for prediction in predictions:
            own = [a for a in self._annotations(prediction["img_id"]) if a["category_id"] in number_of]
            labels = [number_of[annotation["category_id"]] for annotation in own]
            boxes = np.array([annotation["bbox"] for annotation in own], dtype=float).reshape(-1, 4)
            true = Objects(labels, boxes, [bool(annotation.get("iscrowd")) for annotation in own])
            kept = [item for item in objects_of(prediction, self.cat_ids) if item["score"] >= self.min_score]
            found = Objects(
                [number_of[item["category_id"]] for item in kept],
                np.array([item["bbox"] for item in kept], dtype=float).reshape(-1, 4),
                [item["score"] for item in kept],
            )
            count_pairs(confusion, true, found)
        figures = {name: values[:-1] / 100 for name, values in figures_of(confusion).items() if name != "iou"}
        return ClassReport(self._names, {**columns, **figures}, confusion, background=True)

    def _annotations(self, image: int) -> list[dict]:
        return self._coco_api.loadAnns(self._coco_api.getAnnIds(imgIds=[image]))

    def _counts(self) -> list[float]:
        """Number of the objects of every class in the images with predictions, without crowds."""
        get = self._coco_api.getAnnIds
        return [len(get(imgIds=self.img_ids, catIds=[category], iscrowd=False)) for category in self.cat_ids]

    @property
    def _names(self) -> list[str]:
        return [category["name"] for category in self._coco_api.loadCats(self.cat_ids)]


def objects_of(prediction: Mapping[str, Any], categories: Sequence[int]) -> list[dict]:
    """The objects of an image in the form of COCO's results.

    Args:
        prediction: what mmdet's metric keeps of an image: ``img_id``, arrays ``bboxes`` (left, top, right, bottom),
            ``scores``, ``labels``, and run lengths ``masks`` if there are any.
        categories: the annotation file's number of every class.
    """
    boxes = prediction["bboxes"].astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    columns = zip(prediction["labels"].tolist(), boxes.tolist(), prediction["scores"].tolist(), strict=True)
    objects = [
        {"image_id": prediction["img_id"], "category_id": categories[label], "bbox": box, "score": score}
        for label, box, score in columns
    ]
    for item, mask in zip(objects, prediction.get("masks", ()), strict=False):
        item["segmentation"] = as_text(mask)
    return objects


def as_text(mask: Mapping[str, Any]) -> dict[str, Any]:
    """Run lengths of a mask with characters instead of bytes, as JSON needs them."""
    counts = mask["counts"]
    text = counts.decode() if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in mask["size"]], "counts": text}


def _mean(values: np.ndarray) -> float:
    """Mean of the values that COCO has not marked as missing; NaN if all are."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")
