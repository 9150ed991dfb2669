"""Classification accuracy."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from torch import Tensor

from ssm_train.registry import METRICS


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Top-k accuracy in percent, as ``top1``, ``top5`` …

    Images that could not be read are left out and counted. Among equal scores, the class with the lower number comes
    first. A sample counts as wrong if its scores are not finite.

    Args:
        topk: values of k.
    """

    default_prefix = ""

    def __init__(self, topk: Sequence[int] = (1, 5)):
        # "gpu" gathers by the process group, on any device. "cpu" would gather by files.
        super().__init__(collect_device="gpu")
        self.topk = tuple(topk)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the rank of the true class of every sample of a batch, or None if the image was unreadable."""
        scores = torch.stack([sample["scores"] for sample in data_samples])
        label = torch.stack([torch.as_tensor(sample["label"]) for sample in data_samples])
        ranks = rank_of_label(scores, label.to(scores.device)).tolist()
        rows = zip(ranks, data_samples, strict=True)
        self.results += [None if sample["unreadable"] else rank for rank, sample in rows]

    def compute_metrics(self, results: list[int | None]) -> dict[str, float]:
        """Accuracies over the whole dataset."""
        ranks = [rank for rank in results if rank is not None]
        if len(ranks) < len(results):
            MMLogger.get_current_instance().warning(
                f"{len(results) - len(ranks)} of {len(results)} images could not be read and are not in the accuracy"
            )
        return {f"top{k}": 100 * sum(rank < k for rank in ranks) / max(len(ranks), 1) for k in self.topk}


def rank_of_label(
    scores: Tensor,  # [B, classes]
    label: Tensor,  # [B]
) -> Tensor:  # [B]
    """Rank of the true class: the number of classes before it, or of all classes if a score is not finite."""
    own = scores.gather(1, label[:, None])
    number = torch.arange(scores.shape[1], device=scores.device)
    before = (scores > own) | ((scores == own) & (number < label[:, None]))
    return before.sum(1).masked_fill(~scores.isfinite().all(1), scores.shape[1])
