"""COCO's average precision as a metric."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from mmdet.datasets.api_wrappers import COCO, COCOeval, COCOevalMP
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger

from ssm_core.errors import ConfigError, DataError
from ssm_train.data.classes import parts_of
from ssm_train.runtime.class_report import ClassReport, figures_of
from ssm_train.tasks.detection.annotations import BadAnnotations, CocoAnnotations
from ssm_train.tasks.detection.confusion import Objects, count_pairs
from ssm_train.tasks.detection.index import open_annotations


class CocoInstanceMetric(CocoMetric):
    """COCO's precisions of all objects, ``coco/bbox_mAP``, ``coco/segm_mAP`` …, and of every class, from 0 to 1.

    Only images with predictions count, so that images that could not be read are left out. A model that finds no object
    has a precision of 0. If there is no object to find, the precision is NaN.

    The report of :class:`.ClassReportHook` has the number of objects of every class, their AP at all overlaps, at 0.5
    and at 0.75, and their AR, by boxes and by masks. Its confusion matrix takes the predictions with a score of at
    least ``min_score``, each for the true object whose box it overlaps by half or more. The background stands for
    objects that were not found and for predictions of nothing. Precision, recall and F1 of the report are those of the
    matrix.

    ``coco/bbox_ece`` and ``coco/segm_ece`` are the expected calibration error of Küppers et al., Multivariate
    Confidence Calibration for Object Detection, 2020 (their D-ECE by the score alone): the mean distance between the
    score and the precision, over bins of the score. It is over the predictions with a score of at least ``min_score``.
    A prediction is right if COCO's rules give it an object of its class at an overlap of 0.5; those on crowds do not
    count. There is none if nothing scores as much, or without the overlap 0.5 in ``iou_thrs``.

    In a run, the annotations are those that the dataset has read. The classes are compared by name.

    Args:
        ann_file: the annotation file, for a dataset that is no :class:`.CocoInstances`.
        metric: ``"bbox"``, ``"segm"`` or both in a list; mmdet's ``"proposal"`` and ``"proposal_fast"`` are possible.
        bad_annotations: see :func:`.read_annotations`.
        min_score: lowest score of the predictions in the confusion matrix and in the calibration error.
        bins: number of equal bins of the score for the calibration error.
        options: further arguments of mmdet's metric. With ``classwise=True``, the AP of every class is a metric, too:
            ``coco/bbox_AP/<class>``.

    Raises:
        ConfigError: ``metric_items`` has an unknown item, or ``bins`` is below 1.
    """

    report: ClassReport | None = None

    # Where COCO's summary has the figures that mmdet names.
    _ITEMS: ClassVar[dict[str, int]] = {
        "mAP": 0, "mAP_50": 1, "mAP_75": 2, "mAP_s": 3, "mAP_m": 4, "mAP_l": 5,
        "AR@100": 6, "AR@300": 7, "AR@1000": 8, "AR_s@1000": 9, "AR_m@1000": 10, "AR_l@1000": 11,
    }  # fmt: skip

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = ("bbox", "segm"),
        bad_annotations: BadAnnotations = "skip",
        min_score: float = 0.3,
        bins: int = 15,
        **options: Any,
    ):
        metric = [metric] if isinstance(metric, str) else list(metric)
        # "gpu" gathers by the process group, on any device. "cpu" would gather by files.
        super().__init__(metric=metric, collect_device="gpu", **options)
        if bins < 1:
            raise ConfigError(f"CocoInstanceMetric needs at least one bin, not {bins}")
        self.min_score, self.bins = min_score, bins
        unknown = [item for item in self.metric_items or () if item not in self._ITEMS]
        if unknown:
            raise ConfigError(f"metric_items has no {unknown[0]!r}, only {', '.join(self._ITEMS)}")
        self._coco_api = COCO()  # tells mmdet that the truth need not be collected with the predictions
        self.ann_file = ann_file
        self.bad_annotations = bad_annotations
        self._content: CocoAnnotations | None = None
        self._truth: tuple[tuple[str, ...], COCO] | None = None

    def take_data(self, dataset: Any) -> None:
        """Take over the annotations of a dataset. They are read from ``ann_file`` if it is no :class:`.CocoInstances`.

        Raises:
            ConfigError: the dataset joins several.
            DataError: see :func:`.read_annotations`.
        """
        if len(parts_of(dataset)) > 1:
            raise ConfigError(
                "CocoInstanceMetric compares with one annotation file, and these data are joined of several datasets: "
                "join their files, or test on one after the other"
            )
        read = getattr(dataset, "coco_annotations", None)
        if read is None:
            _ = self.content
            return
        self._content = self._usable(read())
        own = self._content.source
        if self.ann_file is not None and os.path.realpath(self.ann_file) != os.path.realpath(own):
            MMLogger.get_current_instance().warning(
                f"the metric's ann_file {self.ann_file} is not used: the annotations are those of the dataset, {own}"
            )

    @property
    def content(self) -> CocoAnnotations:
        """The annotations that predictions are compared with.

        Raises:
            ConfigError: there is no ``ann_file``.
            DataError: see :func:`.read_annotations`.
        """
        if self._content is None:
            if self.ann_file is None:
                raise ConfigError("CocoInstanceMetric needs ann_file, since the dataset is no CocoInstances")
            self._content = self._usable(open_annotations(self.ann_file, self.bad_annotations))
        return self._content

    def _usable(self, content: CocoAnnotations) -> CocoAnnotations:
        return content.with_masks() if "segm" in self.metrics else content

    @property
    def truth(self) -> COCO:
        """The true objects in pycocotools' form, with the number of their class as ``category_id``."""
        classes = tuple(self.dataset_meta["classes"])
        if self._truth is None or self._truth[0] != classes:
            number_of = {category: number for number, category in enumerate(self.content.category_ids(classes))}
            self._truth = classes, self.content.as_coco(number_of)
        return self._truth[1]

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
        self.cat_ids = self.content.category_ids(self.dataset_meta["classes"])
        wanted = self.metrics
        kinds = [] if self.format_only else [kind for kind in wanted if kind in ("bbox", "segm")]
        self.metrics = [kind for kind in wanted if kind not in kinds]
        others = {}
        if self.metrics or self.outfile_prefix:
            self._coco_api = self.content.as_coco({number: number for number in self.cat_ids})
            others = super().compute_metrics(results)
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
        objects = [item for prediction in predictions for item in objects_of(prediction, self._numbers)]
        if not objects:
            return {"mAP": 0.0}, {"AP": [0.0 if count else np.nan for count in self._counts()]}
        if kind == "segm":
            # COCO would take the area of the box for that of the mask.
            objects = [{key: value for key, value in item.items() if key != "bbox"} for item in objects]
        said = io.StringIO()
        with contextlib.redirect_stdout(said):  # pycocotools prints
            evaluation = (COCOevalMP if self.use_mp_eval else COCOeval)(self.truth, self.truth.loadRes(objects), kind)
            evaluation.params.catIds = self._numbers
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
        ece = self._calibration(evaluation)
        return figures if ece is None else figures | {"ece": ece}, of_class

    def _calibration(self, evaluation: COCOeval) -> float | None:
        """The calibration error of the scores at an overlap of 0.5; None if there is nothing to compute it from."""
        from torchmetrics.functional.classification import binary_calibration_error  # here, because it takes seconds

        place = _place_of(0.5, self.iou_thrs)
        scores, right = [np.zeros(0)], [np.zeros(0, dtype=bool)]
        for found in evaluation.evalImgs if place is not None else ():  # of a class, a range of sizes and an image
            if found is None or list(found["aRng"]) != list(evaluation.params.areaRng[0]):
                continue
            own = np.asarray(found["dtScores"])
            kept = (own >= self.min_score) & ~np.asarray(found["dtIgnore"], dtype=bool)[place]
            scores.append(own[kept])
            right.append(np.asarray(found["dtMatches"])[place][kept] > 0)
        sure, matched = torch.from_numpy(np.concatenate(scores)), torch.from_numpy(np.concatenate(right))
        if not len(sure):
            return None
        return round(float(binary_calibration_error(sure.clamp(0, 1), matched.long(), self.bins)), 3)

    def _of_classes(self, evaluation: COCOeval) -> dict[str, list[float]]:
        """AP and AR of every class, over objects of all sizes and with the most predictions for an image."""
        # [threshold, recall, class, size, limit]; -1 where a class has no objects
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        recall = evaluation.eval["recall"][:, :, 0, -1]
        found = {"AP": precision}
        for name, overlap in (("AP50", 0.5), ("AP75", 0.75)):
            place = _place_of(overlap, self.iou_thrs)
            if place is not None:
                found[name] = precision[[place]]
        columns = {name: [_mean(values[..., c]) for c in range(values.shape[2])] for name, values in found.items()}
        return columns | {"AR": [_mean(recall[:, c]) for c in range(recall.shape[1])]}

    def _report(self, columns: Mapping[str, Sequence[float]], predictions: Sequence[dict]) -> ClassReport:
        confusion = np.zeros((len(self._numbers) + 1,) * 2, dtype=np.int64)
        for prediction in predictions:
            own = self.truth.loadAnns(self.truth.getAnnIds(imgIds=[prediction["img_id"]]))
            boxes = np.array([annotation["bbox"] for annotation in own], dtype=float).reshape(-1, 4)
            labels = [annotation["category_id"] for annotation in own]
            true = Objects(labels, boxes, [bool(annotation["iscrowd"]) for annotation in own])
            kept = [item for item in objects_of(prediction, self._numbers) if item["score"] >= self.min_score]
            found = Objects(
                [item["category_id"] for item in kept],
                np.array([item["bbox"] for item in kept], dtype=float).reshape(-1, 4),
                [item["score"] for item in kept],
            )
            count_pairs(confusion, true, found)
        figures = {name: values[:-1] / 100 for name, values in figures_of(confusion).items() if name != "iou"}
        return ClassReport(self._names, {**columns, **figures}, confusion, background=True)

    def _counts(self) -> list[float]:
        """Number of the objects of every class in the images with predictions, without crowds."""
        get = self.truth.getAnnIds
        return [len(get(imgIds=self.img_ids, catIds=[number], iscrowd=False)) for number in self._numbers]

    @property
    def _numbers(self) -> range:
        return range(len(self.dataset_meta["classes"]))

    @property
    def _names(self) -> list[str]:
        return list(self.dataset_meta["classes"])


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


def _place_of(overlap: float, thresholds: Sequence[float]) -> int | None:
    """Index of an overlap among those that are evaluated; None if it is not among them."""
    places = np.flatnonzero(np.isclose(thresholds, overlap))
    return int(places[0]) if len(places) else None


def _mean(values: np.ndarray) -> float:
    """Mean of the values that COCO has not marked as missing; NaN if all are."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")
