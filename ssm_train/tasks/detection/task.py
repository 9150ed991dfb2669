"""Detection and instance segmentation as a task."""

from pathlib import Path
from typing import Any, ClassVar

from mmdet.structures.mask import encode_mask_results
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ssm_train.tasks.base import Labels, Size
from ssm_train.tasks.detection.metric import as_text
from ssm_train.tasks.detection.predictions import CocoResultWriter
from ssm_train.tasks.pipelines import PipelineTask

# Numbers of boxes and of masks. mmdet assumes the same when it counts the operations of a two-stage detector.
PROPOSALS, MASKS = 1000, 100
_COCO_SCALE, _COCO_SIZE = (800, 1333), (800, 1280)


class Detection(PipelineTask):
    """Finds objects in an image: their boxes, and their masks if the model has a head for masks."""

    drawing: ClassVar[dict[str, Any]] = {"pred_score_thr": 0.0}  # `select` has dropped what is unsure

    without_classes: ClassVar[tuple[str, ...]] = ("backbone", "rpn_head")  # region proposals have no classes

    def default_size(self) -> Size:
        """Height and width. COCO's test images have at most 800 × 1333, but cost is usually reported for 800 × 1280."""
        size = super().default_size()
        return _COCO_SIZE if size == _COCO_SCALE else size

    def measure(
        self,
        model: nn.Module,
        inputs: Tensor,  # [B, C, H, W]
    ) -> None:
        """Run the backbone, the neck and every head of a two-stage detector on a fixed number of boxes."""
        if not hasattr(model, "roi_head"):
            super().measure(model, inputs)
            return
        maps = model.extract_feat(inputs)
        model.rpn_head(maps)
        heads = model.roi_head
        # A box decides which level its features are taken from, but the size of the features is always the same.
        for extractor, head, count in (
            (heads.bbox_roi_extractor, heads.bbox_head, PROPOSALS),
            (heads.mask_roi_extractor, heads.mask_head, MASKS),
        ):
            stages = zip(extractor, head, strict=True) if isinstance(head, nn.ModuleList) else ((extractor, head),)
            for stage_extractor, stage_head in stages:
                size = stage_extractor.roi_layers[0].output_size
                stage_head(inputs.new_zeros(count * len(inputs), stage_extractor.out_channels, *size))

    def select(self, prediction: BaseDataElement, min_score: float) -> BaseDataElement:
        """Drop the objects whose score is below ``min_score``."""
        found = prediction.pred_instances
        prediction.pred_instances = found[found.scores >= min_score]
        return prediction

    def as_arrays(self, prediction: BaseDataElement, labels: Labels) -> dict[str, Any]:
        """Boxes, scores, classes and masks of the objects, see :meth:`.ImageTask.as_arrays`."""
        found = prediction.pred_instances
        numbers = found.labels.cpu().numpy()
        arrays: dict[str, Any] = {
            "boxes": found.bboxes.float().cpu().numpy(),
            "scores": found.scores.float().cpu().numpy(),
            "labels": numbers,
            "names": [labels.name(number) for number in numbers.tolist()],
        }
        if "masks" in found:
            arrays["masks"] = found.masks.cpu().numpy()
        return arrays

    def as_data(self, prediction: BaseDataElement, labels: Labels) -> dict[str, Any]:
        """Class, score, box (left, top, right, bottom in pixels) and the run lengths of a mask of every object."""
        found = prediction.pred_instances
        names = [labels.name(i) for i in found.labels.tolist()]
        boxes = [[round(value, 2) for value in box] for box in found.bboxes.tolist()]
        scores = [round(score, 5) for score in found.scores.tolist()]
        columns = zip(names, scores, boxes, strict=True)
        objects = [{"class": name, "score": score, "box": box} for name, score, box in columns]
        if "masks" in found:
            for item, mask in zip(objects, encode_mask_results(found.masks.cpu().numpy()), strict=True):
                item["mask"] = as_text(mask)
        return {"objects": objects}

    def prediction_writer(self, out: Path) -> CocoResultWriter:
        """Write objects in the form of COCO's results, see :meth:`.Task.prediction_writer`."""
        return CocoResultWriter(out)

    def drawable(self, annotated: BaseDataElement) -> BaseDataElement:
        """Convert boxes and masks to plain arrays, because mmdet's visualizer draws nothing else."""
        if "gt_instances" in annotated:
            objects = annotated.gt_instances
            objects.bboxes = getattr(objects.bboxes, "tensor", objects.bboxes)
            if "masks" in objects:
                objects.masks = objects.masks.to_ndarray()
        return annotated
