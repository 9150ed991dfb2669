"""What a classifier gets right, over all images and in every class."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from torch import Tensor

from ssm_core.errors import ConfigError
from ssm_train.registry import METRICS
from ssm_train.runtime.class_report import ClassReport, figures_of


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Top-k accuracy, precision, recall, F1 and calibration of a classifier, in percent.

    ``top1``, ``top5`` … are shares of the images. ``precision``, ``recall`` and ``f1`` are means over the classes, each
    of which counts the same; a class that was never right has 0, and one with neither images nor predictions is left
    out. ``ece`` is the expected calibration error: the mean distance between the probability of the predicted class and
    the accuracy, over bins of that probability. The report of :class:`.ClassReportHook` has the number of images,
    precision, recall (which is the accuracy within the class) and F1 of every class, and the confusion matrix.

    Among equal scores, the class with the lower number comes first. An image whose scores are not finite counts as
    wrong in ``top1`` …, and is not in the other figures.

    Args:
        topk: values of k.
        bins: number of equal bins of the probability for ``ece``.
        prefix: comes before the names of the figures, with a slash between. Metrics in one list need different ones.
    """

    default_prefix = ""
    has_fixed_names = True
    report: ClassReport | None = None

    def __init__(self, topk: Sequence[int] = (1, 5), bins: int = 15, prefix: str | None = None):
        # "gpu" gathers by the process group, on any device. "cpu" would gather by files.
        super().__init__(collect_device="gpu", prefix=prefix)
        if bins < 1:
            raise ConfigError(f"Accuracy needs at least one bin, not {bins}")
        self.topk = tuple(topk)
        self.bins = bins

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the rank of the true class, label, prediction, its probability and the number of classes."""
        scores = torch.stack([sample["scores"] for sample in data_samples])
        label = torch.stack([torch.as_tensor(sample["label"]) for sample in data_samples]).to(scores.device)
        if label.ndim > 1:
            raise ConfigError("Accuracy is for images of one class: for several, take the metric MultiLabelMetric")
        predicted = scores.argmax(1)  # the first of equal ones, as in the rank
        confidence = torch.stack([sample["probabilities"] for sample in data_samples]).max(1).values
        classes = torch.full_like(label, scores.shape[1])
        columns = rank_of_label(scores, label), label, predicted, confidence.clamp(max=1), classes
        # One copy from the device. Whole numbers up to 2^53 are exact in float64.
        self.results += torch.stack([column.double() for column in columns], dim=1).tolist()

    def compute_metrics(self, results: list[list[float]]) -> dict[str, float]:
        """Compute the figures over the whole dataset."""
        from torchmetrics.functional import classification as known  # here, because it takes seconds

        rows = torch.tensor(results, dtype=torch.float64).reshape(-1, 5)
        metrics = {f"top{k}": 100 * float((rows[:, 0] < k).double().sum()) / max(len(rows), 1) for k in self.topk}
        finite = rows[rows[:, 0] < rows[:, 4]]
        if len(finite) < len(rows):
            MMLogger.get_current_instance().warning(
                f"the scores of {len(rows) - len(finite)} of {len(rows)} images are not finite: they count as wrong"
            )
        if not len(finite):
            return metrics
        label, predicted, confidence = finite[:, 1].long(), finite[:, 2].long(), finite[:, 3].contiguous()
        count = int(rows[0, 4])
        options = {"num_classes": count, "validate_args": False}
        means = {
            "precision": known.multiclass_precision(predicted, label, average="macro", **options),
            "recall": known.multiclass_recall(predicted, label, average="macro", **options),
            "f1": known.multiclass_f1_score(predicted, label, average="macro", **options),
            # Of the predicted class, it is the calibration of the question whether that class is right.
            "ece": known.binary_calibration_error(confidence, (predicted == label).long(), self.bins),
        }
        confusion = known.multiclass_confusion_matrix(predicted, label, **options).numpy()
        self.report = report_of(confusion, class_names(self.dataset_meta, count))
        return metrics | {name: 100 * float(value) for name, value in means.items()}


@METRICS.register_module()
class MultiLabelMetric(BaseMetric):
    """Average precision, F1, precision and recall of a classifier whose images can have several classes, in percent.

    ``mAP`` is the mean over the classes of the area under the curve of precision over recall. ``precision``, ``recall``
    and ``f1`` are means over the classes, and ``micro_f1`` is over all answers at once; an answer is yes from
    ``threshold`` on. Classes without images are left out of the means. The report of :class:`.ClassReportHook` has the
    number of images, AP, precision, recall and F1 of every class. Scores that are not finite count as a probability
    of 0.

    Args:
        threshold: lowest probability of a yes.
        prefix: as for :class:`Accuracy`.
    """

    default_prefix = ""
    has_fixed_names = True
    report: ClassReport | None = None

    def __init__(self, threshold: float = 0.5, prefix: str | None = None):
        super().__init__(collect_device="gpu", prefix=prefix)
        if not 0 < threshold < 1:
            raise ConfigError(f"a threshold of probabilities is between 0 and 1, not {threshold}")
        self.threshold = threshold

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store probabilities and labels of every image of a batch."""
        scores, labels = (torch.stack([sample[key] for sample in data_samples]) for key in ("probabilities", "label"))
        if scores.shape != labels.shape:
            raise ConfigError("MultiLabelMetric needs images of several classes, such as those of an ImageList")
        self.results += list(zip(scores.nan_to_num().cpu().numpy(), labels.cpu().numpy().astype(bool), strict=True))

    def compute_metrics(self, results: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """Compute the figures over the whole dataset."""
        from torchmetrics.functional import classification as known  # here, because it takes seconds

        if not results:
            return {}
        scores, labels = (torch.from_numpy(np.stack(column)) for column in zip(*results, strict=True))
        count = labels.shape[1]
        images = labels.sum(0)
        seen, missing = images > 0, images == 0
        ap = torch.zeros(count)
        if seen.any():
            ap[seen] = known.multilabel_average_precision(
                scores[:, seen], labels[:, seen].long(), int(seen.sum()), average=None
            ).float()
        options = {"num_labels": count, "threshold": self.threshold, "average": None}
        columns = {
            "ap": ap,
            "precision": known.multilabel_precision(scores, labels, **options),
            "recall": known.multilabel_recall(scores, labels, **options),
            "f1": known.multilabel_f1_score(scores, labels, **options),
        }
        columns = {name: 100 * values.masked_fill(missing, torch.nan) for name, values in columns.items()}
        names = class_names(self.dataset_meta, count)
        listed = {name: values.tolist() for name, values in columns.items()}
        self.report = ClassReport(names, {"images": images.tolist(), **listed})
        means = {name: float(values.nanmean()) for name, values in columns.items()}
        answers = known.multilabel_f1_score(scores, labels, **{**options, "average": "micro"})
        return {"mAP": means.pop("ap"), **means, "micro_f1": 100 * float(answers)}


def report_of(confusion: np.ndarray, classes: Sequence[str]) -> ClassReport:
    """The figures of every class by a confusion matrix.

    Args:
        confusion: [N, N] number of images by true class (row) and predicted class (column).
        classes: names of the classes.
    """
    found = figures_of(confusion)
    columns = {"images": confusion.sum(axis=1).tolist()}
    columns |= {name: found[name].tolist() for name in ("precision", "recall", "f1")}
    return ClassReport(classes, columns, confusion)


def class_names(dataset_meta: dict | None, count: int) -> list[str]:
    """Names of the classes, or their numbers where the data have other ones."""
    known = list((dataset_meta or {}).get("classes") or ())
    return known if len(known) == count else [str(number) for number in range(count)]


def rank_of_label(
    scores: Tensor,  # [B, classes]
    label: Tensor,  # [B]
) -> Tensor:  # [B]
    """Rank of the true class: the number of classes before it, or of all classes if a score is not finite."""
    own = scores.gather(1, label[:, None])
    number = torch.arange(scores.shape[1], device=scores.device)
    before = (scores > own) | ((scores == own) & (number < label[:, None]))
    return before.sum(1).masked_fill(~scores.isfinite().all(1), scores.shape[1])
