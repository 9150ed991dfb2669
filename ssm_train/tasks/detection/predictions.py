"""A detector's predictions for a test set as a file."""

import json
from collections.abc import Sequence

from mmdet.structures.mask import encode_mask_results
from torch import Tensor

from ssm_train.runtime.files import write_text_atomically
from ssm_train.tasks.detection.metric import objects_of
from ssm_train.tasks.predictions import PredictionWriter


class CocoResultWriter(PredictionWriter):
    """Writes all objects in the form of COCO's results, which ``COCO.loadRes`` of pycocotools reads.

    An object has ``image_id``, ``category_id``, ``bbox`` (left, top, width, height), ``score`` and, if the model has
    masks, ``segmentation`` in run lengths. The ids are those of the annotation file.

    Args:
        out: a file ``.json``.
    """

    suffixes = (".json",)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the objects of every image."""
        for sample in data_samples:
            found = sample["pred_instances"]
            prediction = {key: found[key].cpu().numpy() for key in ("bboxes", "scores", "labels")}
            prediction["img_id"] = sample["img_id"]
            if "masks" in found:
                prediction["masks"] = run_lengths_of(found["masks"])
            self.results.append(objects_of(prediction, self.dataset.cat_ids))

    def write(self, results: list[list[dict]]) -> None:
        """Write the objects of all images as one list."""
        write_text_atomically(self.out, json.dumps([item for objects in results for item in objects]))


def run_lengths_of(
    masks: Tensor | list[dict],  # [N, H, W] bool
) -> list[dict]:
    """Run lengths of masks. Those of tiles and of some heads have them already."""
    return masks if isinstance(masks, list) else encode_mask_results(masks.cpu().numpy())
